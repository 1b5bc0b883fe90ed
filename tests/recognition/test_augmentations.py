import importlib.util
import itertools

import cv2
import numpy as np
import pytest
import torch

from recognition.data._interpolate import INTERPOLATIONS, resizing
from recognition.data.augment import finish, flips
from recognition.data.augmentations import AUGMENTATIONS, PRESETS
from recognition.data.augmentations.sequence import Augmentations
from recognition.data.degrade import Degradation
from tests.small import photos

needs_dali = pytest.mark.skipif(importlib.util.find_spec("nvidia.dali") is None, reason="nvidia.dali is not installed")
EACH = AUGMENTATIONS.names()
LOSSY = ["blur", "low_res", "resize"]


PHOTOS = torch.from_numpy(photos(12))


def always(name: str, **arguments) -> Augmentations:
    return Augmentations([{"name": name, "probability": 1.0, **arguments}])


def seen(name: str, images=PHOTOS, seed: int = 0, **arguments) -> np.ndarray:
    return always(name, **arguments).apply(images, np.arange(len(images)), seed=seed).seen.numpy()


def drawn(name: str, uniform, size: int = 112) -> dict:
    """What one draws where its own numbers are `uniform(number)`."""
    return AUGMENTATIONS.create(name).draw(uniform, size)


def levels_apart(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    return np.abs(one.astype(int) - two.astype(int))


def test_these_are_there_and_the_presets_are_made_of_them():
    assert EACH == ["blur", "crop", "gray", "hsv", "low_res", "photometric", "resize"]
    assert {member for members in PRESETS.values() for member in members} == set(EACH)
    adaface, arcface = Augmentations(["adaface"]), Augmentations([{"name": "arcface_torch"}])
    assert [(type(m).__name__, m.probability) for m in adaface.members] == [
        ("Crop", 0.2),
        ("LowRes", 0.2),
        ("Photometric", 0.2),
    ]
    assert [(type(m).__name__, m.probability) for m in arcface.members] == [
        ("Resize", 0.1),
        ("Blur", 0.2),
        ("Hsv", 0.2),
        ("Gray", 0.1),
    ]
    assert [m.loses_resolution for m in arcface.members] == [True, True, False, False]


@pytest.mark.parametrize("side", [1, 7, 22, 33, 56, 89, 111, 112])
@pytest.mark.parametrize("way", ["nearest", "bilinear", "area", "bicubic", "lanczos"])
def test_interpolations_are_opencvs(way, side):
    flag = {
        "nearest": cv2.INTER_NEAREST_EXACT,
        "bilinear": cv2.INTER_LINEAR,
        "area": cv2.INTER_AREA,
        "bicubic": cv2.INTER_CUBIC,
        "lanczos": cv2.INTER_LANCZOS4,
    }[way]
    picture, kind = photos(1)[0], np.array([INTERPOLATIONS.index(way)])

    def ours(x: np.ndarray, side: int) -> np.ndarray:
        (matrix,) = resizing(kind, np.array([len(x)]), np.array([side]), 120, 128)
        assert not matrix[:, len(x) :].any() and (matrix[side:] == matrix[side - 1]).all()
        matrix = matrix[:side, : len(x)]
        np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-12)
        return np.stack([matrix @ x[..., c].astype(np.float64) @ matrix.T for c in range(3)], axis=2).clip(0, 255)

    def clear(old: int, new: int) -> np.ndarray:  # nearest: not half way between two, which OpenCV's fixed point moves
        found = np.flatnonzero(((2 * np.arange(new) + 1) * old % (2 * new) != 0) | (way != "nearest") | (new >= old))
        return np.ix_(found, found)

    most = 2 if way == "lanczos" else 1.01  # OpenCV's weights are whole 2048ths
    small = cv2.resize(picture, (side, side), interpolation=flag)
    assert np.abs(ours(picture, side) - small)[clear(112, side)].max(initial=0) <= most
    large = cv2.resize(small, (112, 112), interpolation=flag)
    assert np.abs(ours(small, 112) - large)[clear(side, 112)].max() <= most


@pytest.mark.parametrize("side", [20, 56, 89])
def test_triangle_is_bilinear_with_a_wide_kernel(side):
    x = torch.from_numpy(photos(1)).double().permute(0, 3, 1, 2)
    (matrix,) = torch.from_numpy(resizing(np.array([5]), np.array([112]), np.array([side]), 112, side))
    wanted = torch.nn.functional.interpolate(x, (side, side), mode="bilinear", antialias=True)
    torch.testing.assert_close(matrix @ x @ matrix.T, wanted, atol=1e-3, rtol=0)


def test_crop_is_black_around_and_stays_in_its_place():
    faces = PHOTOS.clamp(min=1)
    cropped = seen("crop", faces)
    for before, after in zip(faces.numpy(), cropped, strict=True):
        inside = after.any(2)
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert inside.sum() == height * width, "not a rectangle"
        np.testing.assert_array_equal(after[inside], before[inside])
        assert 0.19 < height * width / 112**2 <= 1 and 0.74 < width / height < 1.35
    rng = np.random.default_rng(1)
    many = drawn("crop", lambda n: rng.random(4000))
    share = (many["bottom"] - many["top"]) * (many["right"] - many["left"]) / 112**2
    assert abs(np.quantile(share, 0.25) - 0.4) < 0.04 and share.min() > 0.19 and 0.95 < share.max() <= 1
    assert many["top"].min() == many["left"].min() == 0 and many["bottom"].max() == many["right"].max() == 112


def test_a_crop_that_never_fits_is_the_whole():
    whole = AUGMENTATIONS.create("crop", area=(1.0, 1.0), ratio=(2.0, 2.0)).draw(lambda n: np.zeros(3), 112)
    assert whole["top"].tolist() == [0, 0, 0] and whole["bottom"].tolist() == whole["right"].tolist() == [112] * 3


def test_low_res_is_opencvs_there_and_back():
    ways = [None, cv2.INTER_LINEAR, cv2.INTER_AREA, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4]

    def resized(x: np.ndarray, side: int, way: int) -> np.ndarray:
        middle = ((np.arange(side) + 0.5) * len(x) / side).astype(int)
        return cv2.resize(x, (side, side), interpolation=ways[way]) if way else x[np.ix_(middle, middle)]

    pairs = [*itertools.product(range(5), range(5))]
    u = {0: np.linspace(0, 0.999, 25), 1: (np.array(pairs)[:, 0] + 0.5) / 5, 2: (np.array(pairs)[:, 1] + 0.5) / 5}
    plan = drawn("low_res", lambda n: u[n])
    assert plan["side"].tolist() == [int((0.2 + 0.8 * x) * 112) for x in u[0]] and plan["side"][0] == 22
    picture = photos(1)[0]
    ours = AUGMENTATIONS.create("low_res").apply(torch.from_numpy(picture).expand(25, -1, -1, -1), plan).numpy()
    for mine, side, (down, up) in zip(ours, plan["side"], pairs, strict=True):
        apart = levels_apart(mine, resized(resized(picture, side, down), 112, up))
        assert apart.max() <= 3 and apart.mean() < 0.3


def test_photometric_is_the_formula_in_the_drawn_order():
    def plain(x: np.ndarray, factor: np.ndarray, order: list[int]) -> np.ndarray:
        x = x.astype(np.float64)
        for step in order:
            grey = np.floor(x @ [0.299, 0.587, 0.114] + 0.5)[..., None]
            base = (0.0, np.floor(grey.mean() + 0.5), grey)[step]
            x = np.rint(base + factor[step] * (x - base)).clip(0, 255)
        return x

    rng = np.random.default_rng(3)
    u = rng.random((4, 12))
    plan = drawn("photometric", lambda n: u[n])
    ours = AUGMENTATIONS.create("photometric").apply(PHOTOS, plan).numpy()
    for x, mine, factor, order in zip(PHOTOS.numpy(), ours, plan["factor"], plan["order"], strict=True):
        assert sorted(order) == [0, 1, 2] and (factor >= 0.5).all() and (factor <= 1.5).all()
        assert levels_apart(mine, plain(x, factor, order)).max() <= 2
    assert len({tuple(order) for order in drawn("photometric", lambda n: rng.random(200))["order"].tolist()}) == 6
    same = seen("photometric", brightness=(1, 1), contrast=(1, 1), saturation=(1, 1))
    np.testing.assert_array_equal(same, PHOTOS)
    grey = seen("photometric", brightness=(1, 1), contrast=(1, 1), saturation=(0, 0))
    assert np.ptp(grey, axis=3).max() == 0


def test_blur_is_opencvs():
    for mine, before, window in zip(
        AUGMENTATIONS.create("blur").apply(PHOTOS, {"window": np.repeat([3, 5, 1], 4)}).numpy(),
        PHOTOS.numpy(),
        np.repeat([3, 5, 1], 4).tolist(),
        strict=True,
    ):
        assert (
            levels_apart(mine, cv2.GaussianBlur(before, (window, window), {1: 0.5, 3: 0.8, 5: 1.1}[window])).max() <= 1
        )
    rng = np.random.default_rng(0)
    assert abs((drawn("blur", lambda n: rng.random(2000))["window"] == 3).mean() - 0.5) < 0.05


def test_gray_is_opencvs_and_hsv_keeps_luma_and_greys():
    for mine, before in zip(seen("gray"), PHOTOS.numpy(), strict=True):
        assert levels_apart(mine, cv2.cvtColor(before, cv2.COLOR_RGB2GRAY)[..., None]).max() <= 1
    mild = (PHOTOS // 4 + 90).numpy()  # so that nothing reaches 0 or 255
    turned = seen("hsv", torch.from_numpy(mild), hue=(0.0, 60.0))
    assert np.abs((turned.astype(float) - mild) @ [0.299, 0.587, 0.114]).max() < 1
    assert levels_apart(turned, mild).max() > 10
    grey = seen("gray")
    np.testing.assert_array_equal(seen("hsv", torch.from_numpy(grey)), grey)
    np.testing.assert_array_equal(seen("hsv", hue=(0, 0), saturation=(1, 1)), PHOTOS)


@needs_dali
def test_arcface_torchs_are_dalis():
    """Each operator of DALI that the published loader calls, with the values drawn here."""
    from nvidia.dali import fn, pipeline_def, types

    rng = np.random.default_rng(0)
    plans = {name: drawn(name, lambda n: rng.random(12)) for name in ("hsv", "resize", "blur")}
    hue = np.rad2deg(plans["hsv"]["hue"]).astype(np.float32)
    saturation = plans["hsv"]["saturation"].astype(np.float32)
    side, window = plans["resize"]["side"].astype(np.float32), plans["blur"]["window"].astype(np.int32)
    assert hue.min() >= 0 and hue.max() <= 20 and saturation.min() >= 1 and saturation.max() <= 1.2
    assert side.min() >= 56 and side.max() <= 89

    @pipeline_def(batch_size=12, num_threads=1, device_id=None)
    def published():
        def each(values: np.ndarray, layout: str | None = None):
            return fn.external_source(lambda: list(values), batch=True, layout=layout)

        x = each(PHOTOS.numpy(), "HWC")
        to, zero = each(side), fn.cast(each(np.zeros(12, np.float32)), dtype=types.FLOAT)
        small = fn.resize(x, resize_x=to, resize_y=to)
        return (
            fn.hsv(x, hue=each(hue), saturation=each(saturation)),
            fn.resize(small, size=(112, 112)),
            fn.gaussian_blur(x, window_size=each(window)),
            fn.hsv(x, saturation=zero),
        )

    pipeline = published()
    pipeline.build()
    outputs = [np.stack([np.array(one) for one in output]) for output in pipeline.run()]
    for name, theirs in zip(("hsv", "resize", "blur", "gray"), outputs, strict=True):
        ours = AUGMENTATIONS.create(name).apply(PHOTOS, plans.get(name, {})).numpy()
        apart = levels_apart(ours, theirs)[:, 6:-6, 6:-6]  # resizing, DALI repeats the border
        assert apart.max() <= 2 and apart.mean() < 0.5, name


@pytest.mark.parametrize("name", EACH)
def test_an_image_does_not_depend_on_its_batch(name):
    before = PHOTOS.clone()
    chain = Augmentations([{"name": name, "probability": 0.8}])
    positions = np.arange(40, 52)
    batch = chain.apply(PHOTOS, positions, seed=3)
    assert torch.equal(PHOTOS, before) and batch.seen.dtype == torch.uint8 and 0 < batch.changed.sum() < 12
    for i in range(12):
        alone = chain.apply(PHOTOS[i : i + 1], positions[i : i + 1], seed=3)
        assert torch.equal(alone.seen[0], batch.seen[i]) and torch.equal(alone.clean[0], batch.clean[i])
        assert alone.changed[0] == batch.changed[i] and alone.side[0] == batch.side[i]
        assert batch.changed[i] or torch.equal(batch.seen[i], PHOTOS[i])
    assert not torch.equal(chain.apply(PHOTOS, positions, seed=4).seen, batch.seen)
    assert chain.apply(PHOTOS[:0], [], seed=3).seen.shape == (0, 112, 112, 3)


@pytest.mark.parametrize("preset", PRESETS)
def test_probabilities_are_kept_and_independent(preset):
    blank, positions = torch.zeros(20_000, 4, 4, 3, dtype=torch.uint8), np.arange(20_000)
    names = PRESETS[preset]
    done = []
    for place, name in enumerate(names):  # at its own place, the others never happening
        chain = [{"name": other, "probability": 0.0} for other in names]
        chain[place] = {"name": name}
        changed = Augmentations(chain).apply(blank, positions, seed=1).changed
        wanted = Augmentations([name]).members[0].probability
        assert abs(changed.mean() - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / 20_000)
        done.append(changed)
    both = np.corrcoef([*done, flips(1, positions), Degradation(0.5).draw(1, positions).side > 0])
    assert np.abs(both - np.eye(len(both))).max() < 0.03
    np.testing.assert_array_equal(Augmentations([preset]).apply(blank, positions, seed=1).changed, np.any(done, axis=0))


def test_draws_depend_on_the_place_in_the_list():
    once = always("photometric").apply(PHOTOS, np.arange(12), seed=0).seen
    longer = Augmentations([{"name": "photometric", "probability": 1.0}, {"name": "gray", "probability": 0.0}])
    assert torch.equal(longer.apply(PHOTOS, np.arange(12), seed=0).seen, once)
    behind = Augmentations([{"name": "gray", "probability": 0.0}, {"name": "photometric", "probability": 1.0}])
    assert not torch.equal(behind.apply(PHOTOS, np.arange(12), seed=0).seen, once)


def test_twins_are_augmented_but_keep_their_resolution():
    """And level is that of the smallest side; the rows that changed are named."""
    sections = [{"name": "crop", "probability": 0.5}, {"name": "low_res", "probability": 0.5}, {"name": "gray"}]
    chain, degradation = Augmentations(sections), Degradation(0.5, (40, 60))
    without = Augmentations([sections[0], {"name": "low_res", "probability": 0.0}, sections[2]])
    settings = {"seed": 6, "flip": True, "device": "cpu", "fields": ("twin", "level")}
    positions = np.arange(12)
    done = finish(PHOTOS, positions, degradation=degradation, augmentations=chain, **settings)
    clean = finish(PHOTOS, positions, degradation=None, augmentations=without, **settings)
    assert torch.equal(done.twin, clean.image) and torch.equal(clean.twin, clean.image)
    assert not clean.level.any()
    reduced, degraded = chain.apply(PHOTOS, positions, seed=6), degradation.draw(6, positions)
    side = np.minimum(reduced.side, np.where(degraded.side, degraded.side, 112))
    np.testing.assert_allclose(done.level, 1 - side / 112, atol=1e-7)
    assert (reduced.side < degraded.side).any() and ((degraded.side < reduced.side) & (degraded.side > 0)).any()
    np.testing.assert_array_equal(done.changed, np.flatnonzero(reduced.changed | (degraded.side > 0)))
    assert 0 < len(done.changed) < 12
    assert finish(PHOTOS, positions, degradation=None, augmentations=chain, **{**settings, "fields": ()}).twin is None


@pytest.mark.parametrize("name", EACH)
def test_only_a_loss_of_resolution_spares_the_twin(name):
    done = always(name).apply(PHOTOS, np.arange(12), seed=0)
    assert torch.equal(done.clean, PHOTOS) == (name in LOSSY)
    assert done.changed.all() and (done.side < 112).any() == (name in ("low_res", "resize"))
