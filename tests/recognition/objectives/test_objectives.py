"""What every objective promises, over the registry's names."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from recognition.objectives import OBJECTIVES
from tests.launch import run_groups
from tests.recognition.objectives.contexts import (
    EMBEDDING_SIZE,
    LABELS,
    Network,
    batch_of,
    duplicates,
    make,
    present,
    rows_of,
)

NAMES = OBJECTIVES.names()
FORMS = {name: (name, {}) for name in NAMES} | {  # other ways to compute
    "triplet, semi_hard": ("triplet", {"mining": "semi_hard"}),
    "octuplet, squared": ("octuplet", {"distance": "squared", "legacy_anchors": True}),
    "octuplet, cosine": ("octuplet", {"distance": "cosine", "quadrants": ["lr_hr"]}),
    "supcon, twins": ("supcon", {"twins": True}),
    "cross_resolution_distance, both move": ("cross_resolution_distance", {"stop_gradient": False}),
    "distill, both": ("distill", {"of": "both", "relational": 1.0}),
    "distill, twin": ("distill", {"of": "twin", "cosine": 0.0, "relational": 1.0}),
}
SPLITS = {1: [9], 2: [7, 2], 3: [5, 3, 1]}  # rows of each process


def make_form(form: str) -> nn.Module:
    name, arguments = FORMS[form]
    return make(name, **arguments)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [*LABELS, "duplicates", "zero"])
def test_value_and_gradient_are_finite_and_the_gradient_is_connected(form: str, kind: str) -> None:
    objective, network = make_form(form), Network(seed=0)
    batch = batch_of(LABELS.get(kind, LABELS["mixed"]))
    if kind == "duplicates":
        batch = duplicates(batch)
    if kind == "zero":
        network.weight.data.zero_()
    for _ in range(2):  # statistics have begun the second time
        case = present(objective, batch, network)
        value = case.call(objective)
        assert value.shape == () and value.dtype == torch.float32 and value.isfinite()
        assert value >= 0
        value.backward()
        assert case.embedding.grad is not None, "the value does not depend on the embeddings"
        learned = [p.grad for p in objective.parameters() if p.requires_grad]
        assert all(gradient is not None for gradient in learned), "a parameter that no batch of this kind reaches"
        for gradient in (case.embedding.grad, case.local.grad, network.weight.grad, *learned):
            assert gradient.isfinite().all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("side", [16, 112])
def test_a_gradient_reaches_the_network(form: str, side: int) -> None:
    objective, network = make_form(form), Network(seed=0)
    case = present(objective, batch_of(LABELS["mixed"], side), network)
    value = case.call(objective)
    value.backward()
    assert value > 0 and case.local.grad.any() and network.weight.grad.any()


@pytest.mark.parametrize("form", FORMS)
def test_autocast_around_it_changes_no_more_than_a_layers_rounding(form: str) -> None:
    objective, network = make_form(form), Network(seed=0)
    batch = batch_of(LABELS["mixed"])
    plain = present(objective, batch, network).call(copy.deepcopy(objective))
    case = present(objective, batch, network)
    with torch.autocast("cpu", torch.bfloat16):
        value = case.call(objective)
    assert value.dtype == torch.float32
    value.backward()
    assert case.local.grad.isfinite().all()
    torch.testing.assert_close(value, plain, rtol=0.02, atol=1e-3)


@pytest.mark.parametrize("form", FORMS)
def test_a_second_call_gives_the_same_unless_statistics_moved(form: str) -> None:
    objective, network = make_form(form), Network(seed=0)
    batch = batch_of(LABELS["mixed"])
    first = present(objective, batch, network).call(objective).detach()
    if not [*objective.buffers()]:
        assert torch.equal(present(objective, batch, network).call(objective), first)
    objective.eval()
    before = copy.deepcopy(objective.state_dict())
    one, other = (present(objective, batch, network).call(objective) for _ in range(2))
    assert torch.equal(one, other)
    torch.testing.assert_close(objective.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_left_alone(name: str) -> None:
    objective = make(name)
    case = present(objective, batch_of(LABELS["mixed"]), Network(seed=0))
    given = {"embedding": case.embedding, "label": case.label, **case.context.views}
    given |= {f"batch.{f}": getattr(case.context.batch, f) for f in ("image", "twin", "level", "landmarks", "key")}
    before = {what: tensor.detach().clone() for what, tensor in given.items()}
    case.call(objective).backward()
    for what, tensor in given.items():
        assert torch.equal(tensor, before[what]), what


@pytest.mark.parametrize("name", NAMES)
def test_declarations(name: str) -> None:
    """Fields that a batch has, views of the images' shape, and a base that stays out of the checkpoint."""
    objective = make(name)
    assert {*getattr(objective, "fields", ())} <= {"twin", "level", "landmarks"}
    batch = batch_of(LABELS["mixed"])
    for view, image in (objective.views(batch) if hasattr(objective, "views") else {}).items():
        assert image.shape == batch.image.shape and image.dtype == torch.float32, view
        assert view != "twin" or image is batch.twin
    base = Network(seed=1)
    if hasattr(objective, "bind"):
        assert not any(value.shape == base.weight.shape for value in objective.state_dict().values())
        assert base not in [*objective.modules()]


@pytest.mark.parametrize("name", NAMES)
def test_a_field_that_it_asks_for_and_does_not_find_is_named(name: str) -> None:
    objective = make(name)
    case = present(objective, batch_of(LABELS["mixed"]), Network(seed=0))
    for field in getattr(objective, "fields", ()):
        batch = batch_of(LABELS["mixed"])
        setattr(batch, field, None)
        case.context.batch = batch
        with pytest.raises(RuntimeError, match=rf"objective '{name}'.*batch\.{field}"):
            if hasattr(objective, "views"):
                objective.views(batch)
            case.call(objective)


def measure(rank: int, size: int) -> dict[str, dict[str, Tensor | list[Tensor]]]:
    """Value, gradients and statistics of every objective on this process's share of one and the same batch."""
    found, counts = {}, SPLITS[size]
    begin = sum(counts[:rank])
    for form in FORMS:
        objective, network = make_form(form), Network(seed=0)
        batch = rows_of(batch_of(LABELS["mixed"]), begin, begin + counts[rank])
        case = present(objective, batch, network, counts)
        value = case.call(objective)
        value.backward()
        found[form] = {
            "value": value.detach(),
            "rows": case.local.grad[: counts[rank]] / size,  # gather gives size times the true one, see there
            "learned": [p.grad for p in (*network.parameters(), *objective.parameters()) if p.requires_grad],
            "statistics": [*objective.buffers()],
        }
    return found


def test_one_and_two_and_three_processes_agree() -> None:
    """Ragged rows. What DDP would average is averaged here: gradients of network and objective."""
    found = run_groups([*SPLITS], measure)
    for form in FORMS:
        (alone,) = (process[form] for process in found[1])
        for size, processes in found.items():
            parts = [process[form] for process in processes]
            for part in parts:
                assert torch.equal(part["value"], parts[0]["value"]), f"{form}: another value on another of {size}"
                torch.testing.assert_close(part["value"], alone["value"], rtol=1e-5, atol=1e-6)
                torch.testing.assert_close(part["statistics"], alone["statistics"], rtol=1e-5, atol=1e-6)
            _same(f"{form}, rows, {size}", torch.cat([part["rows"] for part in parts]), alone["rows"])
            for i, wanted in enumerate(alone["learned"]):
                mean = torch.stack([part["learned"][i] for part in parts]).mean(0)
                _same(f"{form}, parameter {i}, {size}", mean, wanted)


def _same(what: str, got: Tensor, wanted: Tensor) -> None:
    assert got.shape == wanted.shape, what
    error = (got - wanted).abs().max() / wanted.abs().max().clamp_min(1e-12)
    assert error < 1e-4, f"{what}: relative error {error:.1e}"


def test_the_tiny_network_is_what_the_cases_say() -> None:
    """The contract tests look at something: no two embeddings agree, views are others, labels have pairs and not."""
    case = present(make("octuplet"), batch_of(LABELS["mixed"]), Network(seed=0))
    apart = torch.cdist(case.embedding, case.embedding).fill_diagonal_(1.0)
    assert case.embedding.shape == (9, EMBEDDING_SIZE) and apart.min() > 0.05
    moved = (case.embedding - case.context.views["twin"]).norm(dim=1)
    assert (moved[::2] > 0.05).all() and not moved[1::2].any()
