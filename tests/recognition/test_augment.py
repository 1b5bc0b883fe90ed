import numpy as np
import pytest
import torch

from recognition.data.augment import finish, flips
from recognition.data.degrade import Degradation, apply


def pictures(n: int) -> torch.Tensor:
    return torch.randint(0, 256, (n, 112, 112, 3), dtype=torch.uint8)


def test_flips_are_fair_and_a_function_of_seed_and_position():
    drawn = flips(3, np.arange(40_000))
    assert abs(drawn.mean() - 0.5) < 0.01
    assert abs((drawn[1:] == drawn[:-1]).mean() - 0.5) < 0.01
    np.testing.assert_array_equal(flips(3, [17, 4]), drawn[[17, 4]])
    assert (flips(4, np.arange(40_000)) == drawn).mean() == pytest.approx(0.5, abs=0.01)


def test_flips_and_degradation_use_different_streams():
    positions = np.arange(40_000)
    degraded = Degradation(share=0.5).draw(3, positions).side > 0
    assert abs(np.corrcoef(flips(3, positions), degraded)[0, 1]) < 0.02


def test_without_degradation_and_flip_it_only_normalises():
    raw = pictures(3)
    done = finish(raw, np.arange(3), seed=0, flip=False, degradation=None, device="cpu")
    expected = raw.numpy().astype(np.float64).transpose(0, 3, 1, 2) / 127.5 - 1
    np.testing.assert_allclose(done.image.numpy(), expected, atol=1e-6)
    assert done.image.dtype == torch.float32 and done.image.is_contiguous(memory_format=torch.channels_last)
    assert done.twin is None and not done.level.any() and not done.flipped.any()


def test_degrade_then_flip_then_normalise():
    raw, positions = pictures(16), np.arange(50, 66)
    degradation = Degradation(share=0.5, sides=(7, 14))
    done = finish(raw, positions, seed=9, flip=True, degradation=degradation, device="cpu", fields=("twin", "level"))
    draw = degradation.draw(9, positions)
    seen = apply(raw, draw).numpy()
    mirrored = flips(9, positions)
    assert 0 < mirrored.sum() < 16
    np.testing.assert_array_equal(done.flipped.numpy(), mirrored)
    np.testing.assert_array_equal(done.level.numpy(), draw.level)
    for i in range(16):
        for picture, tensor in ((seen[i], done.image[i]), (raw[i].numpy(), done.twin[i])):
            picture = picture[:, ::-1] if mirrored[i] else picture
            np.testing.assert_allclose(tensor.numpy(), picture.transpose(2, 0, 1) / 127.5 - 1, atol=1e-6)
        assert torch.equal(done.image[i], done.twin[i]) == (draw.side[i] == 0)


def test_a_batch_is_its_images_one_by_one():
    raw, degradation = pictures(6), Degradation(share=0.7, noise=5.0, jpeg=(30, 90))
    settings = {"seed": 2, "flip": True, "degradation": degradation, "device": "cpu"}
    whole = finish(raw, np.arange(6), **settings)
    for i in range(6):
        assert torch.equal(finish(raw[i : i + 1], [i], **settings).image[0], whole.image[i])


def test_an_empty_batch_and_a_wrong_count():
    settings = {"seed": 0, "flip": True, "degradation": Degradation(), "device": "cpu"}
    assert finish(pictures(0), [], **settings).image.shape == (0, 3, 112, 112)
    with pytest.raises(ValueError, match="2 images with 3 positions"):
        finish(pictures(2), [0, 1, 2], **settings)
