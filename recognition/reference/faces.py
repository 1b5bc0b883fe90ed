"""Pictures of what becomes of one face: its score and gate, the forms of the gate, the branches, the embedding."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from adapters._layers import soft_bins
from iqa import SCORERS, make_gate
from recognition import config as settings
from recognition.backbones import BACKBONES
from recognition.data.degrade import low_res
from recognition.data.synthetic import appearance, identity, render
from recognition.page.markup import Markup, element, join
from recognition.reference.docstrings import ROOT
from recognition.reference.svg import (
    BLUE,
    ORANGE,
    arrow,
    box,
    curve,
    labelled,
    lines,
    picture,
    pixels,
    text,
)
from recognition.types import IMAGE_SIZE
from recognition.weights import load_strictly, read_weights

SIDES = (112, 56, 28, 14, 7)
PERSON, STRANGER, IMAGE = 200006, 200009, 5  # of the demo's test set: people that its base never saw
BASE = "weights/demo_base.safetensors"
RECIPE = "demo.py"


@dataclass(frozen=True)
class Face:
    """One face at one resolution, as everything measured of it."""

    side: int
    small: np.ndarray  # (side, side, 3) uint8: what is left of it
    score: float
    gate: float
    cosine: float  # of its embedding to that of the same picture at 112 px, by the demo's base


@cache
def recipe() -> settings.EasyDict:
    """The demo's settings, whose scorer and gate the pictures show."""
    return settings.load(settings.BASE.parent / RECIPE)


@cache
def ladder() -> tuple[Face, ...]:
    """The face at every side."""
    stored = _painted(PERSON, IMAGE)
    shown = {side: stored if side == IMAGE_SIZE else low_res(stored, side) for side in SIDES}
    scorer = SCORERS.create(recipe().scorer.name, **settings.arguments(recipe().scorer, "scorer"))
    gate = make_gate(recipe().gate)
    with torch.no_grad():
        scores = {side: scorer(image.permute(0, 3, 1, 2).float() / 255) for side, image in shown.items()}
        clean = embedding(stored)
        return tuple(
            Face(
                side,
                _reduced(stored, side),
                scores[side].item(),
                gate(scores[side]).item(),
                F.cosine_similarity(embedding(image), clean).item(),
            )
            for side, image in shown.items()
        )


@cache
def stranger() -> float:
    """Cosine of another person's face to this one's, both at 112 px."""
    one, other = (embedding(_painted(person, IMAGE)) for person in (PERSON, STRANGER))
    return F.cosine_similarity(one, other).item()


def embedding(images: torch.Tensor) -> torch.Tensor:
    """(B, 112, 112, 3) uint8 -> (B, D) by the demo's base."""
    with torch.no_grad():
        return _base()(images.permute(0, 3, 1, 2).float() / 127.5 - 1)


@cache
def _base() -> torch.nn.Module:
    weights = read_weights(Path(ROOT, BASE))
    network = BACKBONES.create(recipe().backbone.name)
    load_strictly(network, weights.tensors, BASE)
    return network.eval()


def _painted(person: int, image: int) -> torch.Tensor:
    return torch.from_numpy(render(identity(0, person), appearance(0, person, image))).unsqueeze(0)


def _reduced(image: torch.Tensor, side: int) -> np.ndarray:
    """Reduced by area, as low_res begins: means of squares, since the sides divide 112."""
    square = IMAGE_SIZE // side
    return image[0].numpy().reshape(side, square, side, square, 3).mean((1, 3)).round().astype(np.uint8)


def draw_gate() -> str:
    """The same face at five resolutions, its score and its gate."""
    parts: list[Markup] = []
    left, step, size = 112, 128, 112
    for number, face in enumerate(ladder()):
        x = left + number * step
        parts += [
            pixels(x, 48, size, face.small),
            text(x + size / 2, 180, f"{face.side} px", anchor="middle"),
            text(x + size / 2, 206, f"{face.score:.2f}", "mono", "middle"),
            box(x, 220, size, 16),
            box(x, 220, size * (1 - face.gate), 16, ORANGE),
            box(x + size * (1 - face.gate), 220, size * face.gate, 16, BLUE),
            text(x + size / 2, 254, f"{face.gate:.2f}", "mono", "middle"),
        ]
    parts += [text(20, 206, "score"), text(20, 233, "gate"), text(20, 180, "resolution")]
    gate = recipe().gate
    parts.append(
        lines(
            20,
            284,
            (
                f"score: {recipe().scorer.name}, the logarithm of the mean size of the Laplacian",
                f"gate: 0.5 + {gate.slope} * (score - {gate.midpoint}), not below 0, not above 1",
                "Blue: weight of the branch for good pictures, the gate itself; orange: of the other one, 1 - gate.",
            ),
            "soft",
        )
    )
    told = "; ".join(f"{face.side} px: score {face.score:.2f}, gate {face.gate:.2f}" for face in ladder())
    return picture("One face at five resolutions: its score and its gate", told, 336, parts)


def draw_forms() -> str:
    """Four forms of the gate over the score, with the five faces' scores."""
    left, top, width, height = 70, 56, 470, 210
    low, high = 0.0, 3.0

    def at(score: float, gate: float) -> tuple[float, float]:
        return left + (score - low) / (high - low) * width, top + (1 - gate) * height

    section = recipe().gate
    scores = torch.linspace(low, high, 121)
    shown = (("linear", "s1", ""), ("sigmoid", "s2", "7 4"), ("steps", "s3", "2 3"))
    parts = [box(left, top, width, height, "line")]
    for tick in (0, 0.5, 1):
        x, y = at(low, tick)
        parts.append(text(x - 8, y + 4, f"{tick:g}", "soft", "end"))
    for tick in (0, 1, 2, 3):
        x, y = at(tick, 0)
        parts.append(text(x, y + 20, f"{tick}", "soft", "middle"))
    for face in ladder():
        x, y = at(face.score, 0)
        parts += [element("line", x1=round(x, 1), x2=round(x, 1), y1=top, y2=round(y, 1), class_="line")]
        parts.append(
            text(x + (8 if face.side == 14 else -8 if face.side == 7 else 0), top - 6, face.side, "soft", "middle")
        )
    for number, (name, kind, dashes) in enumerate(shown):
        gates = make_gate({**section, "shape": name})(scores)
        points = [at(score, gate) for score, gate in zip(scores.tolist(), gates.tolist(), strict=True)]
        y = top + 20 + 30 * number
        parts += [curve(points, kind, dashes), curve([(570, y), (606, y)], kind, dashes), text(616, y + 4, name)]
    told = f"midpoint {section.midpoint}\nslope {section.slope}\n\nupright lines: scores of\none face at 7 .. 112 px"
    parts += [
        text(left + width / 2, top + height + 42, "score", "soft", "middle"),
        text(20, top - 6, "gate", "soft"),
        lines(570, top + 126, told.split("\n"), "soft"),
    ]
    told = "The gate over the score: linear, sigmoid and steps, at the demo's midpoint and slope."
    return picture("From score to gate: midpoint, slope and form", told, 326, parts)


def draw_branches() -> str:
    """One low-rank update whose bottleneck has two halves, weighed by the gate."""
    rank = 4  # of the picture
    parts = [
        labelled(28, 128, 62, 48, "x"),
        arrow((90, 140), (112, 140), (112, 82), (300, 82)),
        labelled(300, 58, 130, 48, "W", "frozen, as it was"),
        arrow((430, 82), (606, 82), (606, 134)),
        arrow((90, 164), (120, 164), (120, 152), (150, 152)),
        labelled(150, 130, 82, 44, "A", "2r rows"),
        arrow((232, 152), (276, 152)),
        arrow((452, 152), (488, 152)),
        labelled(488, 130, 88, 44, "B", "2r columns"),
        arrow((576, 152), (593, 152)),
        element("circle", cx=606, cy=152, r=13, class_="box"),
        text(606, 157, "+", "title", "middle"),
        arrow((619, 152), (660, 152)),
        labelled(660, 128, 72, 48, "y"),
        text(364, 200, "bottleneck: 2r channels, each times its half's weight", "soft", "middle"),
    ]
    parts += [box(284 + 20 * n, 136, 17, 32, ORANGE if n < rank else BLUE) for n in range(2 * rank)]
    faces = [face for face in ladder() if face.side in (112, 28, 14)]
    weights = soft_bins(torch.tensor([face.gate for face in faces]), 2).tolist()
    for number, (face, (poor, good)) in enumerate(zip(faces, weights, strict=True)):
        y = 246 + 66 * number
        parts += [
            pixels(28, y - 8, 52, face.small),
            text(94, y + 14, f"{face.side} px, gate {face.gate:.2f}"),
            text(94, y + 32, f"weights {poor:.2f} and {good:.2f}", "soft"),
        ]
        for channel in range(2 * rank):
            weight = poor if channel < rank else good
            parts.append(box(284 + 20 * channel, y, 17, 36, "line"))
            tall = 36 * min(1.0, max(0.0, weight))
            parts.append(box(284 + 20 * channel, y + 36 - tall, 17, tall, ORANGE if channel < rank else BLUE))
    parts.append(
        lines(
            470,
            258,
            (
                "y = W x + scaling * B diag(w) A x",
                "w = 1 - gate for the first r channels,",
                "w = gate for the others",
                "",
                "Each image has its own w; A and B",
                "are shared. B starts at zero: the",
                "first output is the base's. For one",
                "fixed gate all of it merges into W.",
            ),
            "soft",
        )
    )
    told = "x goes through the frozen W, and beside it through A, 2r channels whose halves the gate weighs, and B."
    return picture("Two branches: one LoRA of rank 2r with a gated bottleneck", told, 450, parts)


def draw_path() -> str:
    """From a small picture to score, gate and embedding, with figures of the demo's base."""
    middle = next(face for face in ladder() if face.side == 14)
    size = embedding(_painted(PERSON, IMAGE)).shape[1]
    parts = [
        pixels(24, 56, 84, middle.small),
        lines(66, 158, ("a face of", f"{middle.side} px"), "soft", "middle"),
        arrow((112, 98), (138, 98)),
        labelled(138, 70, 118, 56, "112 x 112", "RGB, -1 .. 1"),
        arrow((256, 84), (300, 84), (300, 70), (330, 70)),
        labelled(330, 48, 96, 44, "scorer"),
        arrow((426, 70), (458, 70)),
        labelled(458, 48, 92, 44, f"score {middle.score:.2f}"),
        arrow((550, 70), (582, 70)),
        labelled(582, 48, 92, 44, f"gate {middle.gate:.2f}"),
        arrow((628, 92), (628, 132)),
        arrow((256, 112), (300, 112), (300, 156), (330, 156)),
        labelled(330, 132, 344, 48, "backbone, whose adapted layers read the gate"),
        arrow((502, 180), (502, 206)),
        labelled(330, 206, 344, 40, f"embedding: {size} numbers; its direction counts"),
        text(24, 284, "What low resolution does to it before any adaptation: cosine to the same picture at 112 px"),
    ]  # fmt: skip
    parts += [_bars(300), text(24, 466, f"By {BASE}, which knows high resolution only, on painted faces.", "soft")]
    told = "; ".join(f"{face.side} px: cosine {face.cosine:.2f}" for face in ladder())
    told = f"A face becomes a score, a gate and an embedding. {told}; a stranger at 112 px: {stranger():.2f}"
    return picture("How a low-resolution face becomes a score, a gate and an embedding", told, 482, parts)


def _bars(top: float) -> Markup:
    left, width = 130, 540
    rows = [(f"{face.side} px", face.cosine, BLUE) for face in ladder()]
    rows.append(("a stranger", stranger(), ORANGE))
    parts = []
    for number, (label, cosine, kind) in enumerate(rows):
        y = top + 24 * number
        parts += [
            text(left - 10, y + 13, label, "", "end"),
            box(left, y, max(2.0, width * max(0.0, cosine)), 17, kind),
            text(left + width * max(0.0, cosine) + 8, y + 13, f"{cosine:.2f}", "mono"),
        ]
    return join(parts)


FIGURES = {"gate": draw_gate, "gate_forms": draw_forms, "two_branches": draw_branches, "face_to_embedding": draw_path}
