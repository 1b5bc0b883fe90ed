"""Several adapters on one base: off again bit for bit, hot swap without recompilation, merge and unmerge, faults."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from adapters import ADAPTERS, Adapters, attach, hash_tensors, layers, read_folder, state, write_folder
from adapters._layers import LoRALinear
from recognition.gate import Gate
from recognition.types import Adapter
from tests.tiny import Scoped, Tiny, TinyViT

KINDS = (Tiny, TinyViT)
NAMES = ADAPTERS.names()


def base(kind: type[nn.Module] = Tiny) -> nn.Module:
    torch.manual_seed(1)
    return kind().eval()


def fitting(name: str) -> type[nn.Module]:
    """The first tiny backbone that the adapter takes."""
    for kind in KINDS:
        try:
            attach(kind(), ADAPTERS.create(name), Gate())
        except ValueError:
            continue
        return kind
    raise AssertionError(f"no tiny backbone takes {name}")


def trained(name: str, seed: int, kind: type[nn.Module] = Tiny, **options) -> tuple[Scoped, Adapter]:
    """A model of its own, moved away from the start."""
    backbone, gate = base(kind), Gate()
    adapter = ADAPTERS.create(name, **options)
    attach(backbone, adapter, gate)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.requires_grad:
                parameter += 0.2 * torch.randn_like(parameter)
    return Scoped(backbone.eval(), gate), adapter


def saved(folder: Path, name: str, seed: int = 2, kind: type[nn.Module] = Tiny, **options) -> Scoped:
    """A trained model whose adapter lies in `folder`."""
    model, _ = trained(name, seed, kind, **options)
    card = {"adapter": {"name": name, **options}, "base_tensors_sha256": hash_tensors(base(kind).state_dict())}
    write_folder(folder, state(model.backbone), card)
    return model


def draw() -> tuple[Tensor, Tensor]:
    torch.manual_seed(9)
    return torch.randn(8, 3, 16, 16), torch.linspace(0.1, 0.9, 8)


@pytest.mark.parametrize("name", NAMES)
def test_every_adapter_goes_to_work_and_off_again_bit_for_bit(name: str, tmp_path: Path) -> None:
    kind = fitting(name)
    options = {"width": 24} if name == "bottleneck" else {}  # of its three channels all may be dead
    alone, (x, value) = saved(tmp_path, name, kind=kind, **options), draw()
    backbone, gate = base(kind), Gate()
    model, before = Scoped(backbone, gate), {key: t.clone() for key, t in backbone.state_dict().items()}
    bank = Adapters(backbone, gate)
    at_rest = model(x, value)
    modules = [*backbone.modules()]
    bank.load("it", tmp_path)
    assert torch.equal(model(x, value), at_rest), "loading changes nothing"
    generator = torch.get_rng_state()
    bank.activate("it")
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.equal(model(x, value), alone(x, value)) and not torch.equal(model(x, value), at_rest)
    assert not any(parameter.requires_grad for parameter in backbone.parameters()) and bank.active == "it"
    bank.disable()
    assert torch.equal(model(x, value), at_rest) and bank.active is None
    assert all(one is two for one, two in zip(backbone.modules(), modules, strict=True)) and not [*layers(backbone)]
    after = backbone.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[key], before[key]) for key in before)
    bank.activate("it")
    assert torch.equal(model(x, value), alone(x, value))


def test_several_on_one_base_in_any_order(tmp_path: Path) -> None:
    makers = {
        "one": ("lora", 3, {"rank": 2}),
        "two": ("lora", 4, {"rank": 2}),
        "wide": ("lora", 5, {"rank": 5, "targets": ["**"]}),
        "gated": ("dual_lora", 6, {"rank": 2}),
        "norms": ("norms_only", 7, {}),
        "all": ("full", 8, {}),
    }
    (x, value), backbone, gate = draw(), base(), Gate()
    model, bank, wanted = Scoped(backbone, gate), Adapters(backbone, gate), {}
    for name, (adapter, seed, options) in makers.items():
        wanted[name] = saved(tmp_path / name, adapter, seed, **options)(x, value)
        bank.load(name, tmp_path / name)
    at_rest = model(x, value)
    assert bank.names() == list(makers)
    for name in ("one", "all", "two", "gated", "norms", "wide", "one", "norms", "all", "one"):
        bank.activate(name)
        assert torch.equal(model(x, value), wanted[name]), name
    bank.disable()
    assert torch.equal(model(x, value), at_rest)
    addresses = {key: tensor.data_ptr() for key, tensor in base_of(bank).items()}
    bank.activate("one")
    first = backbone.pointwise.lora_a.data_ptr()
    bank.activate("two")
    assert backbone.pointwise.lora_a.data_ptr() == first, "adapters of the same arguments share their layers"
    assert backbone.stem.weight.data_ptr() == addresses["stem.weight"], "the base lies in memory once"
    bank.delete("one")
    assert bank.names() == [name for name in makers if name != "one"]
    assert torch.equal(model(x, value), wanted["two"])
    with pytest.raises(ValueError, match=r"no adapter 'one' is loaded.*have: all, gated, norms, two, wide"):
        bank.activate("one")


def base_of(bank: Adapters) -> dict[str, Tensor]:
    return bank._base.state_dict()


def test_hot_swap_runs_on_without_recompilation(tmp_path: Path) -> None:
    (x, value), backbone, gate, graphs = draw(), base(), Gate(), []
    wanted = {name: saved(tmp_path / name, "dual_lora", seed, rank=2)(x, value) for seed, name in enumerate("abcd")}
    wanted["wide"] = saved(tmp_path / "wide", "dual_lora", 7, rank=3)(x, value)
    model, bank = Scoped(backbone, gate), Adapters(backbone, gate)
    wanted[None] = model(x, value)
    for name in (n for n in wanted if n):
        bank.load(name, tmp_path / name)

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]):
        graphs.append(graph)
        return graph.forward

    def check(name: str | None) -> int:
        if name is None:
            bank.disable()
        else:
            bank.activate(name)
        torch.testing.assert_close(compiled(x, value), wanted[name])
        return torch._dynamo.utils.counters["stats"]["unique_graphs"]

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(model, fullgraph=True, backend=count)
    assert check("a") == 1
    assert [check(name) for name in "bcdab"] == [1] * 5, "four adapters of one shape, one graph"
    assert check(None) == 2, "the base is a graph of its own"
    assert check("wide") <= 3, "and so is another rank"
    assert [check(name) for name in ("c", None, "wide", "d", "wide", None, "a")] == [len(graphs)] * 7
    assert len(graphs) == 3


def test_the_quality_gate_goes_with_its_adapter(tmp_path: Path) -> None:
    from iqa import QualityGate

    gates = {"low": QualityGate(0.2, 2.0), "high": QualityGate(0.8, 1.0)}
    card = {"base_tensors_sha256": hash_tensors(base().state_dict()), "scorer": {"name": "constant"}}
    for seed, (name, quality_gate) in enumerate(gates.items()):
        model, _ = trained("dual_lora", seed)
        card |= {"adapter": {"name": "dual_lora"}, "gate": {"midpoint": 0.2, "slope": 2.0, "shape": "linear"}}
        write_folder(
            tmp_path / name, state(model.backbone) | quality_gate.state_dict(prefix="quality_gate."), dict(card)
        )
    backbone, gate, own = base(), Gate(), QualityGate(0.5, 1.0)
    with pytest.raises(ValueError, match="brings a quality gate, and this model has none"):
        Adapters(backbone, gate).load("low", tmp_path / "low")
    bank = Adapters(backbone, gate, own)
    score = torch.tensor([0.1, 0.5, 0.9])
    for name in gates:
        bank.load(name, tmp_path / name)
    for name in ("low", "high", "low"):
        bank.activate(name)
        assert torch.equal(own(score), gates[name](score))
    write_folder(tmp_path / "other", read_tensors(tmp_path / "low"), {**card, "scorer": {"name": "sharpness"}})
    with pytest.raises(ValueError, match=r"the scorer {'name': 'sharpness'} and 'low' the scorer {'name': 'constant'}"):
        bank.load("other", tmp_path / "other")


def read_tensors(folder: Path) -> dict[str, Tensor]:
    found = read_folder(folder)
    return found.tensors | {f"quality_gate.{key}": tensor for key, tensor in found.gate.items()}


@pytest.mark.parametrize(
    ("name", "options", "gate_value"),
    [
        ("lora", {"targets": ["**"]}, None),
        ("dual_lora", {"head": True}, 0.3),
        ("norms_only", {}, None),
        ("full", {}, None),
    ],
)
def test_merge_and_unmerge(name: str, options: dict, gate_value: float | None, tmp_path: Path) -> None:
    saved(tmp_path, name, **options)
    (x, value), backbone, gate = draw(), base(), Gate()
    model, bank = Scoped(backbone, gate), Adapters(backbone, gate)
    at_rest = backbone(x)
    with pytest.raises(RuntimeError, match=r"no adapter is active"):
        bank.merge(gate_value)
    bank.load("it", tmp_path)
    bank.activate("it")
    before = model(x, value)
    at_gate = model(x, torch.full((8,), gate_value or 0.0))
    with pytest.raises(ValueError, match="gate_value"):
        bank.merge(0.5 if gate_value is None else None)
    assert not bank.merged and torch.equal(model(x, value), before)
    error = bank.merge(gate_value)
    assert bank.merged and 0 <= error < 1e-5
    assert not any(isinstance(module, LoRALinear) for module in backbone.modules())
    torch.testing.assert_close(backbone(x), at_gate, rtol=1e-4, atol=1e-5)
    with pytest.raises(RuntimeError, match="'it' is merged already"):
        bank.merge(gate_value)
    assert bank.unmerge() == 0 and not bank.merged
    assert torch.equal(model(x, value), before)
    with pytest.raises(RuntimeError, match=r"no adapter is merged"):
        bank.unmerge()
    bank.merge(gate_value)
    bank.disable()
    assert not bank.merged and torch.equal(backbone(x), at_rest)


def test_what_cannot_be_merged_says_so_and_stays(tmp_path: Path) -> None:
    kind = fitting("moe")
    alone, (x, value) = saved(tmp_path, "moe", kind=kind), draw()
    backbone, gate = base(kind), Gate()
    bank = Adapters(backbone, gate)
    bank.load("it", tmp_path)
    bank.activate("it")
    with pytest.raises(ValueError, match="a MoE adapter cannot be merged"):
        bank.merge()
    assert torch.equal(Scoped(backbone, gate)(x, value), alone(x, value))


def test_faults_are_refused_at_loading_and_leave_everything(tmp_path: Path) -> None:
    saved(tmp_path / "good", "lora")
    own = hash_tensors(base().state_dict())
    other = Tiny()
    model, _ = trained("lora", 3)
    tensors, wrong = state(model.backbone), hash_tensors(other.state_dict())
    first = next(iter(tensors))
    cards = {"adapter": {"name": "lora"}, "base_tensors_sha256": own}
    bank = Adapters(base(), Gate())
    bank.load("good", tmp_path / "good")
    cases = {
        "base": (tensors, {**cards, "base_tensors_sha256": wrong}, f"{wrong}, and this backbone's is {own}"),
        "missing": ({k: t for k, t in tensors.items() if k != first}, cards, f"'{first}' is missing"),
        "unexpected": ({**tensors, "stem.lora_a": tensors[first]}, cards, "'stem.lora_a' is not expected"),
        "rank": (tensors, {**cards, "adapter": {"name": "lora", "rank": 10**15}}, "has shape"),
        "target": (tensors, {**cards, "adapter": {"name": "lora", "targets": ["nose"]}}, "'nose' names no Linear"),
        "no_base": (tensors, {"adapter": {"name": "lora"}}, "does not tell which base"),
    }
    for name, (some, card, message) in cases.items():
        if name == "rank":
            card = {**card, "adapter": {"name": "lora", "rank": 8}}
        write_folder(tmp_path / name, some, card)
        if name == "rank":
            text = (tmp_path / name / "adapter.json").read_text().replace('"rank": 8', f'"rank": {10**12}')
            (tmp_path / name / "adapter.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            bank.load(name, tmp_path / name)
    with pytest.raises(ValueError, match=r"'good' is loaded already: delete\('good'\)"):
        bank.load("good", tmp_path / "good")
    assert bank.names() == ["good"]
    bank.load("no_base", tmp_path / "no_base", any_base=True)
    bank.activate("good")
    with pytest.raises(RuntimeError, match="'good' is at work"):
        bank.delete("good")


def test_a_folder_from_before_is_known_by_its_bases_file(tmp_path: Path) -> None:
    model, _ = trained("lora", 3)
    write_folder(tmp_path, state(model.backbone), {"adapter": {"name": "lora"}, "base_sha256": "a" * 64})
    with pytest.raises(ValueError, match=f"on SHA-256 {'a' * 64}, and this backbone's is {'b' * 64}"):
        Adapters(base(), Gate(), base_sha256="b" * 64).load("old", tmp_path)
    Adapters(base(), Gate(), base_sha256="a" * 64).load("old", tmp_path)


def test_a_backbone_with_an_adapter_or_moved_since_is_refused(tmp_path: Path) -> None:
    model, _ = trained("lora", 3)
    with pytest.raises(RuntimeError, match="carries a LoRA already"):
        Adapters(model.backbone, model.gate)
    saved(tmp_path, "lora")
    backbone = base()
    bank = Adapters(backbone, Gate())
    bank.load("it", tmp_path)
    bank.activate("it")
    backbone.to("meta")
    with pytest.raises(RuntimeError, match=r"moved to meta.*make Adapters after moving"):
        bank.disable()


def test_the_hash_of_tensors_knows_values_shapes_and_names_only() -> None:
    tensors = {"a.weight": torch.randn(4, 3), "a.num_batches_tracked": torch.tensor(3), "b": torch.zeros(2, 0)}
    found = hash_tensors(tensors)
    same = {"b": tensors["b"], "a.weight": tensors["a.weight"].double().t().contiguous().t()}
    assert hash_tensors(same) == found
    moved, renamed = copy.deepcopy(tensors), {**tensors, "c": tensors["b"]}
    moved["a.weight"][3, 2] += 1e-6
    del renamed["b"]
    reshaped = {**tensors, "a.weight": tensors["a.weight"].reshape(3, 4)}
    assert len({found, *(hash_tensors(other) for other in (moved, renamed, reshaped))}) == 4
