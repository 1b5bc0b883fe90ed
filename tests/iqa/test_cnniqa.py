"""CNNIQA against the published program's figures, and its form live against a plain re-derivation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from iqa import SCORERS
from iqa.cnniqa import CNNIQA
from tests.iqa.scorers import as_input, cnniqa_file, pictures
from tests.oracles.fill import fill


def _filled(folder: Path, form: str) -> Path:
    shapes = {k: tuple(v.shape) for k, v in CNNIQA(str(cnniqa_file(folder, form)), form=form).state_dict().items()}
    path = folder / "filled.safetensors"
    save_file({key: torch.from_numpy(fill("cnniqa." + key, shape)) for key, shape in shapes.items()}, path)
    return path


def test_form_koniq_equals_the_published_program(oracles: Path, tmp_path: Path) -> None:
    oracle = np.load(oracles / "iqa_pyiqa.npz")
    scorer = SCORERS.create("cnniqa", weights=str(_filled(tmp_path, "koniq")))
    score = scorer(torch.from_numpy(oracle["images_u8"]).float() / 255).numpy()
    wanted = oracle["cnniqa_random_weights"][:, 0]
    np.testing.assert_allclose(score, wanted, atol=1e-4 * np.abs(wanted).max())


def test_form_live_is_the_negative_mean_over_normalised_patches(tmp_path: Path) -> None:
    """Patch by patch and window by window, in float64, over the nine whole patches of 112 pixels."""
    path = _filled(tmp_path, "live")
    scorer = SCORERS.create("cnniqa", weights=str(path), form="live")
    images = pictures(2)
    grey = images.astype(np.float64) @ np.array([0.299, 0.587, 0.114]) / 255
    weights = {key: value.double().numpy() for key, value in scorer.state_dict().items()}
    wanted = [
        -np.mean([_figure(picture[y : y + 32, x : x + 32], weights) for y in (0, 32, 64) for x in (0, 32, 64)])
        for picture in grey
    ]
    np.testing.assert_allclose(scorer(as_input(images)).numpy(), wanted, rtol=1e-4, atol=1e-5)


def _figure(patch: np.ndarray, weights: dict[str, np.ndarray]) -> float:
    framed = np.pad(patch, 1, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(framed, (3, 3))
    normal = (patch - windows.mean((2, 3))) / (windows.std((2, 3)) + 1)
    views = np.lib.stride_tricks.sliding_window_view(normal, (7, 7))
    response = np.einsum("yxij,fij->fyx", views, weights["conv1.weight"][:, 0]) + weights["conv1.bias"][:, None, None]
    x = np.concatenate((response.max((1, 2)), response.min((1, 2))))
    for layer in ("fc1", "fc2"):
        x = np.maximum(weights[f"{layer}.weight"] @ x + weights[f"{layer}.bias"], 0)
    return float((weights["fc3.weight"] @ x + weights["fc3.bias"])[0])


def test_missing_weights_say_where_they_come_from(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs a file in its argument 'weights', and none is named; .*KonIQ-10k"):
        SCORERS.create("cnniqa")
    with pytest.raises(ValueError, match=r"there is no file .*absent\.npz"):
        SCORERS.create("cnniqa", weights=str(tmp_path / "absent.npz"))
    (tmp_path / "weights.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"\.safetensors or \.npz"):
        SCORERS.create("cnniqa", weights=str(tmp_path / "weights.bin"))


def test_weights_of_the_other_form_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"conv1\.weight: wanted \(50, 1, 7, 7\), got \(50, 3, 7, 7\)"):
        SCORERS.create("cnniqa", weights=str(cnniqa_file(tmp_path, "koniq")), form="live")
    with pytest.raises(ValueError, match="unknown form 'tid'"):
        SCORERS.create("cnniqa", weights=str(cnniqa_file(tmp_path, "koniq")), form="tid")


def test_small_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="32 pixels or more, got 31x40"):
        SCORERS.create("cnniqa", weights=str(cnniqa_file(tmp_path, "live")), form="live")(torch.zeros(1, 3, 31, 40))
