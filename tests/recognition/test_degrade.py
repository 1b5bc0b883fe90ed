import cv2
import numpy as np
import pytest
import torch

from recognition.data._jpeg import jpeg
from recognition.data.degrade import Degradation, Draw, apply, low_res

EVERYTHING = Degradation(share=0.8, sides=(7, 56), blur=1.5, noise=10.0, jpeg=(20, 95))


def photos(n: int, size: int = 112) -> np.ndarray:
    """Pictures with detail at every scale and correlated colours, as photographs have: (n, size, size, 3) uint8."""
    rng = np.random.default_rng(0)

    def field(channels: int) -> np.ndarray:
        noise = rng.standard_normal((size, size, channels)).astype(np.float32)
        field = sum(s * cv2.GaussianBlur(noise, (0, 0), s).reshape(noise.shape) for s in (0.7, 2.0, 6.0, 15.0))
        return field / field.std()

    pictures = [128 + 50 * field(1) + 15 * field(3) for _ in range(n)]
    return np.clip(np.rint(pictures), 0, 255).astype(np.uint8)


def draw_of(side, sigma=0.0, noise=0.0, quality=0, seed=1) -> Draw:
    side = np.atleast_1d(np.asarray(side, np.int64))
    full = np.full_like
    return Draw(
        side=side,
        sigma=full(side, sigma, dtype=np.float64),
        noise=full(side, noise, dtype=np.float64),
        quality=full(side, quality),
        noise_seed=np.arange(seed, seed + len(side)).astype(np.uint64),
    )


def cv2_low_res(picture: np.ndarray, side: int) -> np.ndarray:
    small = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, picture.shape[:2], interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("side", [1, 7, 8, 14, 16, 20, 28, 33, 56, 100, 111])
def test_low_res_is_opencv_area_then_cubic(side):
    pictures = photos(6)
    ours = low_res(torch.from_numpy(pictures), side).numpy().astype(int)
    difference = np.abs(ours - np.stack([cv2_low_res(p, side) for p in pictures]))
    assert difference.max() <= 1
    assert difference.mean() < 0.002


def test_low_res_at_full_size_changes_nothing():
    pictures = torch.from_numpy(photos(2))
    assert torch.equal(low_res(pictures, 112), pictures)


@pytest.mark.parametrize("side", [7, 20, 33])
def test_resampling_against_plain_loops(side):
    """One picture by the definitions of area averaging and of the cubic kernel, pixel by pixel in float64."""
    size = 41  # odd, so that no mean lies half way between two levels
    picture = photos(1, size)[0].astype(np.float64)
    scale = size / side

    def area(line: np.ndarray) -> np.ndarray:
        fine = line.repeat(side, axis=0)  # size * side samples: each output pixel is the mean of `size` of them
        return fine.reshape(side, size, *line.shape[1:]).mean(1)

    def kernel(x: float, a: float = -0.75) -> float:
        x = abs(x)
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0

    def cubic(line: np.ndarray) -> np.ndarray:
        out = np.zeros((size, *line.shape[1:]))
        for i in range(size):
            at = (i + 0.5) / scale - 0.5
            for j in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
                out[i] += kernel(at - j) * line[min(max(j, 0), side - 1)]
        return out

    small = np.rint(area(area(picture).transpose(1, 0, 2)).transpose(1, 0, 2))
    large = np.rint(cubic(cubic(small).transpose(1, 0, 2)).transpose(1, 0, 2)).clip(0, 255)
    ours = low_res(torch.from_numpy(picture.astype(np.uint8))[None], side)[0].numpy()
    assert np.abs(ours - large).max() <= 1
    assert (ours != large).mean() < 0.0005


def test_an_image_does_not_depend_on_its_batch():
    positions = np.arange(100, 140)
    pictures = torch.from_numpy(photos(8)).repeat(5, 1, 1, 1)
    batch = apply(pictures, EVERYTHING.draw(7, positions))
    for i, position in enumerate(positions):
        assert torch.equal(apply(pictures[i : i + 1], EVERYTHING.draw(7, [position]))[0], batch[i])
    assert torch.equal(apply(pictures, EVERYTHING.draw(7, positions)), batch)


def test_untouched_images_pass_bit_for_bit_and_the_input_stays():
    pictures = torch.from_numpy(photos(8))
    before = pictures.clone()
    draw = EVERYTHING.draw(3, np.arange(8))
    assert 0 < (draw.side == 0).sum() < 8
    degraded = apply(pictures, draw)
    assert torch.equal(pictures, before)
    changed = (degraded != pictures).flatten(1).any(1).numpy()
    np.testing.assert_array_equal(changed, draw.side > 0)
    assert apply(pictures, Degradation(share=0.0).draw(3, np.arange(8))) is pictures


def test_share_and_sides_follow_the_settings():
    positions = np.arange(60_000)
    draw = Degradation(share=0.6, sides=(7, 56)).draw(0, positions)
    degraded = draw.side[draw.side > 0]
    assert abs(len(degraded) / 60_000 - 0.6) < 0.01
    assert (degraded.min(), degraded.max()) == (7, 56)
    octaves = [((degraded >= low) & (degraded < 2 * low)).mean() for low in (7, 14, 28)]
    np.testing.assert_allclose(octaves, np.log(2) / np.log(57 / 7), atol=0.01)
    flat = Degradation(share=1.0, sides=(7, 28), spread="uniform").draw(0, positions).side
    np.testing.assert_allclose(np.bincount(flat)[7:], 60_000 / 22, rtol=0.1)
    np.testing.assert_allclose(draw.level, np.where(draw.side > 0, 1 - draw.side / 112, 0), atol=1e-7)
    assert draw.level.dtype == np.float32


def test_draw_is_a_function_of_seed_and_position_alone():
    whole, part = EVERYTHING.draw(5, np.arange(50)), EVERYTHING.draw(5, [41, 7])
    for name in ("side", "sigma", "noise", "quality", "noise_seed"):
        np.testing.assert_array_equal(getattr(whole, name)[[41, 7]], getattr(part, name))
    assert (whole.side != EVERYTHING.draw(6, np.arange(50)).side).any()
    assert len(np.unique(whole.noise_seed)) == 50
    chosen = whole.side > 0
    assert whole.quality[chosen].min() >= 20 and whole.quality[chosen].max() <= 95 and not whole.quality[~chosen].any()
    assert 0 < whole.sigma[chosen].max() <= 1.5 and 0 < whole.noise[chosen].max() <= 10


def test_draws_of_one_image_are_independent():
    draw = Degradation(share=1.0, blur=1.0, noise=1.0, jpeg=(1, 100)).draw(0, np.arange(20_000))
    correlation = np.corrcoef([np.log(draw.side), draw.sigma, draw.noise, draw.quality])
    assert np.abs(correlation - np.eye(4)).max() < 0.03


def test_noise_has_its_sigma_and_another_one_per_image():
    grey = torch.full((4, 112, 112, 3), 128, dtype=torch.uint8)
    noisy = apply(grey, draw_of([112] * 4, noise=8.0)).double() - 128  # side 112: what the sensor gave, not resampled
    assert abs(noisy.std() - 8) < 0.1 and abs(noisy.mean()) < 0.1
    assert np.abs(np.corrcoef(noisy.flatten(1).numpy()) - np.eye(4)).max() < 0.03
    coarse = apply(grey, draw_of([14] * 4, noise=8.0)).double() - 128  # one value per low-resolution pixel
    neighbours = np.corrcoef(coarse[:, :, 1:].flatten(), coarse[:, :, :-1].flatten())[0, 1]
    assert neighbours > 0.9


def test_blur_is_a_gaussian_before_down_sampling():
    pictures = photos(3)
    ours = apply(torch.from_numpy(pictures), draw_of([28] * 3, sigma=1.0)).numpy()
    for picture, mine in zip(pictures, ours, strict=True):
        blurred = cv2.GaussianBlur(picture, (0, 0), 4.0, borderType=cv2.BORDER_REPLICATE)
        inner = np.s_[16:-16, 16:-16]  # away from the border, where the two repeat and renormalise
        assert np.abs(mine[inner].astype(int) - cv2_low_res(blurred, 28)[inner]).max() <= 4
        assert np.abs(mine[inner].astype(int) - cv2_low_res(picture, 28)[inner]).max() > 20


@pytest.mark.parametrize("side", [8, 14, 33, 56])
@pytest.mark.parametrize("quality", [30, 50, 75, 95])
def test_jpeg_is_libjpegs(side, quality):
    """Against cv2.imencode: far nearer to it than the coded picture is to the original."""
    small = np.stack([cv2.resize(p, (side, side), interpolation=cv2.INTER_AREA) for p in photos(6)])
    canvas = -(-side // 16) * 16
    padded = np.pad(small, ((0, 0), (0, canvas - side), (0, canvas - side), (0, 0)), mode="edge")
    ours = jpeg(torch.from_numpy(padded).double(), np.full(6, side), np.full(6, quality))[:, :side, :side].numpy()
    theirs = []
    for picture in small:
        ok, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        assert ok
        theirs.append(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])

    def psnr(a: np.ndarray, b: np.ndarray) -> float:
        return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))

    assert psnr(ours, np.stack(theirs)) > psnr(small, np.stack(theirs)) + 8
    assert psnr(ours, np.stack(theirs)) > 38


def test_jpeg_of_a_flat_picture_keeps_it():
    grey = torch.full((1, 112, 112, 3), 128, dtype=torch.uint8)
    assert torch.equal(apply(grey, draw_of([14], quality=10)), grey)


def test_quality_is_per_image():
    picture = torch.from_numpy(photos(1)).repeat(3, 1, 1, 1)
    draw = draw_of([28] * 3)
    draw.quality[:] = (0, 95, 20)
    plain, fine, coarse = apply(picture, draw).double()
    assert torch.equal(plain, low_res(picture[:1], 28)[0].double())
    assert 0 < (fine - plain).abs().mean() < (coarse - plain).abs().mean()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"share": 1.5}, "share"),
        ({"sides": (0, 5)}, "sides"),
        ({"sides": (9, 5)}, "sides"),
        ({"blur": -1.0}, "blur"),
        ({"noise": -1.0}, "noise"),
        ({"jpeg": (0, 50)}, "jpeg"),
        ({"jpeg": (50, 101)}, "jpeg"),
        ({"spread": "normal"}, "spread"),
    ],
)
def test_impossible_settings_are_named(settings, said):
    with pytest.raises(ValueError, match=said):
        Degradation(**settings)


def test_impossible_images_are_named():
    picture = torch.zeros(2, 112, 112, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match="square"):
        low_res(picture[:, :100], 14)
    with pytest.raises(ValueError, match="uint8"):
        low_res(picture.float(), 14)
    with pytest.raises(ValueError, match="113 px"):
        low_res(picture, 113)
    with pytest.raises(ValueError, match=r"1 \.\. 112"):
        low_res(picture, 0)
    with pytest.raises(ValueError, match="2 images"):
        apply(picture, draw_of([7]))


@pytest.mark.gpu
def test_cuda_gives_the_pixels_of_the_cpu():
    pictures = torch.from_numpy(photos(32))
    draw = EVERYTHING.draw(0, np.arange(32))
    assert torch.equal(apply(pictures.cuda(), draw).cpu(), apply(pictures, draw))


@pytest.mark.parametrize("sides", [(7, 113), (0, 5), (20, 7), ("a", 20), (7.5, 20), (7,), 7])
def test_sides_that_cannot_be_are_told_at_once(sides):
    with pytest.raises(ValueError, match="whole pixels in 1"):
        Degradation(sides=sides)
