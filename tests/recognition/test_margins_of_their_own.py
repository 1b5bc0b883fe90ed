"""Margins with a loss, a schedule or statistics of their own, against formulas written out in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recognition.margins import MARGINS
from recognition.partial_fc import PartialFC
from recognition.types import MarginContext

NAMES = ["sphereface", "sphereface2", "sface", "uniface", "hard_samples"]
ROWS, CLASSES = 12, 7


def context(label: Tensor, classes: int = CLASSES, norm: Tensor | None = None) -> MarginContext:
    norm = torch.linspace(8, 30, len(label), dtype=torch.float64)[:, None] if norm is None else norm
    return MarginContext(norm, None, torch.Generator().manual_seed(3), 0, classes, label)


def drawn(rows: int = ROWS, classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    """Cosines all over [-1, 1] and a target in each row."""
    return torch.rand(rows, classes, dtype=torch.float64) * 1.98 - 0.99, torch.randint(0, classes, (rows,))


def losses_of(margin: nn.Module, cosine: Tensor, label: Tensor) -> Tensor:
    """(N,) as the classifier takes them, all classes on one process."""
    here = context(label, cosine.shape[1])
    logits = margin(cosine, label, here)
    losses = (
        margin.reduce(logits, label, here)
        if hasattr(margin, "reduce")
        else F.cross_entropy(logits, label, reduction="none")
    )
    return margin.weigh(losses, here) if hasattr(margin, "weigh") else losses


def value_and_gradient(margin: nn.Module, cosine: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Losses and the gradient of a sum that weighs the rows unlike."""
    cosine = cosine.clone().requires_grad_()
    losses = losses_of(margin, cosine, label)
    (losses * torch.linspace(0.5, 1.5, len(losses), dtype=losses.dtype)).sum().backward()
    return losses.detach(), cosine.grad


def check(margin: nn.Module, cosine: Tensor, label: Tensor, losses: Tensor, slope: Tensor) -> None:
    """losses (N,); slope: d loss_i / d cosine_ij."""
    slope = slope * torch.linspace(0.5, 1.5, len(losses), dtype=torch.float64)[:, None]
    found, gradient = value_and_gradient(margin, cosine, label)
    torch.testing.assert_close(found, losses, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(gradient, slope, rtol=1e-7, atol=1e-9)


def psi(theta: float, m: float) -> float:
    """The piece that theta lies in, by counting them off."""
    k = 0
    while m * theta > (k + 1) * math.pi and k + 1 < m:
        k += 1
    return (-1) ** k * math.cos(m * theta) - 2 * k


@pytest.mark.parametrize(("margin", "scale"), [(1.7, 30.0), (3.0, 20.0), (1.0, 30.0), (1.35, 0.0)])
def test_sphereface_revived(margin, scale):
    cosine, label = drawn()
    plain = MARGINS.create("sphereface", margin=margin, scale=scale)
    cosine.requires_grad_()
    norm = torch.linspace(5, 20, ROWS, dtype=torch.float64)[:, None].requires_grad_()
    logits = plain(cosine, label, context(label, norm=norm))
    weight = torch.rand_like(logits)
    (logits * weight).sum().backward()
    of_norm = [0.0] * ROWS
    for i in range(ROWS):
        s = scale or norm[i].item()
        for j in range(CLASSES):
            c = cosine[i, j].item()
            value = psi(math.acos(c), margin) if j == label[i] else c
            of_norm[i] += value * weight[i, j].item()
            assert logits[i, j].item() == pytest.approx(s * value, abs=1e-9)
            assert cosine.grad[i, j].item() == pytest.approx(s * weight[i, j].item(), rel=1e-12)  # straight-through
    if scale:
        assert norm.grad is None
    else:
        torch.testing.assert_close(norm.grad.squeeze(1), torch.tensor(of_norm, dtype=torch.float64))


@pytest.mark.parametrize("margin", [1, 2, 3, 4])
def test_sphereface_annealed(margin):
    """Value, slope and the schedule; the slope by central differences of the value."""
    plain = MARGINS.create("sphereface", mode="annealed", margin=margin, base=20.0, gamma=0.5, floor=3.0)
    for batch in range(1, 13):
        cosine, label = drawn()
        cosine.requires_grad_()
        norm = torch.linspace(5, 20, ROWS, dtype=torch.float64)[:, None]
        logits = plain(cosine, label, context(label, norm=norm))
        logits.sum().backward()
        if batch not in (1, 2, 12):
            continue
        blend = max(3.0, 20.0 / (1 + 0.5 * batch))

        def target(c: float, blend: float = blend) -> float:
            return (blend * c + psi(math.acos(c), margin)) / (1 + blend)

        for i in range(ROWS):
            for j in range(CLASSES):
                c, n, slope = cosine[i, j].item(), norm[i].item(), 1.0
                if j == label[i]:
                    slope = (target(c + 1e-6) - target(c - 1e-6)) / 2e-6
                    assert logits[i, j].item() == pytest.approx(n * target(c), abs=1e-9)
                assert cosine.grad[i, j].item() == pytest.approx(n * slope, rel=1e-5, abs=1e-5)
    plain.eval()(cosine, label, context(label))
    assert plain.batches.item() == 12  # training counts, nothing else


@pytest.mark.parametrize("margin", [2, 3, 4, 8])
def test_sphereface_annealed_at_the_ends(margin):
    """psi is 1 at cosine 1 and 1 - 2 m at cosine -1; its slope is m^2 at both, never the piece's beyond."""
    plain = MARGINS.create("sphereface", mode="annealed", margin=margin, scale=1.0, base=0.0, floor=0.0).eval()
    cosine = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    logits = plain(cosine, torch.zeros(2, dtype=torch.int64), context(torch.zeros(2, dtype=torch.int64), 1))
    logits.sum().backward()
    assert logits.flatten().tolist() == [1.0, 1.0 - 2 * margin]
    assert cosine.grad.flatten().tolist() == [margin**2, margin**2]


@pytest.mark.parametrize("arguments", [{}, {"margin": 2.6}, {"mode": "annealed"}, {"mode": "annealed", "margin": 5}])
def test_sphereface_falls_all_the_way(arguments):
    plain = MARGINS.create("sphereface", scale=1.0, **arguments).eval()
    cosine = torch.linspace(-1, 1, 2001, dtype=torch.float64)[:, None]
    label = torch.zeros(2001, dtype=torch.int64)
    steps = plain(cosine, label, context(label, 1)).squeeze(1).diff()
    assert (steps > -1e-12).all() and steps.max() < 0.15  # no jump: pieces lie 2 apart


def softplus(z: float) -> float:
    return max(z, 0.0) + math.log1p(math.exp(-abs(z)))


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


@pytest.mark.parametrize("arguments", [{}, {"margin": 0.2, "scale": 32.0, "alpha": 0.6, "t": 2.0, "weight": 3.0}])
def test_sphereface2(arguments):
    margin = MARGINS.create("sphereface2", **arguments).double()
    m, r, alpha, t, lw = ({"margin": 0.4, "scale": 40.0, "alpha": 0.7, "t": 3.0, "weight": 50.0} | arguments).values()
    cosine, label = drawn()
    z = alpha / ((1 - alpha) * (CLASSES - 1))  # the published start of b
    own, other = r * (2 * 0.5**t - 1 - m), r * (2 * 0.5**t - 1 + m)
    b = math.log(2 * z) - other - math.log(1 - z + math.sqrt((1 - z) ** 2 + 4 * z * math.exp(own - other)))
    with torch.no_grad():
        margin.offset.fill_(0.75)
    b += 0.75
    losses, slope, of_offset = torch.zeros(ROWS).double(), torch.zeros_like(cosine), torch.zeros(ROWS).double()
    for i in range(ROWS):
        for j in range(CLASSES):
            g = 2 * ((cosine[i, j].item() + 1) / 2) ** t - 1
            if j == label[i]:
                logit = r * (g - m) + b
                losses[i] += lw / r * alpha * softplus(-logit)
                by_logit = -lw / r * alpha * sigmoid(-logit)
            else:
                logit = r * (g + m) + b
                losses[i] += lw / r * (1 - alpha) * softplus(logit)
                by_logit = lw / r * (1 - alpha) * sigmoid(logit)
            slope[i, j] = by_logit * r
            of_offset[i] += by_logit
    check(margin, cosine, label, losses, slope)
    wanted = (of_offset * torch.linspace(0.5, 1.5, ROWS, dtype=torch.float64)).sum()
    torch.testing.assert_close(margin.offset.grad, wanted)


@pytest.mark.parametrize("classes", [2, 3, 4, 85742])
@pytest.mark.parametrize("alpha", [0.5, 0.7, 0.99])
def test_sphereface2_starts_in_balance(classes, alpha):
    """With all cosines 0 the target's pull equals the push of all others, however few they are."""
    margin = MARGINS.create("sphereface2", alpha=alpha).double()
    cosine, label = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([0])
    own, other = margin(cosine, label, context(label, classes))[0].tolist()
    assert alpha * sigmoid(-own) == pytest.approx((1 - alpha) * (classes - 1) * sigmoid(other), rel=1e-6)


@pytest.mark.parametrize(("arguments", "start"), [({}, math.log(70)), ({"bias": 15.0, "negative": 0.25}, 15.0)])
def test_uniface(arguments, start):
    margin = MARGINS.create("uniface", **arguments).double()
    share = arguments.get("negative", 1.0)
    with torch.no_grad():
        margin.offset.fill_(-2.0)
    b = start - 2.0
    cosine, label = drawn()
    losses, slope, of_offset = torch.zeros(ROWS).double(), torch.zeros_like(cosine), torch.zeros(ROWS).double()
    for i in range(ROWS):
        for j in range(CLASSES):
            c = cosine[i, j].item()
            if j == label[i]:
                losses[i] += softplus(-(64 * (c - 0.4) - b))
                slope[i, j] = -64 * sigmoid(-(64 * (c - 0.4) - b))
            else:
                losses[i] += share * softplus(64 * c - b)
                slope[i, j] = 64 * share * sigmoid(64 * c - b)
            of_offset[i] -= slope[i, j] / 64
    check(margin, cosine, label, losses, slope)
    wanted = (of_offset * torch.linspace(0.5, 1.5, ROWS, dtype=torch.float64)).sum()
    torch.testing.assert_close(margin.offset.grad, wanted)


@pytest.mark.parametrize("arguments", [{}, {"scale": 32.0, "k": 5.0, "a": 0.87, "b": 1.2}])
def test_sface(arguments):
    s, k, a, b = ({"scale": 64.0, "k": 80.0, "a": 0.8, "b": 1.23} | arguments).values()
    cosine, label = drawn()
    losses, slope = torch.zeros(ROWS).double(), torch.zeros_like(cosine)
    for i in range(ROWS):
        for j in range(CLASSES):
            c = cosine[i, j].item()
            own = j == label[i]
            slope[i, j] = s * (-sigmoid(k * (math.acos(c) - a)) if own else sigmoid(-k * (math.acos(c) - b)))
            losses[i] += slope[i, j] * c
    check(MARGINS.create("sface", **arguments), cosine, label, losses, slope)


class Mixture:
    """Stepwise EM of a Gaussian around 0 and a uniform part, number by number."""

    def __init__(self) -> None:
        self.batches, self.moments = 0, None

    def gamma(self, entropy: float) -> float:
        n, gaussian, uniform = self.moments
        least = 1e-3 * (gaussian + uniform)
        variance = gaussian / n + least
        density = 2 * math.exp(-(entropy**2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)
        flat = 1 / math.sqrt(3 * uniform / (1 - n) + least)
        pi = min(n, 0.5)
        return pi * density / (pi * density + (1 - pi) * flat)

    def follow(self, entropies: list[float], rate: float) -> None:
        power = sum(e**2 for e in entropies) / len(entropies)
        if self.batches == 0:
            self.moments = [0.1, 0.1 * power, 0.9 * (2.5**2 * power) / 3]
        gammas = [self.gamma(e) for e in entropies]
        pairs = list(zip(gammas, entropies, strict=True))
        new = [sum(gammas), sum(g * e**2 for g, e in pairs), sum((1 - g) * e**2 for g, e in pairs)]
        self.batches += 1
        share = max(rate, 1 / self.batches)
        self.moments = [
            (1 - share) * old + share * n / len(entropies) for old, n in zip(self.moments, new, strict=True)
        ]


def test_hard_samples():
    """Five batches on the way, the last ones past the point where the running share takes over; then in eval mode."""
    margin = MARGINS.create("hard_samples", of="cosface", arguments={"scale": 6.0, "margin": 0.3}, rate=0.4).double()
    mixture = Mixture()
    for batch in range(6):
        if batch == 5:
            margin.eval()
        cosine, label = drawn()
        logits = 6 * cosine
        logits[torch.arange(ROWS), label] -= 1.8
        share = [[math.exp(z) / sum(math.exp(x) for x in row) for z in row] for row in logits.tolist()]
        entropies = [-sum(p * math.log(p) for p in row) for row in share]
        if batch < 5:
            mixture.follow(entropies, 0.4)
        losses, slope = torch.zeros(ROWS).double(), torch.zeros_like(cosine)
        for i, own in enumerate(label.tolist()):
            p = share[i][own]
            weight = (2 - mixture.gamma(entropies[i])) * (1 - p)
            losses[i] = -math.log(p) * weight
            for j in range(CLASSES):
                slope[i, j] = 6 * weight * (share[i][j] - (j == own))
        check(margin, cosine, label, losses, slope)
        torch.testing.assert_close(margin.moments.tolist(), mixture.moments, rtol=1e-9, atol=1e-12)
    assert margin.batches.item() == 5


def test_hard_samples_finds_a_known_mixture():
    """40 % of the entropies from a Gaussian of 0.3 nats, the others even over 0 .. 6, in batches of 32."""
    margin = MARGINS.create("hard_samples", rate=0.01)
    for _ in range(700):
        sure = torch.rand(32) < 0.4
        margin._entropy = torch.where(sure, 0.3 * torch.randn(32).abs(), 6 * torch.rand(32))
        margin.weigh(torch.ones(32), context(torch.zeros(32, dtype=torch.int64)))
    n, gaussian, uniform = margin.moments.tolist()
    assert n == pytest.approx(0.4, abs=0.05)
    assert math.sqrt(gaussian / n) == pytest.approx(0.3, abs=0.05)
    assert math.sqrt(3 * uniform / (1 - n)) == pytest.approx(6.0, abs=0.3)
    margin.eval()._entropy = torch.tensor([0.0, 0.2, 1.5, 5.0])
    weight = margin.weigh(torch.ones(4), context(torch.zeros(4, dtype=torch.int64))) / (1 - math.exp(-1))
    assert weight[:2].max() < 1.15 and weight[2:].min() > 1.99


@pytest.mark.parametrize("rows", [1, 5])
def test_hard_samples_of_equal_images_stay_finite(rows):
    """Nothing but sure images, nothing but unsure ones, then the other way round; one image a batch."""
    margin = MARGINS.create("hard_samples")
    for value in (1.0, 0.0, 1.0):
        for _ in range(3):
            cosine = torch.zeros(rows, 4, requires_grad=True)
            with torch.no_grad():
                cosine[:, 0] = value
            losses = losses_of(margin, cosine, torch.zeros(rows, dtype=torch.int64))
            losses.sum().backward()
            assert losses.isfinite().all() and cosine.grad.isfinite().all()
            assert margin.moments.isfinite().all() and (margin.moments >= 0).all()


def test_hard_samples_passes_on_what_the_other_margin_asks_for():
    margin = MARGINS.create("hard_samples", of="magface")
    label = torch.zeros(3, dtype=torch.int64)
    assert margin.extra(context(label)) == margin.margin.extra(context(label))
    assert MARGINS.create("hard_samples", of="quality_margin").needs_gate
    level = MARGINS.create("hard_samples", of="laplacian_margin", arguments={"approach": "level"})
    assert level.fields == ("level",) and level.measure == level.margin.measure
    with pytest.raises(RuntimeError, match=r"call forward\(\) on the batch first"):
        margin.weigh(torch.ones(3), context(label))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("labels", [[0], [2, 2, 2, 2], [0, 1, 2, 3]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_the_classifier_all_stays_finite(name, labels, dtype):
    """Embeddings that are 0, on their centre, opposite it, and huge; also of the parameters, also in bf16."""
    classifier = PartialFC(4, 4, MARGINS.create(name))
    for _ in range(2):
        embedding = torch.stack(
            [torch.zeros(4), *classifier.weight.detach()[[1, 2]] * 1e4, -classifier.weight[3].detach()]
        )
        embedding = embedding[: len(labels)].to(dtype).requires_grad_()
        loss = classifier(embedding, torch.tensor(labels))
        assert loss.dtype == torch.float32
        loss.backward()
        for tensor in (loss, embedding.grad, *(p.grad for p in classifier.parameters()), *classifier.buffers()):
            assert tensor.isfinite().all()


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("sphereface", {"mode": "old"}, r"margin.mode is 'old'; it must be 'revived' or 'annealed'"),
        ("sphereface", {"margin": 0.35}, r"margin.margin is 0.35; it must lie in 1 .. 8"),
        ("sphereface", {"mode": "annealed", "margin": 1.7}, r"must be a whole number.*set margin.mode=revived"),
        ("sphereface", {"scale": -1.0}, r"margin.scale is -1.0; it must be a number, 0 or more"),
        ("sphereface2", {"alpha": 1.0}, r"margin.alpha is 1.0; it must lie between 0 and 1"),
        ("sphereface2", {"t": 0.0}, r"margin.t is 0.0; it must be a number, 1 or more"),
        ("sphereface2", {"weight": -1.0}, r"margin.weight is -1.0; it must be a positive number"),
        ("sface", {"k": 0.0}, r"margin.k is 0.0; it must be a positive number"),
        ("sface", {"a": 4.0}, r"margin.a is 4.0; it must lie in 0 .. 3.14"),
        ("uniface", {"negative": 0.0}, r"margin.negative is 0.0; it must be a positive number"),
        ("uniface", {"bias": math.inf}, r"margin.bias is inf; it must be a number, or None"),
        ("hard_samples", {"rate": 0.0}, r"margin.rate is 0.0; it must lie in \(0, 1\]"),
        ("hard_samples", {"of": "hard_samples"}, r"margin.of is 'hard_samples' itself"),
        ("hard_samples", {"of": "sface"}, r"margin.of is 'sface', which owns its reduction, so it has no softmax"),
        ("hard_samples", {"of": "forgetting"}, r"margin.of is 'forgetting', which weighs the losses"),
        ("hard_samples", {"arguments": {"scale": 0.0}}, r"margin.of and margin.arguments: margin.scale is 0.0"),
    ],
)
def test_wrong_arguments_are_named(name, arguments, words):
    with pytest.raises(ValueError, match=words):
        MARGINS.create(name, **arguments)
