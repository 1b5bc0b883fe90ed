"""The classifier on 1 to 4 processes, against published figures and one float64 softmax over all classes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recognition import distributed
from recognition.margins import MARGINS
from recognition.partial_fc import LabelError, PartialFC, class_range, draw_centres
from recognition.types import MarginContext
from tests.conftest import ORACLES
from tests.launch import run_groups

WORLDS = (1, 2, 3, 4)
D = 8  # embedding size of all cases but the oracles
STEPS = 4
ORACLE_MARGINS = {"arcface": 0.0, "cosface": 0.0, "arcface_filter": 0.4}
SOFTMAX_CASES = [(classes, batch) for classes in (25, 5) for batch in (7, 3)]
REFERENCED = ("arcface", "cosface")
OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.05}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.5}),
}


class Binary(nn.Module):
    """A margin that owns everything a margin may own: a parameter, its reduction, an extra term with norm and score."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(0.3))
        self.frozen = nn.Parameter(torch.tensor(2.0), requires_grad=False)

    def forward(self, cosine: Tensor, label: Tensor, context: MarginContext) -> Tensor:
        return 4 * cosine + self.bias * context.norm

    def reduce(self, logits: Tensor, label: Tensor, context: MarginContext) -> Tensor:
        sign = torch.ones_like(logits)
        rows = (label >= 0).nonzero().squeeze(1)
        sign[rows, label[rows]] = -1.0
        return distributed.all_reduce_sum(F.softplus(sign * logits).sum(1)).square()

    def extra(self, context: MarginContext) -> Tensor:
        drawn = torch.rand(len(context.norm), generator=context.generator).to(context.norm)
        return (context.norm.squeeze(1) * context.score * drawn).mean() * self.bias.exp()


def batch_of(classes: int, batch: int, step: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(100 * classes + 10 * batch + step)
    embedding = torch.randn(batch, D, generator=draw)
    return embedding, torch.randint(0, classes, (batch,), generator=draw), torch.rand(batch, generator=draw)


def counts_of(batch: int, size: int) -> list[int]:
    """Shares that differ by one."""
    return [len(range(rank, batch, size)) for rank in range(size)]


def share(rows: Tensor, counts: list[int], rank: int) -> Tensor:
    return rows[sum(counts[:rank]) : sum(counts[: rank + 1])]


def run_case(rank: int, size: int, classifier: PartialFC, batch: tuple[Tensor, Tensor, Tensor], step: int = 0) -> dict:
    counts = counts_of(len(batch[0]), size)
    embedding, label, score = (share(part, counts, rank) for part in batch)
    embedding = embedding.clone().requires_grad_()
    loss = classifier(embedding, label, score=score, gate=score, measured=score, counts=counts, step=step)
    loss.backward()
    return {"loss": loss.detach(), "embedding": embedding.grad, "weight": classifier.weight.grad}


def oracle(rank: int, size: int, name: str) -> dict:
    stored = np.load(ORACLES / f"pfc_{name}_ws{size}.npz")
    m1, m2, m3 = stored["margins"].tolist()
    margin = MARGINS.create("combined", m1=m1, m2=m2, m3=m3, scale=float(stored["scale"]), mode="arcface_torch")
    threshold = float(stored["interclass_filtering_threshold"])
    assert threshold == ORACLE_MARGINS[name]
    shape, theirs = reversed(stored["weight"].shape), {"filter_threshold": threshold, "filter_mode": "zero"}
    classifier = PartialFC(*shape, margin, **theirs)
    classifier.init_centres(torch.from_numpy(stored["weight"]))
    rows = slice(rank * int(stored["batch_per_rank"]), (rank + 1) * int(stored["batch_per_rank"]))
    embedding = torch.from_numpy(stored["embeddings"][rows]).requires_grad_()
    loss = classifier(embedding, torch.from_numpy(stored["labels"][rows]))
    loss.backward()
    return {
        "loss": loss.item(),
        "embedding": embedding.grad,
        "weight": classifier.weight.grad,
        "range": (classifier.class_start, len(classifier.weight)),
    }


def train_sampled(rank: int, size: int, classes: int, rate: float, name: str) -> list[dict]:
    """Steps with an optimizer bound, the last one of two micro-steps; what was sampled and what came of it."""
    kind, settings = OPTIMIZERS[name]
    classifier = PartialFC(D, classes, MARGINS.create("cosface", scale=16.0), sample_rate=rate, seed=4)
    optimizer = kind(classifier.parameters(), **settings)
    classifier.bind(optimizer)
    trace = []
    for step in range(STEPS):
        micro_steps = [step] if step < STEPS - 1 else [step, step + 50]
        sampled, losses = [], []
        for draw in micro_steps:
            losses.append(run_case(rank, size, classifier, batch_of(classes, 7, draw), step)["loss"])
            sampled.append(classifier.sampled_rows + classifier.class_start)
        optimizer.step()
        optimizer.zero_grad()
        state = {k: v.clone() for k, v in classifier.tensors(optimizer).items()}
        trace.append({"sampled": sampled, "losses": losses, "state": state})
    return trace


def label_errors(rank: int, size: int) -> dict:
    """Bad labels on the last process only; then a good step, which shows that nobody waits for anybody."""
    classifier = PartialFC(D, 25, MARGINS.create("arcface"))
    last, found = rank == size - 1, {}
    for name, bad in {
        "high": torch.tensor([3, 25, 24]),
        "low": torch.tensor([3, 4, -1]),
        "float": torch.tensor([1.0, 2.0, 3.0]),
    }.items():
        label = bad if last else torch.tensor([0, 1, 2])
        with pytest.raises(LabelError) as error:
            classifier(torch.ones(3, D), label, step=1)
        found[name] = str(error.value), error.value.rows
    found["good"] = classifier(torch.ones(3, D), torch.tensor([0, 1, 2])).item()
    return found


def everything(rank: int, size: int) -> dict:
    """All that the tests below look at, in one start of the processes."""
    found = {"labels": label_errors(rank, size), "matrix": PartialFC(D, 25, MARGINS.create("cosface"), seed=7).weight}
    found["matrix"] = found["matrix"].detach()
    if size <= 3:
        for name in ORACLE_MARGINS:
            found["oracle", name] = oracle(rank, size, name)
    for classes, batch in SOFTMAX_CASES:
        for name in MARGINS.names():
            classifier = PartialFC(D, classes, MARGINS.create(name), seed=3)
            found["softmax", classes, batch, name] = run_case(rank, size, classifier, batch_of(classes, batch))
    for classes in (25, 5):
        classifier = PartialFC(D, classes, Binary(), seed=3)
        found["own", classes] = run_case(rank, size, classifier, batch_of(classes, 7), step=6)
        found["own", classes]["bias"] = classifier.margin.bias.grad
        for name in OPTIMIZERS:
            found["sampled", classes, name] = train_sampled(rank, size, classes, 0.3, name)
    return found


@pytest.fixture(scope="module")
def results() -> dict[int, list[dict]]:
    """World size -> what each process found."""
    return {1: [everything(0, 1)], **run_groups(WORLDS[1:], everything)}


def reference(
    centres: Tensor, embedding: Tensor, label: Tensor, scale: float, target: float | str, threshold: float = 0.0
) -> Tensor:
    """Softmax cross-entropy per image, plain float64. target: CosFace's margin, or 'arcface': 0.5 straight through."""
    cosine = F.normalize(embedding) @ F.normalize(centres).T
    hot = F.one_hot(label, len(centres)).to(cosine)
    if threshold:
        cosine = cosine * ((cosine <= threshold) | hot.bool())
    shift = (cosine.detach().acos() + 0.5).cos() - cosine.detach() if target == "arcface" else -target
    return F.cross_entropy(scale * (cosine + hot * shift), label, reduction="none")


def close(got: Tensor, wanted: Tensor, relative: float = 1e-5) -> None:
    wanted = torch.as_tensor(wanted).to(torch.float64)
    torch.testing.assert_close(got.double(), wanted, rtol=0, atol=relative * max(1e-3, wanted.abs().max().item()))


@pytest.mark.parametrize("size", WORLDS[:3])
@pytest.mark.parametrize("name", ORACLE_MARGINS)
def test_the_published_figures(results, size, name):
    """The published program cuts an image's loss off at -ln(1e-30) = 69.08 where it prints it; ours is exact."""
    stored = np.load(ORACLES / f"pfc_{name}_ws{size}.npz")
    found = [r["oracle", name] for r in results[size]]
    assert [f["range"] for f in found] == list(zip(stored["class_start"], stored["num_local"], strict=True))
    close(torch.cat([f["embedding"] for f in found]), stored["grad_embeddings"])
    close(torch.cat([f["weight"] for f in found]), stored["grad_weight"])
    centres, embedding = (torch.from_numpy(stored[key]).double() for key in ("weight", "embeddings"))
    target = "arcface" if name.startswith("arcface") else 0.4
    losses = reference(centres, embedding, torch.from_numpy(stored["labels"]), 64.0, target, ORACLE_MARGINS[name])
    close(losses.clamp_max(-math.log(1e-30)).mean().expand(size), stored["loss"])
    close(torch.tensor([f["loss"] for f in found]), losses.mean().expand(size))


@pytest.mark.parametrize("size", WORLDS)
@pytest.mark.parametrize("name", REFERENCED)
@pytest.mark.parametrize(("classes", "batch"), SOFTMAX_CASES)
def test_one_softmax_in_float64(results, size, name, classes, batch):
    """Uneven and empty class ranges, shares that differ by one, fewer images than processes."""
    embedding, label, _ = batch_of(classes, batch)
    embedding = embedding.double().requires_grad_()
    centres = draw_centres(D, 0, classes, seed=3).double().requires_grad_()
    loss = reference(centres, embedding, label, 64.0, "arcface" if name == "arcface" else 0.4).mean()
    loss.backward()
    found = [r["softmax", classes, batch, name] for r in results[size]]
    for f in found:
        close(f["loss"], loss.detach())
    close(torch.cat([f["embedding"] for f in found]), size * embedding.grad)
    close(torch.cat([f["weight"] for f in found]), centres.grad)


@pytest.mark.parametrize("size", WORLDS[1:])
@pytest.mark.parametrize("name", MARGINS.names())
@pytest.mark.parametrize(("classes", "batch"), SOFTMAX_CASES)
def test_any_margin_is_the_same_on_any_number_of_processes(results, size, name, classes, batch):
    one = results[1][0]["softmax", classes, batch, name]
    found = [r["softmax", classes, batch, name] for r in results[size]]
    assert one["weight"].abs().max() > 0
    for f in found:
        close(f["loss"], one["loss"])
    close(torch.cat([f["embedding"] for f in found]), size * one["embedding"])
    close(torch.cat([f["weight"] for f in found]), one["weight"])


@pytest.mark.parametrize("size", WORLDS)
@pytest.mark.parametrize("classes", [25, 5])
def test_a_margin_may_own_its_reduction_a_parameter_a_draw_and_a_term(results, size, classes):
    embedding, label, score = batch_of(classes, 7)
    embedding = embedding.double().requires_grad_()
    centres = draw_centres(D, 0, classes, seed=3).double().requires_grad_()
    bias = torch.tensor(0.3, dtype=torch.float32).double().requires_grad_()
    draws = []  # the generator's draw is the margin's own business: find it by a margin that keeps it
    keeper = Binary()
    keeper.extra = lambda context: draws.append(torch.rand(7, generator=context.generator)) or context.norm.sum() * 0
    PartialFC(D, classes, keeper, seed=3)(*batch_of(classes, 7)[:2], score=score, step=6)

    norm = embedding.norm(dim=1, keepdim=True)
    logits = 4 * (embedding / norm) @ F.normalize(centres).T + bias * norm
    sign = 1 - 2 * F.one_hot(label, classes).double()
    extra = (norm.squeeze(1) * score.double() * draws[0].double()).mean() * bias.exp()
    loss = F.softplus(sign * logits).sum(1).square().mean() + extra
    loss.backward()
    found = [r["own", classes] for r in results[size]]
    for f in found:
        close(f["loss"], loss.detach())
        close(f["bias"], bias.grad)
    close(torch.cat([f["embedding"] for f in found]), size * embedding.grad)
    close(torch.cat([f["weight"] for f in found]), centres.grad)


def test_any_number_of_processes_starts_from_the_same_matrix(results):
    for size in WORLDS:
        assert torch.equal(torch.cat([r["matrix"] for r in results[size]]), results[1][0]["matrix"])


def test_class_ranges_are_those_of_torch_chunk():
    for classes in (1, 5, 23, 25, 100):
        for size in range(1, 9):
            chunks = [len(c) for c in torch.arange(classes).chunk(size)]
            ranges = [class_range(classes, size, rank) for rank in range(size)]
            assert [stop - start for start, stop in ranges] == chunks + [0] * (size - len(chunks))
            assert ranges[0][0] == 0 and all(a[1] == b[0] for a, b in itertools.pairwise(ranges))


def test_centres_depend_on_seed_and_class_only():
    whole = draw_centres(16, 0, 3000, seed=1)
    for start, stop in [(0, 1), (255, 257), (256, 512), (700, 2999), (2999, 3000), (40, 40)]:
        assert torch.equal(draw_centres(16, start, stop, seed=1), whole[start:stop])
    assert not torch.equal(whole[:5], draw_centres(16, 0, 5, seed=2))
    assert len(whole.unique(dim=0)) == 3000
    assert abs(whole.mean().item()) < 5 * 0.01 / math.sqrt(whole.numel())
    assert abs(whole.std().item() / 0.01 - 1) < 0.02


def simulate(found: list[list[dict]], classes: int, name: str) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """The same steps in float64 on one matrix, each step over its sampled classes only, by the update's formula."""
    settings = OPTIMIZERS[name][1]
    lr, decay = settings["lr"], settings["weight_decay"]
    weight = draw_centres(D, 0, classes, seed=4).double()
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    trace = []
    for step in range(STEPS):
        total, moved = torch.zeros_like(weight), set()
        for micro_step, draw in enumerate([step] if step < STEPS - 1 else [step, step + 50]):
            ids = torch.cat([process[step]["sampled"][micro_step] for process in found])
            embedding, label, _ = batch_of(classes, 7, draw)
            assert set(label.tolist()) <= set(ids.tolist())
            part = weight[ids].requires_grad_()
            loss = reference(part, embedding.double(), torch.searchsorted(ids, label), 16.0, 0.4).mean()
            for process in found:
                close(process[step]["losses"][micro_step], loss.detach())
            total[ids] += torch.autograd.grad(loss, part)[0]
            moved |= set(ids.tolist())
        ids = torch.tensor(sorted(moved))
        gradient = total[ids]
        if name == "sgd":
            first[ids] = 0.9 * first[ids] + gradient + decay * weight[ids]
            weight[ids] -= lr * first[ids]
            trace.append((weight.clone(), {"momentum_buffer": first.clone()}))
        else:
            first[ids] = 0.9 * first[ids] + 0.1 * gradient
            second[ids] = 0.999 * second[ids] + 0.001 * gradient**2
            unbiased = first[ids] / (1 - 0.9 ** (step + 1))
            spread = (second[ids] / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
            weight[ids] = weight[ids] * (1 - lr * decay) - lr * unbiased / spread
            trace.append((weight.clone(), {"exp_avg": first.clone(), "exp_avg_sq": second.clone()}))
    return trace


@pytest.mark.parametrize("size", WORLDS)
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("classes", [25, 5])
def test_sampled_steps_equal_a_reference_over_the_sampled_classes(results, size, name, classes):
    found = [r["sampled", classes, name] for r in results[size]]
    for step, (weight, state) in enumerate(simulate(found, classes, name)):
        close(torch.cat([f[step]["state"]["weight"] for f in found]), weight, 1e-4)
        for key, value in state.items():
            # a process whose classes were never sampled may hold no state yet: that is a state of zeros
            rows = [f[step]["state"].get(key, torch.zeros_like(f[step]["state"]["weight"])) for f in found]
            close(torch.cat(rows), value, 1e-4)


@pytest.mark.parametrize("size", WORLDS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_classes_that_were_not_sampled_rest_bit_for_bit(results, size, name):
    resting = 0
    for rank, process in enumerate(results[size]):
        trace, start = process["sampled", 25, name], class_range(25, size, rank)[0]
        for before, after in itertools.pairwise(trace):
            rest = torch.ones(len(after["state"]["weight"]), dtype=torch.bool)
            rest[torch.cat(after["sampled"]) - start] = False
            resting += rest.sum().item()
            for key, value in before["state"].items():
                assert torch.equal(after["state"][key][rest], value[rest])
                assert not torch.equal(after["state"][key][~rest], value[~rest]) or rest.all()
    assert resting > 10


@pytest.mark.parametrize("size", WORLDS)
def test_bad_labels_raise_on_all_processes_and_name_their_rows(results, size):
    for rank, result in enumerate(results[size]):
        last = rank == size - 1
        for name, rows, words in [
            ("high", [1], "label 25 in row 1"),
            ("low", [2], "label -1 in row 2"),
            ("float", [0, 1, 2], "a label that is not of an integer dtype in row 0"),
        ]:
            message, found = result["labels"][name]
            assert found == (rows if last else [])
            assert message.startswith(f"{words} of process {size - 1}, {len(rows)} bad of {3 * size}")
            assert "wanted integers 0 .. 24" in message
        assert math.isfinite(result["labels"]["good"])


def test_wrong_orders_of_calls_are_named():
    classifier = PartialFC(D, 40, MARGINS.create("cosface"), sample_rate=0.5)
    with pytest.raises(RuntimeError, match=r"sample_rate is 0.5: call classifier.bind\(optimizer\)"):
        classifier(*batch_of(40, 7)[:2])
    with pytest.raises(ValueError, match=r"does not hold classifier.weight: build it over classifier.parameters\(\)"):
        classifier.bind(torch.optim.SGD(nn.Linear(2, 2).parameters()))
    classifier.world_size = 2
    with pytest.raises(RuntimeError, match=r"built for 2 processes, now there are 1: build it after"):
        classifier(*batch_of(40, 7)[:2])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_classes": 0}, "a classifier of 0 classes x 8"),
        ({"sample_rate": 0.0}, r"classifier.sample_rate is 0.0; it must lie in \(0, 1\]"),
        ({"sample_rate": 30}, r"classifier.sample_rate is 30; it must lie in \(0, 1\]"),
        ({"filter_threshold": 1.5}, r"classifier.filter_threshold is 1.5; it must lie in \[0, 1\)"),
        ({"seed": -1}, "run.seed is -1; it must not be negative"),
        ({"hard_share": 1.5}, r"classifier.hard_share is 1.5; it must lie in \[0, 1\]"),
        ({"filter_mode": "drop"}, "classifier.filter_mode is 'drop'; it must be 'remove' or 'zero'"),
        ({"sampling": "hard"}, "classifier.sampling is 'hard'; it must be 'uniform' or 'hard_negatives'"),
        ({"state": "none"}, "classifier.state is 'none'; it must be 'all' or 'sampled'"),
        ({"precision": "fp16"}, "classifier.precision is 'fp16'; it must be 'fp32' or 'bf16'"),
    ],
)
def test_wrong_arguments_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        PartialFC(**{"embedding_size": 8, "num_classes": 9, "margin": MARGINS.create("cosface"), **arguments})


def test_wrong_shapes_and_centres_are_named():
    classifier = PartialFC(D, 9, MARGINS.create("cosface"))
    with pytest.raises(ValueError, match=r"embedding \(7, 3\) and label \(7,\); wanted \(n, 8\) and \(n,\)"):
        classifier(torch.ones(7, 3), torch.zeros(7, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"embedding \(7, 8\) and label \(6,\)"):
        classifier(torch.ones(7, D), torch.zeros(6, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"centres of shape \(3, 8\); wanted \(9, 8\)"):
        classifier.init_centres(torch.ones(3, D))
    centres = torch.ones(9, D)
    centres[4] = 0
    with pytest.raises(ValueError, match="centres of 1 classes are zero or not finite, the first is class 4"):
        classifier.init_centres(centres)
