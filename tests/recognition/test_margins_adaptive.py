"""Margins that differ from image to image, or move while training: against plain float64, image by image."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recognition.margins import MARGINS
from recognition.partial_fc import PartialFC
from recognition.types import MarginContext

ORACLES = Path(__file__).parents[1] / "oracles"
# name of a case -> margin, arguments
CASES = {
    "adaface": ("adaface", {"momentum": 0.3}),
    "adaface of the batch": ("adaface", {"momentum": 1.0, "margin": 0.3, "concentration": 0.5}),
    "magface": ("magface", {}),
    "magface without easy_margin": ("magface", {"easy_margin": False, "lambda_g": 5.0}),
    "elasticface": ("elasticface", {}),
    "elasticface cos": ("elasticface", {"base": "cos", "deviation": 0.1}),
    "elasticface plus": ("elasticface", {"plus": True}),
    "elasticface cos legacy_plus": ("elasticface", {"base": "cos", "legacy_plus": True}),
    "curricularface": ("curricularface", {"momentum": 0.3}),
    "quality_margin": ("quality_margin", {}),
    "quality_margin straight": (
        "quality_margin",
        {"angular": [0.5, 0.2], "additive": [-0.1, 0.1], "gradient": "straight_through"},
    ),
    "laplacian_margin": ("laplacian_margin", {}),
    "laplacian_margin exact": ("laplacian_margin", {"strength": 1.5, "gradient": "exact", "highest": 1.0}),
    "laplacian_margin level": ("laplacian_margin", {"approach": "level", "margin_low_res": 0.6}),
    "laplacian_margin legacy": ("laplacian_margin", {"legacy": True}),
}


@dataclass
class Plain:
    """A case's formula, image by image, with the statistics that it keeps."""

    case: str
    state: dict[str, float] = field(default_factory=lambda: {"mean": 20.0, "deviation": 100.0, "t": 0.0})

    def __call__(
        self, cosine: Tensor, label: Tensor, norm: Tensor, drawn: Tensor, gate: Tensor, measured: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Logits (N, classes) and extra (), differentiable by cosine and norm. drawn: (N,) of the standard normal."""
        name, given = CASES[self.case]
        rows = range(len(label))
        target = [cosine[i, label[i]] for i in rows]
        extra, hard = norm.sum() * 0, None
        if name == "adaface":
            value = self._adaface(target, norm, given)
        elif name == "magface":
            value, extra = _magface(target, norm, given)
        elif name == "elasticface":
            value = _elasticface(target, drawn, given)
        elif name == "curricularface":
            self.state["t"] += given["momentum"] * (statistics.fmean(c.item() for c in target) - self.state["t"])
            value = [_falling(c, cosine.new_tensor(0.5)) for c in target]
            hard = [math.cos(math.acos(c.item()) + 0.5) for c in target]
        elif name == "quality_margin":
            (a, b), (c, d) = given.get("angular", (0.4, -0.4)), given.get("additive", (0.0, 0.8))
            g = [float(one) for one in gate]
            value = [_turned(target[i], a * (1 - g[i]) + b * g[i], 1e-3) - c * (1 - g[i]) - d * g[i] for i in rows]
        else:
            value = [_turned(target[i], _laplacian_margin(float(measured[i]), given), 1e-5) for i in rows]
        default = "straight_through" if name == "laplacian_margin" else "exact"
        if given.get("gradient", default) == "straight_through":
            value = [c + (v - c).detach() for c, v in zip(target, value, strict=True)]
        logits = []
        for i in rows:
            for j in range(cosine.shape[1]):
                c = cosine[i, j]
                if hard and c > hard[i]:
                    c = c * (self.state["t"] + c)
                logits.append(scale * (value[i] if j == label[i] else c))
        return torch.stack(logits).view_as(cosine), extra

    def _adaface(self, target: list[Tensor], norm: Tensor, given: dict) -> list[Tensor]:
        m, h, share = given.get("margin", 0.4), given.get("concentration", 0.333), given["momentum"]
        norms = [min(max(float(n), 0.001), 100.0) for n in norm.detach()]
        self.state["mean"] += share * (statistics.fmean(norms) - self.state["mean"])
        if len(norms) > 1:
            self.state["deviation"] += share * (statistics.stdev(norms) - self.state["deviation"])
        z = [h * (n - self.state["mean"]) / (self.state["deviation"] + 1e-3) for n in norms]
        z = [min(max(one, -1.0), 1.0) for one in z]
        return [_turned(c, -m * q, 1e-3) - m - m * q for c, q in zip(target, z, strict=True)]


def _turned(cosine: Tensor, margin: float, edge: float) -> Tensor:
    return (cosine.clamp(edge - 1, 1 - edge).acos() + margin).clamp(edge, math.pi - edge).cos()


def _falling(cosine: Tensor, margin: Tensor) -> Tensor:
    if cosine > math.cos(math.pi - margin.item()):
        return (cosine.acos() + margin).cos()
    return cosine - margin * margin.sin()


def _magface(target: list[Tensor], norm: Tensor, given: dict) -> tuple[list[Tensor], Tensor]:
    value, g = [], []
    for c, n in zip(target, norm, strict=True):
        a = n.clamp(10, 110)
        m = 0.45 + (0.8 - 0.45) * (a - 10) / 100
        if given.get("easy_margin", True):
            value.append((c.acos() + m).cos() if c > 0 else c)
        else:
            value.append(_falling(c, m))
        g.append(a / 110**2 + 1 / a)
    return value, given.get("lambda_g", 35.0) * sum(g) / len(g)


def _elasticface(target: list[Tensor], drawn: Tensor, given: dict) -> list[Tensor]:
    arc, ranked = given.get("base", "arc") == "arc", "plus" in given or "legacy_plus" in given
    deviation = given.get("deviation", {True: 0.0175, False: 0.02}[arc] if ranked else 0.05)
    margin = [(0.5 if arc else 0.35) + deviation * float(d) for d in drawn]
    easiest_first = sorted(range(len(target)), key=lambda i: -target[i].item())
    if "plus" in given:
        by_rank, margin = sorted(margin), [0.0] * len(margin)
        for rank, i in enumerate(easiest_first):
            margin[i] = by_rank[rank]
    elif ranked:
        margin = [sorted(margin)[i] for i in easiest_first]
    return [(c.acos() + m).cos() if arc else c - m for c, m in zip(target, margin, strict=True)]


def _laplacian_margin(measured: float, given: dict) -> float:
    if given.get("approach") == "level":
        return given["margin_low_res"] if measured > 0 else 0.35
    found = given.get("strength", 1.0) / measured if measured else math.inf
    return found if "legacy" in given else min(max(found, 0.35), given.get("highest", 0.5))


def inputs(rows: int, classes: int) -> tuple[Tensor, Tensor, MarginContext]:
    """Float64 cosines, labels and context, with angles, norms, gates and pictures of every kind."""
    cosine = torch.rand(rows, classes, dtype=torch.float64) * 1.98 - 0.99
    label = torch.randint(0, classes, (rows,))
    cosine[0, label[0]], cosine[1 % rows, label[1 % rows]] = 0.9995, -0.9995  # clipped ones
    norm = (torch.rand(rows, 1, dtype=torch.float64) * 130).requires_grad_()
    measured = torch.rand(rows, dtype=torch.float64) * 8
    measured[::4] = 0.0
    gate = torch.rand(rows, dtype=torch.float64)
    return cosine, label, MarginContext(norm, None, torch.Generator(), 0, classes, label, gate, measured)


def drawn(rows: int, seed: int) -> tuple[torch.Generator, Tensor]:
    return torch.Generator().manual_seed(seed), torch.randn(rows, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient_are_the_formula_s_in_float64(case):
    """Over three steps, so that statistics move."""
    name, arguments = CASES[case]
    margin, plain = MARGINS.create(name, **arguments).double(), Plain(case)
    for step in range(3):
        cosine, label, context = inputs(48, 5)
        context.generator, normal = drawn(48, step)
        results = []
        for run in (margin, plain):
            at, norm = cosine.clone().requires_grad_(), context.norm.detach().clone().requires_grad_()
            context.norm = norm
            if run is margin:
                logits = margin(at, label, context)
                extra = margin.extra(context) if hasattr(margin, "extra") else norm.sum() * 0
            else:
                logits, extra = plain(at, label, norm[:, 0], normal, context.gate, context.measured, 64.0)
            weight = torch.linspace(0.5, 1.5, logits.numel(), dtype=torch.float64).view_as(logits)
            ((logits * weight).sum() + 100 * extra).backward()
            results.append((logits.detach(), extra.detach(), at.grad, norm.grad))
        for got, wanted in zip(*results, strict=True):
            wanted = torch.zeros_like(context.norm) if wanted is None else wanted  # nothing flows into the norm
            torch.testing.assert_close(torch.zeros_like(wanted) if got is None else got, wanted, rtol=1e-9, atol=1e-9)
    for key, value in margin.state_dict().items():
        assert value.item() == pytest.approx(plain.state[key], rel=1e-12)
        assert value.item() != Plain(case).state[key]


def test_adaface_gives_the_published_program_s_numbers():
    """Three steps: logits, gradients of the embeddings, moving statistics."""
    with np.load(ORACLES / "head_adaface.npz") as oracle:
        known = {key: torch.from_numpy(np.asarray(oracle[key])) for key in oracle.files}
    label, centres = known["labels"], F.normalize(known["class_centers"])
    margin = MARGINS.create("adaface")
    for step, factor in enumerate(known["scale_per_step"].tolist()):
        embedding = (known["embeddings"] * factor).requires_grad_()
        norm = embedding.norm(dim=1, keepdim=True)
        logits = margin(embedding / norm @ centres.T, label, MarginContext(norm, None, torch.Generator(), 0, 23, label))
        F.cross_entropy(logits, label).backward()
        for got, wanted in ((logits.detach(), "logits"), (embedding.grad, "grad_embeddings")):
            wanted = known[wanted][step]
            torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5 * wanted.abs().max().item())
        assert margin.mean.item() == pytest.approx(known["batch_mean"][step].item(), rel=1e-6)
        assert margin.deviation.item() == pytest.approx(known["batch_std"][step].item(), rel=1e-6)


@pytest.mark.parametrize("name", ["adaface", "curricularface"])
def test_statistics_move_in_training_mode_only(name):
    cosine, label, context = inputs(6, 4)
    margin = MARGINS.create(name).eval()
    start = {key: value.clone() for key, value in margin.state_dict().items()}
    margin(cosine, label, context)
    assert margin.state_dict() == start
    margin.train()(cosine, label, context)
    assert all(value != start[key] for key, value in margin.state_dict().items())


def test_one_image_moves_adaface_s_mean_and_not_its_deviation():
    margin = MARGINS.create("adaface", momentum=1.0)
    cosine, label, context = inputs(1, 4)
    context.norm = torch.tensor([[7.0]])
    margin(cosine, label, context)
    assert (margin.mean.item(), margin.deviation.item()) == (7.0, 100.0)


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_are_finite_where_something_vanishes(case):
    """Zero embeddings, cosine +-1, a batch of one, one class, all classes, flat pictures, gates at their ends."""
    name, arguments = CASES[case]
    for rows, label in ((1, [2]), (5, [1] * 5), (5, [0, 1, 2, 3, 4])):
        classifier = PartialFC(3, 5, MARGINS.create(name, **arguments))
        centres = F.normalize(classifier.weight.detach())[torch.tensor(label)]
        gate, measured = torch.linspace(0, 1, rows), torch.linspace(0, 8, rows)
        for factor in (0.0, 1e-6, 30.0, -30.0, 1e4):
            embedding = (centres * factor).requires_grad_()
            loss = classifier(embedding, torch.tensor(label), gate=gate, measured=measured)
            classifier.weight.grad = None
            loss.backward()
            for value in (loss, embedding.grad, classifier.weight.grad, *classifier.margin.state_dict().values()):
                assert value.isfinite().all(), (rows, factor)


@pytest.mark.parametrize("case", CASES)
def test_only_curricularface_keeps_a_buffer_of_the_logits_size(case):
    name, arguments = CASES[case]
    cosine, label, context = inputs(16, 40)
    at, margin, kept = cosine.requires_grad_(), MARGINS.create(name, **arguments), {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        logits = margin(at, label, context)
    assert logits.requires_grad
    assert sum(size >= 16 * 40 for size in kept.values()) == (name == "curricularface")


@pytest.mark.parametrize(("form", "correlation"), [("plus", -0.97), ("legacy_plus", 0.0), ("", 0.0)])
def test_plus_gives_the_larger_margins_to_the_lower_cosines(form, correlation):
    margin = MARGINS.create("elasticface", base="cos", deviation=0.02, **({form: True} if form else {}))
    generator, found, every = torch.Generator().manual_seed(1), [], torch.arange(128)
    for _ in range(60):
        cosine = 0.5 + 0.15 * torch.randn(128, 1, dtype=torch.float64).clamp(-3, 3)
        context = MarginContext(torch.ones(128, 1), None, generator, 0, 1, every * 0)
        drawn = cosine - margin(cosine, every * 0, context) / 64
        found.append(torch.corrcoef(torch.cat([cosine, drawn], 1).T)[0, 1])
    assert torch.stack(found).mean().item() == pytest.approx(correlation, abs=0.03)


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("adaface", {"momentum": 1.5}, r"margin.momentum is 1.5; it must lie in 0 .. 1"),
        ("adaface", {"margin": 2.0}, r"margin.margin is 2.0; it must lie in 0 .. 1.57"),
        ("adaface", {"concentration": -1.0}, r"margin.concentration is -1.0"),
        ("magface", {"norms": (110.0, 10.0)}, r"margin.norms is \(110.0, 10.0\); it must be two norms, 0 < lowest"),
        ("magface", {"norms": (10.0,)}, r"margin.norms is \(10.0,\); it must be two norms"),
        ("magface", {"margins": (0.8, 0.4)}, r"margin.margins is \(0.8, 0.4\); it must be two margins, 0 <= smallest"),
        ("magface", {"lambda_g": -1.0}, r"margin.lambda_g is -1.0; it must be a number, 0 or more"),
        ("elasticface", {"base": "sphere"}, r"margin.base is 'sphere'; it must be 'arc' or 'cos'"),
        ("elasticface", {"plus": True, "legacy_plus": True}, r"set one of them"),
        ("elasticface", {"deviation": math.nan}, r"margin.deviation is nan; it must lie in 0 .. 1"),
        ("elasticface", {"margin": 2.5, "base": "cos"}, r"margin.margin is 2.5; it must lie in 0 .. 2"),
        ("curricularface", {"momentum": -0.1}, r"margin.momentum is -0.1"),
        ("curricularface", {"margin": 1.6}, r"margin.margin is 1.6"),
        ("quality_margin", {"angular": (0.4,)}, r"margin.angular is \(0.4,\); it must be two margins, at gate 0 and"),
        ("quality_margin", {"additive": (0.0, 3.0)}, r"margin.additive is 3.0; it must lie in -2 .. 2"),
        ("quality_margin", {"gradient": "true"}, r"margin.gradient is 'true'; it must be 'exact' or"),
        ("laplacian_margin", {"approach": "1"}, r"margin.approach is '1'; it must be 'laplacian' or 'level'"),
        ("laplacian_margin", {"lowest": 0.6}, r"margin.highest is 0.5; it must lie in 0.6 .. 3.14"),
        ("laplacian_margin", {"strength": 0.0}, r"margin.strength is 0.0; it must be a positive number"),
        ("laplacian_margin", {"approach": "level", "legacy": True}, r"set degradation.choose=legacy_epoch_head"),
    ],
)
def test_wrong_arguments_are_named(name, arguments, words):
    with pytest.raises(ValueError, match=words):
        MARGINS.create(name, **arguments)
