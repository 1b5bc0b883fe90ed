"""Low resolution as the wild makes it: kernels, noises and interpolations of many kinds, in random order.

Real-ESRGAN's and BSRGAN's chains, cut to what happens to a face: Wang et al. 2021 (2107.10833), Zhang et al. 2021
(2103.14006). As in the plain chain an image's result is the same alone and in any batch, bit for bit.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from recognition.data import _draws
from recognition.data._interpolate import INTERPOLATIONS, resizing
from recognition.data._jpeg import jpeg
from recognition.data._kernels import KERNELS, NARROWEST, SHAPES, blur, pixels
from recognition.data._resample import on_device, resample, whole
from recognition.data.degrade import Degradation, Draw
from recognition.registry import nearest

NOISES = ("gaussian", "grey", "shot", "sensor")
_GAUSSIAN, _GREY, _SHOT, _SENSOR = range(len(NOISES))
WAYS = ("area", "bilinear", "bicubic", "nearest")  # of INTERPOLATIONS, those of this chain
STEPS = ("blur", "noise", "jpeg", "down")
_BLUR, _NOISE, _JPEG, _DOWN = range(len(STEPS))
_ORDERS = np.array([*itertools.permutations(range(len(STEPS)))])
MIDDLE = 128.0  # the grey level at which shot noise has the standard deviation drawn
_CANVASES = (16, 32, 48, 64, 80)  # images share a canvas with others of about their side; multiples of JPEG's 16
# One number for each thing drawn of an image; those of the parent have their own streams
_TWO, _FIRST, _ORDER, _KERNEL, _ANGLE, _RATIO, _SHAPE, _KIND, _PHASE, _DOWN_1, _DOWN_2, _UP = range(12)


@dataclass(frozen=True)
class RealisticDraw(Draw):
    """What happens to each image of a batch, beyond what Draw says. Arrays (B,) on the CPU; kinds by their number."""

    first: np.ndarray  # int64, side in pixels that the first reduction goes to; that of the small image = one stage
    order: np.ndarray  # (B, 4) int64: the steps one after the other
    kernel: np.ndarray  # int64, of KERNELS
    angle: np.ndarray  # float64, radians, of the kernel's long axis
    ratio: np.ndarray  # float64, its short axis by its long one
    shape: np.ndarray  # float64, exponent of the generalised kernel
    kind: np.ndarray  # int64, of NOISES
    phase: np.ndarray  # int64, 0 .. 3: where the Bayer mosaic begins
    down: np.ndarray  # (B, 2) int64, of INTERPOLATIONS: of the two reductions
    up: np.ndarray  # int64, of INTERPOLATIONS

    def rows(self, rows: np.ndarray) -> RealisticDraw:
        """The draw of those rows only."""
        return RealisticDraw(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


@dataclass(frozen=True)
class RealisticDegradation(Degradation):
    """Which images are degraded, and how much: Degradation, with a chain drawn anew for each image.

    112 px -> `first` px -> the side drawn, and back to 112 px. Half of the images go to their side at once. The others
    are caught at a larger one first, log-uniform up to first_stage times the side; there or at the small side (what is
    further away is averaged away) come one blur, one noise and one JPEG, in random order, the second reduction anywhere
    among them. Strengths are those of Degradation, drawn alike: blur in pixels of the small image wherever it
    happens, noise in grey levels and JPEG's quality of the picture as it then is. 0, or None, leaves a step out.

    share, sides, spread and what else there is: as Degradation's. `level` speaks of the smallest side.
    kernels: kinds of blur of a standard deviation sigma in [0, blur], along the longer axis:
        "isotropic" Gaussian; "anisotropic", at any angle, the other axis 0.2 to 1 times as long; "generalised":
        exp(-(r / s)^(2 b) / 2), b in [0.5, 4], anisotropic too; "motion": a straight line; "sinc": an ideal low-pass
        that rings as sharpening does, half-way down where the Gaussian is.
    noises: kinds of noise of a standard deviation in [0, noise] grey levels:
        "gaussian" in each channel, "grey" the same in all three, "shot": its square grows with the pixel, sigma at 128;
        "sensor": shot and read noise in equal parts, of a Bayer mosaic's single colours, spread by the bilinear
        interpolation that makes colours of them; the picture itself is spared, whose every pixel is an edge at this
        size, and in display grey levels (a camera's are linear).
    down, up: interpolations of the reductions and of the enlargement: area, bilinear, bicubic, nearest, as OpenCV does
        them: only area looks at every pixel, the others alias.
    first_stage: largest ratio of the first reduction's side to the small one, 1 .. 16; 1 = one stage only.

    In all four lists kinds are equally likely, and one that stands there twice is twice as likely.
    Differs from the programs: one round of each step, in place of Real-ESRGAN's two; no enlarging on the way; sensor
    noise without colour matrices and tone curves; shot noise is a Gaussian of Poisson's variance.

    Time at batch 64 on one core, all images degraded, sides 7 .. 56, blur 1.5, noise 12, JPEG 30 .. 95:
    1.9 ms an image, where Degradation takes 1.7 ms; without JPEG 1.4 ms.
    """

    kernels: tuple[str, ...] = KERNELS
    noises: tuple[str, ...] = NOISES
    down: tuple[str, ...] = WAYS
    up: tuple[str, ...] = ("bicubic", "bilinear")
    first_stage: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (("kernels", KERNELS), ("noises", NOISES), ("down", WAYS), ("up", WAYS)):
            given = getattr(self, name)
            if isinstance(given, str) or not len(given):
                raise ValueError(f"degradation: {name}={given!r} must be a list of one or more of {', '.join(known)}")
            for kind in given:
                if kind not in known:
                    raise ValueError(
                        f"degradation: {name} has '{kind}', of which there is none{nearest(str(kind), known)}"
                    )
        if not 1 <= self.first_stage <= 16:
            raise ValueError(f"degradation: first_stage={self.first_stage!r} must be a ratio of sides in 1 .. 16")

    def draw(self, seed: int, positions: ArrayLike) -> RealisticDraw:
        """What happens to the images at these global positions: a pure function of seed and position, one by one."""
        plain = super().draw(seed, positions)
        own = int(_draws.hashed(seed, _draws.CHAIN, 0))
        u = [_draws.uniform(own, number, positions) for number in range(12)]

        def one_of(number: int, given: tuple[str, ...], known: tuple[str, ...]) -> np.ndarray:
            return np.array([known.index(kind) for kind in given])[(u[number] * len(given)).astype(np.int64)]

        larger = np.maximum(np.rint(plain.side * self.first_stage ** u[_FIRST]), plain.side).astype(np.int64)
        return RealisticDraw(
            **{field.name: getattr(plain, field.name) for field in fields(plain)},
            first=np.where(u[_TWO] < 0.5, plain.side, larger),
            order=_ORDERS[(u[_ORDER] * len(_ORDERS)).astype(np.int64)],
            kernel=one_of(_KERNEL, self.kernels, KERNELS),
            angle=u[_ANGLE] * np.pi,
            ratio=NARROWEST + u[_RATIO] * (1 - NARROWEST),
            shape=SHAPES[0] * (SHAPES[1] / SHAPES[0]) ** u[_SHAPE],
            kind=one_of(_KIND, self.noises, NOISES),
            phase=(u[_PHASE] * 4).astype(np.int64),
            down=np.stack([one_of(number, self.down, INTERPOLATIONS) for number in (_DOWN_1, _DOWN_2)], axis=1),
            up=one_of(_UP, self.up, INTERPOLATIONS),
        )


def apply(images: Tensor, draw: RealisticDraw) -> Tensor:
    """Degrade a batch on the device it lies on. Untouched images come back bit for bit; the input is not written to.

    images: (B, H, H, 3) uint8. Returns the same shape, uint8. A first reduction to more than H goes to H.
    ValueError as recognition.data.degrade.apply.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != 3 or images.shape[1] != images.shape[2]:
        raise ValueError(
            f"degradation takes square images (B, H, H, 3) of uint8, got {tuple(images.shape)} of {images.dtype}"
        )
    if len(draw) != len(images):
        raise ValueError(f"degradation of {len(images)} images with a draw for {len(draw)}")
    if len(draw) and draw.side.max() > images.shape[1]:
        raise ValueError(
            f"a low resolution of {draw.side.max()} px is above the images' {images.shape[1]} px: lower the "
            "degradation's sides"
        )
    rows = np.flatnonzero(draw.side)
    if not len(rows):
        return images
    chosen = on_device(rows, images.device)
    return images.index_copy(0, chosen, _Chain(images[chosen], draw.rows(rows)).run())


class _Chain:
    """Pictures on their way, float64 between 0 and 255: each in the upper left corner of a canvas that all share."""

    def __init__(self, images: Tensor, draw: RealisticDraw) -> None:
        self.images, self.draw = images, draw
        self.size, self.device = images.shape[1], images.device
        self.side = np.minimum(draw.first, self.size)  # of each picture, as it is now
        canvas = int(_canvas(self.side).max())
        self.picture = torch.zeros(len(images), canvas, canvas, 3, dtype=torch.float64, device=self.device)

    def run(self) -> Tensor:
        """(B, H, H, 3) uint8."""
        draw, old = self.draw, np.full(len(self.side), self.size)
        for rows, here, canvas in self._groups(self.side):
            matrix = resizing(draw.down[rows, 0], old[rows], self.side[rows], self.size, canvas)
            small = resample(on_device(matrix, self.device), self.images[here].double())
            self.picture[here, :canvas, :canvas] = small.clamp_(0, 255)
        wanted = {_BLUR: draw.sigma > 0, _NOISE: draw.noise > 0, _JPEG: draw.quality > 0, _DOWN: draw.side < self.side}
        steps: dict[int, Callable[[Tensor, np.ndarray], Tensor]]
        steps = {_BLUR: self._blur, _NOISE: self._noise, _JPEG: self._jpeg, _DOWN: self._down}
        left = [[step for step in order if wanted[step][row]] for row, order in enumerate(draw.order.tolist())]
        while any(left):  # each round takes along every picture whose turn it is
            for step, act in steps.items():
                turn = np.array([row for row, todo in enumerate(left) if todo and todo[0] == step], np.int64)
                if len(turn):
                    self._take(act, turn)
                    for row in turn:
                        del left[row][0]
                    if step == _DOWN:
                        self.side[turn] = draw.side[turn]
        out = torch.empty_like(self.images)
        for rows, here, canvas in self._groups(self.side):
            matrix = resizing(draw.up[rows], self.side[rows], old[rows], canvas, self.size)
            out[here] = whole(resample(on_device(matrix, self.device), self.picture[here, :canvas, :canvas])).to(
                out.dtype
            )
        return out

    def _take(self, act: Callable[[Tensor, np.ndarray], Tensor], turn: np.ndarray) -> None:
        for rows, _, canvas in self._groups(self.side[turn]):
            here = on_device(turn[rows], self.device)
            self.picture[here, :canvas, :canvas] = act(self.picture[here, :canvas, :canvas], turn[rows]).clamp_(0, 255)

    def _groups(self, side: np.ndarray) -> Iterator[tuple[np.ndarray, Tensor, int]]:
        """Pictures of about one side: their rows, on the CPU and on the device, and their canvas."""
        canvas = _canvas(side)
        for one in np.unique(canvas).tolist():
            rows = np.flatnonzero(canvas == one)
            yield rows, on_device(rows, self.device), one

    def _blur(self, x: Tensor, rows: np.ndarray) -> Tensor:
        draw, side = self.draw, self.side[rows]
        sigma = draw.sigma[rows] * side / draw.side[rows]
        kernel, angle, ratio, shape = (a[rows] for a in (draw.kernel, draw.angle, draw.ratio, draw.shape))
        return blur(x, side, kind=kernel, sigma=sigma, angle=angle, ratio=ratio, shape=shape)

    def _jpeg(self, x: Tensor, rows: np.ndarray) -> Tensor:
        within = on_device(np.minimum(np.arange(x.shape[1]), self.side[rows, None] - 1), self.device)
        return jpeg(whole(pixels(x, within)), self.side[rows], self.draw.quality[rows])

    def _down(self, x: Tensor, rows: np.ndarray) -> Tensor:
        matrix = resizing(self.draw.down[rows, 1], self.side[rows], self.draw.side[rows], x.shape[1], x.shape[1])
        return resample(on_device(matrix, self.device), x)

    def _noise(self, x: Tensor, rows: np.ndarray) -> Tensor:
        kind = self.draw.kind[rows]
        normals = on_device(self._normals(rows, x.shape[1]), self.device)  # times the standard deviation
        # of the noise's square, how much grows with the pixel
        shot = on_device(np.select([kind == _SHOT, kind == _SENSOR], [1.0, 0.5]), self.device)[:, None, None, None]
        noise = (1 - shot + shot * x / MIDDLE).sqrt() * normals
        sensor = np.flatnonzero(kind == _SENSOR)
        if len(sensor):
            here = on_device(sensor, self.device)
            noise[here] = _demosaiced(noise[here], self.side[rows][sensor], self.draw.phase[rows][sensor])
        return x + noise

    def _normals(self, rows: np.ndarray, canvas: int) -> np.ndarray:
        """(B, canvas, canvas, 3); each image's have its own side, so that the canvas changes none."""
        field = np.zeros((len(rows), canvas, canvas, 3))
        for i, row in enumerate(rows):
            side, channels = int(self.side[row]), 1 if self.draw.kind[row] in (_GREY, _SENSOR) else 3
            generator = np.random.Generator(np.random.Philox(key=self.draw.noise_seed[row]))
            field[i, :side, :side] = self.draw.noise[row] * generator.standard_normal((side, side, channels))
        return field


def _canvas(side: np.ndarray) -> np.ndarray:
    """The canvas of each side: one of few, so that pictures share them."""
    return np.select([side <= canvas for canvas in _CANVASES], _CANVASES, -(-side // 16) * 16)


def _demosaiced(raw: Tensor, side: np.ndarray, phase: np.ndarray) -> Tensor:
    """Of each pixel the one colour that a Bayer sensor (RGGB) sees there, the others bilinear from its neighbours.

    raw: (B, C, C, 3). side: (B,) the image's side: what lies beyond is not looked at. phase: (B,) 0 .. 3.
    """
    pixel = np.arange(raw.shape[1])
    odd_row, odd_column = (pixel + (phase // 2)[:, None]) % 2, (pixel + (phase % 2)[:, None]) % 2
    colour = odd_row[:, :, None] + odd_column[:, None, :]  # 0 red, 1 green, 2 blue
    inside = pixel < side[:, None]
    seen = (colour[..., None] == np.arange(3)) & (inside[:, :, None] & inside[:, None, :])[..., None]
    mask = on_device(seen, raw.device).double()
    total, weight = _neighbours(raw * mask), _neighbours(mask)
    return torch.where(weight > 0, total / weight.clamp(min=1), raw)


def _neighbours(x: Tensor) -> Tensor:
    """Sums over 3 x 3 pixels with the weights of bilinear demosaicing; green's leave the corners out."""
    x = torch.nn.functional.pad(x, (0, 0, 1, 1, 1, 1))
    rows = x[:, :-2] + x[:, 2:]
    beside = x[:, 1:-1, :-2] + x[:, 1:-1, 2:] + rows[:, :, 1:-1]
    corners = rows[:, :, :-2] + rows[:, :, 2:]
    corners[..., 1] = 0
    return 4 * x[:, 1:-1, 1:-1] + 2 * beside + corners
