"""From a raw quality score to the gate, and whether that gate tells any images apart."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from iqa.gates import GATES

FEWEST = 8  # images, before a gate is called constant
FLAT = 1e-3  # gates within this are one and the same


class QualityGate(nn.Module):
    """Maps quality scores to gates, 1 = high quality; within [0, 1], but for the published map `petal`.

    midpoint: the score whose gate is 0.5. slope: of rise = slope * (score - midpoint), which a form of iqa.gates,
    chosen by `shape`, turns into the gate. One number for every score, or k numbers for scores of shape (B, k). Both
    are buffers: a gate with another midpoint gives other embeddings, so they travel with the weights. A form that
    learns keeps them as its start.
    arguments: of the form, such as levels of `steps`.
    ValueError unless slope > 0: a scorer whose raw figure falls with quality has to turn its sign itself.
    """

    midpoint: Tensor  # () or (k,) float32
    slope: Tensor  # () or (k,) float32

    def __init__(
        self,
        midpoint: float | Sequence[float] = 0.5,
        slope: float | Sequence[float] = 1.0,
        shape: str = "linear",
        **arguments: int,
    ) -> None:
        super().__init__()
        slopes, midpoints = _numbers("slope", slope), _numbers("midpoint", midpoint)
        if any(value <= 0 for value in slopes):
            raise ValueError(
                f"quality gate: slope must be above 0, got {slope}; scores rise with quality, and so must the gate"
            )
        if "scores" in _takes(shape):
            arguments.setdefault("scores", max(len(slopes), len(midpoints)))
        self.shape, self.arguments = shape, arguments
        self.form = GATES.create(shape, **arguments)
        if not self.form.takes_slope and any(value != 1 for value in slopes):
            raise ValueError(f"quality gate: the form '{shape}' has no slope, got {slope}; set gate.slope=1")
        self.register_buffer("midpoint", torch.tensor(midpoint, dtype=torch.float32))
        self.register_buffer("slope", torch.tensor(slope, dtype=torch.float32))

    def forward(self, score: Tensor) -> Tensor:
        """score: (B,) or (B, k), higher = better. Returns float32, mostly of the same shape; see the form.

        ValueError for NaN; a compiled or exported graph cannot look at values and lets NaN through.
        """
        self._check(score)
        return self.form(self.slope * (score.float() - self.midpoint))

    @torch.no_grad()
    def place(self, midpoint: float | Sequence[float], slope: float | Sequence[float]) -> None:
        """Set midpoint and slope before training; what a form has learned stays, relative to them."""
        self.midpoint.copy_(torch.tensor(midpoint))
        self.slope.copy_(torch.tensor(slope))

    @torch.no_grad()
    def now(self) -> tuple[Tensor, Tensor]:
        """Midpoint and slope as they are, with what has been learned: () or (k,), or (layers,)."""
        if not hasattr(self.form, "shift"):
            return self.midpoint, self.slope
        return self.midpoint + self.form.shift / self.slope, self.slope * self.form.growth.exp()

    def report(self) -> dict[str, float]:
        """What it has learned, by log tag: lowest and highest of several; {} for a form that learns nothing."""
        if not hasattr(self.form, "shift"):
            return {}
        found = {}
        for name, values in zip(("midpoint", "slope"), self.now(), strict=True):
            low, high = torch.stack(values.aminmax()).tolist()
            single = {f"quality/{name}": low}
            found |= single if values.numel() == 1 else {f"quality/{name}_low": low, f"quality/{name}_high": high}
        return found

    def extra_repr(self) -> str:
        midpoint, slope = map(plain, self.now())
        given = "".join(f", {key}={value}" for key, value in self.arguments.items())
        return f"midpoint={midpoint}, slope={slope}, shape={self.shape}{given}"

    def _check(self, score: Tensor) -> None:
        width = max(self.midpoint.numel(), self.slope.numel())
        if score.dim() not in (1, 2) or (width > 1 and (score.dim() != 2 or score.shape[1] != width)):
            wanted = f"(B, {width})" if width > 1 else "(B,) or (B, k)"
            raise ValueError(f"quality gate: scores must be {wanted}, got {tuple(score.shape)}")
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return
        unknown = torch.isnan(score)
        if unknown.any():
            raise ValueError(
                f"quality gate: {int(unknown.sum())} of {score.numel()} scores are NaN; "
                "look at the scorer, or at the score file the run reads"
            )


class GateRange:
    """Lowest and highest gate among the images seen. Kept on their device: only warning() waits for it."""

    def __init__(self) -> None:
        self.images = 0
        self._range: Tensor | None = None  # (2, columns)

    @torch.no_grad()
    def see(self, gate: Tensor) -> None:
        """gate: (B,) or (B, columns)."""
        if not len(gate):
            return
        low, high = gate.reshape(len(gate), -1).aminmax(dim=0)
        if self._range is not None:
            low, high = torch.minimum(low, self._range[0]), torch.maximum(high, self._range[1])
        self._range, self.images = torch.stack([low, high]), self.images + len(gate)

    def warning(self) -> str:
        """What to do about a gate that was the same for every image; "" where it was not, or few images were seen."""
        if self._range is None or self.images < FEWEST:
            return ""
        low, high = self._range.cpu()
        if (high - low).max() > FLAT:
            return ""
        value = low.mean().item()
        why = {0: ", all scores being far below its midpoint", 1: ", all scores being far above its midpoint"}
        why = why.get(round(value, 2), "")
        return (
            f"WARNING: the quality gate is {value:.3g} for all {self.images} images seen{why}: "
            "quality makes no difference, all images share one mix of branches. If they are not of one quality, fit "
            "midpoint and slope to them: tools/calibrate_gate.py RECIPE shows the numbers, and training with "
            "gate.fit=roles (or otsu, quantiles) sets them at its start"
        )


def make_gate(settings: Mapping[str, object], layers: int = 0, scores: int = 1) -> QualityGate:
    """The gate that a recipe's config.gate, or an adapter's card, asks for.

    layers: gated layers of the network, for `per_layer`. scores: of each image; one midpoint or slope stands for all
        where a rule (gate.fit) is going to place them.
    KeyError where midpoint, slope or shape is missing, ValueError for numbers and names that cannot be.
    """
    given = {**settings, **({"layers": layers} if layers else {})}
    takes = _takes(given["shape"])
    if scores > 1 and "scores" not in takes:
        able = [name for name in GATES.names() if "scores" in _takes(name)]
        raise ValueError(
            f"the scorer gives {scores} scores for each image, and gate '{given['shape']}' takes one: set gate.shape="
            f"{' or '.join(able)}"
        )
    arguments = {key: value for key, value in given.items() if key in takes}
    numbers = {}
    for name in ("midpoint", "slope"):
        numbers[name] = given[name]
        if scores > 1:
            own = _numbers(name, given[name])
            if len(own) == 1 and not given.get("fit"):
                raise ValueError(
                    f"gate.{name} is {given[name]} for {scores} scores of different units: give a list of {scores}, or "
                    "let gate.fit=roles (or otsu, quantiles) find them"
                )
            numbers[name] = own * scores if len(own) == 1 else own
            if len(numbers[name]) != scores:
                raise ValueError(f"gate.{name} holds {len(own)} numbers for {scores} scores of each image")
    return QualityGate(numbers["midpoint"], numbers["slope"], given["shape"], **arguments)


def plain(values: Tensor) -> float | list[float]:
    """float32 numbers, each in its fewest digits: 0.7, not 0.699999988."""
    numbers = [float(str(number)) for number in values.detach().cpu().reshape(-1).numpy()]
    return numbers if values.dim() else numbers[0]


def _takes(shape: str) -> Sequence[str]:
    return [*inspect.signature(GATES.get(shape)).parameters]


def _numbers(name: str, value: float | Sequence[float]) -> list[float]:
    values = [float(v) for v in value] if isinstance(value, Sequence) else [float(value)]
    if not values or not all(math.isfinite(v) for v in values):
        raise ValueError(f"quality gate: {name} must be one or more finite numbers, got {value}")
    return values
