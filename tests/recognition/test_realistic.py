import importlib.util
import itertools
import math
from contextlib import closing
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from recognition.config import ConfigError, load
from recognition.data import degrade
from recognition.data._interpolate import INTERPOLATIONS
from recognition.data._kernels import HALF, KERNELS, blur
from recognition.data.augment import finish
from recognition.data.dali_loader import DaliLoader
from recognition.data.degrade import Degradation
from recognition.data.order import SampleOrder
from recognition.data.realistic import NOISES, STEPS, WAYS, RealisticDegradation, RealisticDraw, apply
from recognition.data.recordio import Header, RecordWriter, pack
from recognition.data.records import Records
from recognition.data.torch_loader import TorchLoader
from recognition.inputs import build_degradation
from tests.small import photos

STRENGTHS = {"blur": 1.5, "noise": 12.0, "jpeg": (30, 95)}
EVERYTHING = RealisticDegradation(0.8, (7, 60), **STRENGTHS)


PHOTOS = torch.from_numpy(photos(12))


def test_it_degrades_the_images_that_the_plain_chain_does_to_the_same_sides():
    positions = np.arange(500)
    for settings in ({}, {"spread": "uniform"}, {"choose": "half_batch", "global_batch": 10, "epoch_size": 100}):
        ours = RealisticDegradation(0.5, (7, 60), **STRENGTHS, **settings).draw(2, positions)
        plain = Degradation(0.5, (7, 60), **STRENGTHS, **settings).draw(2, positions)
        for name in ("side", "sigma", "noise", "quality", "noise_seed", "level"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(plain, name))


def test_what_is_drawn_lies_in_its_ranges():
    draw = RealisticDegradation(1.0, (7, 60), **STRENGTHS).draw(0, np.arange(24_000))
    ratio = draw.first / draw.side
    assert ratio.min() == 1 and 3.9 < ratio.max() < 4.1
    assert 0.5 < (ratio == 1).mean() < 0.56
    assert abs((ratio > 2).mean() - 0.25) < 0.02  # log-uniform
    orders, counts = np.unique(draw.order, axis=0, return_counts=True)
    assert len(orders) == 24 and (np.sort(orders, axis=1) == np.arange(4)).all() and counts.min() > 850
    for drawn, known in ((draw.kernel, KERNELS), (draw.kind, NOISES), (draw.phase, range(4))):
        counts = np.bincount(drawn)
        assert len(counts) == len(known) and np.ptp(counts) < 0.1 * len(drawn) / len(known)
    ways = {INTERPOLATIONS.index(way) for way in WAYS}
    assert {*draw.down[:, 0].tolist()} == {*draw.down[:, 1].tolist()} == ways
    assert {*draw.up.tolist()} == {INTERPOLATIONS.index("bicubic"), INTERPOLATIONS.index("bilinear")}
    assert draw.angle.min() >= 0 and draw.angle.max() < np.pi
    assert draw.ratio.min() >= 0.2 and draw.ratio.max() <= 1 and draw.shape.min() >= 0.5 and draw.shape.max() <= 4
    many = [draw.side, ratio, draw.order[:, 0], draw.kernel, draw.angle, draw.ratio, draw.shape, draw.kind, draw.phase]
    many += [*draw.down.T, draw.up, draw.sigma, draw.noise, draw.quality]
    assert np.abs(np.corrcoef(many) - np.eye(len(many))).max() < 0.03
    one = RealisticDegradation(1.0, kernels=("sinc",), noises=("grey", "shot", "shot"), first_stage=1).draw(
        0, range(999)
    )
    assert {*one.kernel.tolist()} == {KERNELS.index("sinc")} and (one.first == one.side).all()
    assert abs((one.kind == NOISES.index("shot")).mean() - 2 / 3) < 0.05


def test_an_image_does_not_depend_on_its_batch():
    pictures, positions = PHOTOS.repeat(5, 1, 1, 1), np.arange(300, 360)
    before, draw = pictures.clone(), EVERYTHING.draw(7, positions)
    batch = apply(pictures, draw)
    assert torch.equal(pictures, before) and batch.dtype == torch.uint8
    assert torch.equal(apply(pictures, draw), batch), "the draw is not to be used up"
    np.testing.assert_array_equal((batch != pictures).flatten(1).any(1).numpy(), draw.side > 0)
    for i, position in enumerate(positions):
        assert torch.equal(apply(pictures[i : i + 1], EVERYTHING.draw(7, [position]))[0], batch[i])
    half = torch.cat([apply(pictures[n::2], EVERYTHING.draw(7, positions[n::2])) for n in range(2)])
    assert torch.equal(half, torch.cat([batch[0::2], batch[1::2]]))
    assert apply(pictures, replace(draw, side=draw.side * 0)) is pictures


def kernel_by_loops(kind: str, sigma: float, angle: float, ratio: float, shape: float, reach: int) -> np.ndarray:
    """Weights at (row, column) offsets -reach .. reach, by the words of the docstrings."""
    found = np.zeros((2 * reach + 1, 2 * reach + 1))
    for i, j in itertools.product(range(-reach, reach + 1), repeat=2):
        along, across = j * math.cos(angle) + i * math.sin(angle), -j * math.sin(angle) + i * math.cos(angle)
        if kind == "isotropic":
            weight = math.exp(-(i * i + j * j) / (2 * sigma**2))
        elif kind == "anisotropic":
            weight = math.exp(-((along / sigma) ** 2 + (across / sigma / ratio) ** 2) / 2)
        elif kind == "generalised":
            second_moment = 2 ** (1 / shape) * math.gamma(2 / shape) / math.gamma(1 / shape) / 2
            scale = sigma / math.sqrt(second_moment)
            weight = math.exp(-(((along / scale) ** 2 + (across / scale / ratio) ** 2) ** shape) / 2)
        elif kind == "motion":
            weight = max(0.0, 1 - math.hypot(max(0.0, abs(along) - max(0.0, math.sqrt(3) * sigma - 0.5)), across))
        else:
            t = np.linspace(0, np.pi, 2001)  # the disc's transform: J1(x) = mean of cos(t - x sin t)
            x = HALF / sigma * math.hypot(i, j)
            weight = 0.5 if x == 0 else float(np.trapezoid(np.cos(t - x * np.sin(t)), t)) / math.pi / x
        found[reach + i, reach + j] = weight
    return found / found.sum()


@pytest.mark.parametrize("kind", KERNELS)
def test_blur_is_a_convolution_with_the_kernel(kind):
    side, canvas, sigma, angle, ratio, shape = 24, 32, 1.4, 0.6, 0.4, 0.8
    reach = math.ceil((7 if kind == "sinc" else 3) * sigma)
    weights = kernel_by_loops(kind, sigma, angle, ratio, shape, reach)
    picture = torch.zeros(2, canvas, canvas, 3, dtype=torch.float64)
    picture[:, :side, :side] = PHOTOS[:2, :side, :side]
    picture[1, side:] = picture[1, :, side:] = 99  # beyond the image, and not to be looked at

    def ours(side: int, sigma: float) -> np.ndarray:
        arguments = {"sigma": sigma, "angle": angle, "ratio": ratio, "shape": shape}
        arrays = {name: np.full(2, value) for name, value in arguments.items()}
        return blur(picture, np.full(2, side), kind=np.full(2, KERNELS.index(kind)), **arrays)[:, :side, :side].numpy()

    wide = np.pad(picture[:, :side, :side].numpy(), ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
    wanted = np.zeros((2, side, side, 3))
    for i, j in itertools.product(range(2 * reach + 1), repeat=2):  # an even kernel: convolution is correlation
        wanted += weights[i, j] * wide[:, i : i + side, j : j + side]
    np.testing.assert_allclose(ours(side, sigma), wanted, atol=1e-4)
    if kind != "sinc":
        assert np.abs(ours(side, 1e-9) - picture[:, :side, :side].numpy()).max() < 1e-6, "a sigma of 0 is no blur"
    offset = np.arange(-reach, reach + 1)
    along = offset * math.cos(angle) + offset[:, None] * math.sin(angle)
    spread = math.sqrt((weights * along**2).sum())
    assert kind == "sinc" or 0.8 * sigma < spread < 1.1 * sigma, "sigma is the standard deviation along the axis"


def only(side: int, **settings) -> RealisticDraw:
    """A draw of 12 images that go to `side` at once by area and come back by nearest."""
    strengths = {"share": 1.0, "sides": (side, side), "down": ("area",), "up": ("nearest",), "first_stage": 1}
    return RealisticDegradation(**strengths, **settings).draw(1, np.arange(12))


@pytest.mark.parametrize("kind", NOISES)
def test_noise_is_what_its_name_says(kind):
    draw = only(112, noise=10.0, noises=(kind,))
    draw.noise[:] = 10.0

    def noise(level: int) -> np.ndarray:
        picture = torch.full((12, 112, 112, 3), level, dtype=torch.uint8)
        return apply(picture, draw).numpy() - float(level)

    middle, dark = noise(128), noise(64)
    assert abs(middle.mean()) < 0.3
    assert np.abs(np.corrcoef(middle.reshape(12, -1)) - np.eye(12)).max() < 0.03, "another one for each image"
    channels = np.corrcoef(middle.reshape(-1, 3).T)[0, 1]
    beside = np.corrcoef(middle[:, :, 1:].ravel(), middle[:, :, :-1].ravel())[0, 1]
    if kind == "sensor":  # bilinear: each colour's missing pixels are means of their neighbours
        assert beside > 0.3 and 4 < middle.std() < 8 and abs(channels) < 0.2
        assert dark.std() / middle.std() == pytest.approx(math.sqrt(0.75), abs=0.03)
        return
    assert middle.std() == pytest.approx(10, abs=0.1) and abs(beside) < 0.01
    assert channels == pytest.approx(1 if kind == "grey" else 0, abs=0.01)
    assert dark.std() / middle.std() == pytest.approx(math.sqrt(0.5) if kind == "shot" else 1, abs=0.03)


def test_sensor_noise_is_the_demosaiced_noise_of_single_colours():
    draw = only(6, noise=10.0, noises=("sensor",))
    grey = torch.full((12, 112, 112, 3), 128, dtype=torch.uint8)
    small = apply(grey, draw).numpy()[:, 9::19, 9::19] - 128.0
    for row in range(12):
        raw = np.random.Generator(np.random.Philox(key=draw.noise_seed[row])).standard_normal((6, 6)) * draw.noise[row]
        for i, j, colour in itertools.product(range(6), range(6), range(3)):
            total, weight = 0.0, 0.0
            for a, b in itertools.product((-1, 0, 1), repeat=2):
                inside = 0 <= i + a < 6 and 0 <= j + b < 6
                corner = abs(a) + abs(b) == 2
                seen = (i + a + draw.phase[row] // 2) % 2 + (j + b + draw.phase[row] % 2) % 2
                if inside and seen == colour and not (corner and colour == 1):
                    total += raw[i + a, j + b] * 0.5 ** (abs(a) + abs(b))
                    weight += 0.5 ** (abs(a) + abs(b))
            assert small[row, i, j, colour] == pytest.approx(total / weight, abs=0.51)


@pytest.mark.parametrize(("quality", "mean", "most"), [(None, 0.3, 1.6), ((50, 90), 2.0, 255)])
def test_the_chain_follows_its_order(quality, mean, most):
    """Each image again with OpenCV, one step after the other; JPEG's quantiser may fall to the other side."""
    flags = {"area": cv2.INTER_AREA, "bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}
    ways = ("area", "bilinear", "bicubic")
    chain = RealisticDegradation(
        1.0, (20, 50), 1.2, 0.0, quality, kernels=("isotropic",), down=ways, up=("bicubic", "area", "bilinear")
    )
    pictures, positions = PHOTOS.repeat(3, 1, 1, 1), np.arange(36)
    draw, orders = chain.draw(0, positions), set()
    for mine, x, i in zip(apply(pictures, draw).numpy(), pictures.numpy(), positions, strict=True):
        name = [INTERPOLATIONS[n] for n in (*draw.down[i], draw.up[i])]
        side, first = int(draw.side[i]), min(int(draw.first[i]), 112)
        x = cv2.resize(x.astype(np.float32), (first, first), interpolation=flags[name[0]]).clip(0, 255)
        for step in draw.order[i]:
            if STEPS[step] == "down" and len(x) != side:
                x = cv2.resize(x, (side, side), interpolation=flags[name[1]]).clip(0, 255)
            elif STEPS[step] == "blur":
                sigma = draw.sigma[i] * len(x) / side
                width = 2 * min(math.ceil(3 * sigma), len(x)) + 1
                x = cv2.GaussianBlur(x, (width, width), sigma, borderType=cv2.BORDER_REPLICATE)
            elif STEPS[step] == "jpeg" and quality:
                code = [cv2.IMWRITE_JPEG_QUALITY, int(draw.quality[i])]
                _, data = cv2.imencode(".jpg", np.rint(x).astype(np.uint8)[..., ::-1], code)
                x = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].astype(np.float32)
        wanted = cv2.resize(x, (112, 112), interpolation=flags[name[2]]).clip(0, 255)
        apart = np.abs(mine - wanted)
        assert apart.mean() < mean and apart.max() < most, i
        orders.add(tuple(draw.order[i].tolist()))
    assert len(orders) > 12


def test_no_strength_leaves_only_the_plain_reduction():
    draw = RealisticDegradation(1.0, (7, 111), down=("area",), up=("bicubic",), first_stage=1).draw(0, range(12))
    for mine, x, side in zip(apply(PHOTOS, draw), PHOTOS, draw.side.tolist(), strict=True):
        apart = (mine.int() - degrade.low_res(x[None], side)[0].int()).abs()
        assert apart.max() <= 2, "the plain one is rounded at its small side"


def test_other_sizes_and_no_images():
    small = PHOTOS[:, :40, :40]
    draw = RealisticDegradation(1.0, (7, 40), **STRENGTHS).draw(0, range(12))
    assert apply(small, draw).shape == (12, 40, 40, 3)
    assert len(apply(PHOTOS[:0], EVERYTHING.draw(0, []))) == 0
    tiny = RealisticDegradation(1.0, (1, 2), **STRENGTHS).draw(0, range(12))
    assert apply(PHOTOS, tiny).shape == PHOTOS.shape


def test_finish_takes_it_for_the_plain_chain():
    settings = {"seed": 3, "flip": False, "device": "cpu", "fields": ("twin",)}
    done = finish(PHOTOS, np.arange(12), degradation=EVERYTHING, **settings)
    draw = EVERYTHING.draw(3, np.arange(12))
    seen = apply(PHOTOS, draw).numpy().transpose(0, 3, 1, 2) / 127.5 - 1
    np.testing.assert_allclose(done.image.numpy(), seen, atol=1e-6)
    np.testing.assert_allclose(done.twin.numpy(), PHOTOS.numpy().transpose(0, 3, 1, 2) / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(done.level.numpy(), draw.level)
    np.testing.assert_array_equal(done.changed, np.flatnonzero(draw.side))


@pytest.mark.skipif(importlib.util.find_spec("nvidia.dali") is None, reason="nvidia.dali is not installed")
def test_both_loaders_give_the_same_pictures(tmp_path):
    with RecordWriter(tmp_path / "x") as writer:
        for number, face in enumerate(photos(8)):
            image = cv2.imencode(".jpg", face)[1].tobytes()
            writer.write(number, pack(Header(flag=0, label=0.0, id=number, id2=0), image))
    records, taken = Records(tmp_path / "x"), []
    for kind in (TorchLoader, DaliLoader):
        loader = kind(records, SampleOrder(8, 0, 6), EVERYTHING, device=torch.device("cpu"), fields=("level",))
        with closing(loader.batches()) as batches:
            taken.append([*itertools.islice(batches, 2)])
    for one, two in zip(*taken, strict=True):
        assert torch.equal(one.image, two.image) and torch.equal(one.level, two.level) and one.level.any()


def test_settings_make_it(tmp_path):
    (tmp_path / "x.py").write_text("from easydict import EasyDict as edict\nconfig = edict()\n")

    def built(*overrides: str) -> Degradation | None:
        return build_degradation(load(tmp_path / "x.py", [f"degradation.{text}" for text in ("share=0.5", *overrides)]))

    assert type(built()) is Degradation
    made = built("chain=realistic", "noise=9", "kernels=['motion']", "up=['area','area','nearest']", "first_stage=2")
    assert made == RealisticDegradation(
        0.5, (7, 56), noise=9.0, kernels=("motion",), up=("area", "area", "nearest"), first_stage=2.0
    )
    assert built("chain=realistic", "blur=1") == RealisticDegradation(0.5, (7, 56), blur=1.0)
    with pytest.raises(ValueError, match=r"degradation.chain is 'real'; it must be plain or realistic"):
        built("chain=real")
    with pytest.raises(ValueError, match=r"blur, noise and jpeg are all off.*such as degradation.blur=1.5"):
        built("chain=realistic")
    with pytest.raises(ConfigError, match="kernels is 3; it takes a list"):
        built("kernels=3")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kernels": ()}, "kernels=.*one or more of isotropic"),
        ({"kernels": "motion"}, "kernels='motion' must be a list"),
        ({"kernels": ("motions",)}, "kernels has 'motions', of which there is none; did you mean 'motion'"),
        ({"noises": ("gray",)}, "did you mean 'grey'"),
        ({"down": ("lanczos",)}, r"down has 'lanczos'.*have: area, bicubic, bilinear, nearest"),
        ({"up": ("cubic",)}, "did you mean 'bicubic'"),
        ({"first_stage": 0.5}, r"first_stage=0.5 must be a ratio of sides in 1 \.\. 16"),
        ({"first_stage": 17}, "first_stage"),
        ({"noise": -1.0}, "noise"),
    ],
)
def test_impossible_settings_are_named(settings, said):
    with pytest.raises(ValueError, match=said):
        RealisticDegradation(**settings)


def test_impossible_images_are_named():
    draw = EVERYTHING.draw(0, range(12))
    with pytest.raises(ValueError, match="square"):
        apply(PHOTOS[:, :100], draw)
    with pytest.raises(ValueError, match="2 images with a draw for 12"):
        apply(PHOTOS[:2], draw)
    with pytest.raises(ValueError, match="above the images' 20 px"):
        apply(PHOTOS[:, :20, :20], RealisticDegradation(1.0, (21, 21)).draw(0, range(12)))


@pytest.mark.gpu
def test_cuda_gives_the_pixels_of_the_cpu():
    draw = EVERYTHING.draw(0, np.arange(12))
    assert torch.equal(apply(PHOTOS.cuda(), draw).cpu(), apply(PHOTOS, draw))
