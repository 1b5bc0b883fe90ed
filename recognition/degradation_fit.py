"""Fits the network of the scorer `degradation`: faces made worse in known ways, and a label of what that costs.

A level is log2(effective side / 112): the side to which a clean reduction hides as much from recognition.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from iqa._image import LUMA
from iqa.degradation import LevelNetwork
from recognition.data.decode import decode
from recognition.data.degrade import Degradation, Draw, apply, low_res
from recognition.data.records import Records
from recognition.types import IMAGE_SIZE

SIDES = (5, IMAGE_SIZE)
WORST = -5.0  # no network tells faces below 4 pixels apart
KINDS = (  # a batch of faces is made worse in one of these ways, or by _aligned()
    Degradation(0.7, SIDES),  # one face in eleven stays as stored: with one in forty, 0 was never told of LFW's
    Degradation(0.7, SIDES),
    Degradation(1.0, SIDES, blur=1.2),
    Degradation(1.0, SIDES, noise=16),
    Degradation(1.0, SIDES, jpeg=(25, 95)),
    Degradation(1.0, SIDES, blur=0.8, noise=10, jpeg=(30, 95)),
)
HOLD_OUT = 8  # people whose class is divisible by it are not learned from
LADDER = (112, 56, 28, 14, 7)  # pixels
BATCH, LR, DECAY, WARM_UP = 64, 3e-3, 1e-3, 0.1
STEPS_OF_LUMA = 256  # stored as integers: finer than the grey levels of an image, half the memory of float32
FACES_AT_ONCE = 48


@dataclass(frozen=True)
class Shown:
    """Faces made worse. luma: (N, 112, 112) uint16, in 1/256 grey level. level: (N,) float32."""

    luma: np.ndarray
    level: np.ndarray

    def batch(self, rows: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
        """(B, 1, 112, 112) luma in [0, 255] and (B,) levels."""
        grey = torch.from_numpy(self.luma[rows].astype(np.float32) / STEPS_OF_LUMA)
        return grey[:, None].to(device), torch.from_numpy(self.level[rows]).to(device)


def effective_level(draw: Draw, size: int = IMAGE_SIZE) -> np.ndarray:
    """(B,) float32 in [-5, 0]: log2(side / 112) less what blur, noise and JPEG cost.

        log2(1 + (sigma / 0.5)^3) / 3           blur of sigma low-resolution pixels
        log2(1 + (noise / 12)^2) / 2            noise of `noise` grey levels
        0.42 log2(1 + step / 40)                JPEG; step = its quantiser's in percent: 200 - 2 q, or 5000 / q below 50

    The constants are fitted by eye to what MobileFaceNet (y1) sees: the cosine between an LFW face made worse and the
    face itself, in the mean over 96, was turned into the side of a clean reduction with the same cosine. At 14, 28 and
    56 pixels the blur of 0.25, 0.4, 0.6, 0.8, 1.2, 2 pixels cost 0.05, 0.18, 0.45, 0.75, 1.3, 2.1 octaves; at 14 and 28
    pixels noise of 3, 6, 12, 24 levels 0.04, 0.15, 0.48, 1.1 (at 56: 0.3 more); JPEG of quality 95, 80, 60, 40, 20
    cost 0.1, 0.43, 0.69, 0.86, 1.17. That the three add up is an assumption.
    """
    side = np.where(draw.side > 0, draw.side, size)
    step = np.where(draw.quality < 50, 5000 / np.maximum(draw.quality, 1), 200 - 2 * draw.quality)
    level = (
        np.log2(side / size)
        - np.log2(1 + (draw.sigma / 0.5) ** 3) / 3
        - np.log2(1 + (draw.noise / 12) ** 2) / 2
        - 0.42 * np.log2(1 + np.where(draw.quality > 0, step, 0) / 40)
    )
    return np.maximum(level, WORST).astype(np.float32)


def held_out(records: Records) -> np.ndarray:
    """(N,) bool: images of people that fit() does not learn from."""
    return records.class_ids[records.labels] % HOLD_OUT == 0


def make_worse(sets: Sequence[tuple[Records, np.ndarray]], images: int, seed: int) -> Shown:
    """`images` faces, as many from each set, each made worse in a way of its own; a pure function of its arguments.

    sets: records, and (n,) which of them to take; a set of fewer images gives some of them again, made worse otherwise.
    """
    if not sets or images < len(sets) or any(not len(rows) for _, rows in sets):
        raise ValueError(f"{images} images of {len(sets)} record sets: give one image at least of each, and one set")
    rng = np.random.default_rng(seed)
    jobs = [job for records, rows in sets for job in _jobs(records, rows, images // len(sets), rng)]
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for number, job in enumerate(tqdm(jobs, "making worse", disable=_quiet(), leave=False)):
        parts.append(_worse(_dimmed(_decoded(*job), rng), number, seed, rng))
    return Shown(np.concatenate([luma for luma, _ in parts]), np.concatenate([level for _, level in parts]))


def fit(shown: Shown, epochs: int, seed: int, device: torch.device) -> LevelNetwork:
    """A network that learned the levels: smooth L1, AdamW, one cycle of the learning rate. A pure function."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = LevelNetwork()
    network.to(device)
    count = max(1, len(shown.level) // BATCH)
    solver = torch.optim.AdamW(network.parameters(), LR, weight_decay=DECAY)
    rate = torch.optim.lr_scheduler.OneCycleLR(solver, LR, total_steps=epochs * count + 1, pct_start=WARM_UP)
    rng = np.random.default_rng(seed)
    batches = _batches(len(shown.level), epochs, count, rng)
    for rows in tqdm(batches, "learning", epochs * count, disable=_quiet(), leave=False):
        grey, level = shown.batch(rows, device)
        if rng.random() < 0.5:
            grey = grey.flip(3)
        loss = F.smooth_l1_loss(network(grey), level, beta=0.3)
        solver.zero_grad()
        loss.backward()
        solver.step()
        rate.step()
    return network.eval()


@torch.no_grad()
def told(network: LevelNetwork, shown: Shown, device: torch.device) -> np.ndarray:
    """(N,) what the network says."""
    rows = np.arange(len(shown.level))
    return np.concatenate(
        [network(shown.batch(part, device)[0]).cpu().numpy() for part in np.array_split(rows, -(-len(rows) // BATCH))]
    )


def report(network: LevelNetwork, sets: Sequence[tuple[Records, np.ndarray]], seed: int) -> list[str]:
    """Lines about faces of people that it never saw: how near it comes, and what it says down the ladder."""
    device, lines = next(network.parameters()).device, []
    for records, rows in sets:
        shown = make_worse([(records, rows)], min(len(rows), 960), seed)
        said = told(network, shown, device)
        order = np.corrcoef(said.argsort().argsort(), shown.level.argsort().argsort())[0, 1]
        rungs = []
        faces = torch.from_numpy(_decoded(records, rows[:FACES_AT_ONCE]))
        for side in LADDER:
            clean = Shown(_luma(low_res(faces, side)), np.zeros(len(faces), np.float32))
            rungs.append(f"{np.median(told(network, clean, device)):.2f}")
        lines.append(
            f"held-out people, {len(said):,} faces: mean error {np.abs(said - shown.level).mean():.2f} octaves, rank "
            f"correlation {order:.3f}; median at {', '.join(map(str, LADDER))} px: {', '.join(rungs)}"
        )
    return lines


def _batches(images: int, epochs: int, count: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    for _ in range(epochs):
        order = rng.permutation(images)
        yield from (np.sort(order[n * BATCH : (n + 1) * BATCH]) for n in range(count))


def _jobs(
    records: Records, rows: np.ndarray, images: int, rng: np.random.Generator
) -> Iterator[tuple[Records, np.ndarray]]:
    again = math.ceil(images / len(rows))
    chosen = np.concatenate([rng.permutation(rows) for _ in range(again)])[:images]
    yield from ((records, chosen[n : n + FACES_AT_ONCE]) for n in range(0, images, FACES_AT_ONCE))


def _decoded(records: Records, rows: np.ndarray) -> np.ndarray:
    """(n, 112, 112, 3) uint8 RGB."""
    return np.stack([decode(records.read(int(i)), IMAGE_SIZE, records.where(int(i))) for i in rows])


def _dimmed(faces: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Half of them with less contrast or another brightness, as of a poor exposure."""
    gain = np.where(rng.random(len(faces)) < 0.5, rng.uniform(0.5, 1.1, len(faces)), 1.0)
    offset = rng.random(len(faces)) * np.maximum(255 - 255 * gain, 0)
    per_image = (slice(None), None, None, None)
    return np.clip(faces * gain[per_image] + offset[per_image], 0, 255).astype(np.uint8)


def _worse(faces: np.ndarray, number: int, seed: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Luma and levels of a batch; which way is the batch's number's."""
    kind = number % (len(KINDS) + 1)
    if kind == len(KINDS):
        sides = np.floor(SIDES[0] * ((SIDES[1] + 1) / SIDES[0]) ** rng.random(len(faces))).astype(int)
        done = [_aligned(face, int(side), rng) for face, side in zip(faces, sides, strict=True)]
        level = np.log2(sides / IMAGE_SIZE).astype(np.float32)
        return _luma(torch.from_numpy(np.stack(done))), level
    draw = KINDS[kind].draw(seed, number * FACES_AT_ONCE + np.arange(len(faces)))
    return _luma(apply(torch.from_numpy(faces), draw)), effective_level(draw)


def _aligned(face: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """As records of small faces are made: photographed askew at `side` pixels, then turned upright and enlarged."""
    centre, whole = (IMAGE_SIZE - 1) / 2, (IMAGE_SIZE, IMAGE_SIZE)
    turn = cv2.getRotationMatrix2D((centre, centre), rng.uniform(-30, 30), 1.0)
    askew = cv2.warpAffine(face, turn, whole, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    small = cv2.resize(askew, (side, side), interpolation=cv2.INTER_AREA)
    scale = side / IMAGE_SIZE
    to_small = scale * turn + np.array([[0, 0, (scale - 1) / 2]] * 2)  # pixel centres onto pixel centres
    way = cv2.INTER_LINEAR if rng.random() < 0.5 else cv2.INTER_CUBIC
    return cv2.warpAffine(small, to_small, whole, flags=way | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE)


def _luma(faces: Tensor) -> np.ndarray:
    """(B, 112, 112, 3) uint8 -> (B, 112, 112) uint16."""
    grey = faces.float() @ torch.tensor(LUMA)
    return (grey * STEPS_OF_LUMA).round().clamp(max=2**16 - 1).numpy().astype(np.uint16)


def _quiet() -> bool:
    return not sys.stderr.isatty()
