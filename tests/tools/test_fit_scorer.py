"""tools/fit_scorer.py: files that the scorers read, and refusals in words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from iqa import SCORERS
from iqa._model import read_fitted
from recognition import config as settings
from recognition import delivery
from recognition.hashes import hash_tensors
from recognition.weights import write_weights
from tests.iqa.scorers import tiny_base
from tests.small import write_records
from tests.tiny import nameable
from tests.training import tiny_recipe
from tools import fit_scorer as door


@pytest.fixture(autouse=True)
def _named() -> Iterator[None]:
    with nameable():
        yield


@pytest.fixture
def base(tmp_path: Path) -> str:
    path = tmp_path / "base.safetensors"
    write_weights(path, tiny_base().state_dict(), {"backbone": "tiny_of_tests"})
    return str(path)


@pytest.fixture
def records(tmp_path: Path) -> str:
    return str(write_records(tmp_path / "train"))


def scored(name: str, file: Path) -> Tensor:
    scorer = SCORERS.create(name, weights=str(file))
    scorer.bind(tiny_base())
    return scorer(torch.rand(2, 3, 16, 16))


def test_a_head_is_fitted_measured_and_read(base: str, records: str, tmp_path: Path, capsys) -> None:
    out = tmp_path / "head.safetensors"
    assert door.main(["cr_fiqa", base, records, str(out), "--sides", "112", "14", "--device", "cpu"]) == 0
    told = capsys.readouterr().out
    assert "30 images of 6 people, 5 of them held out" in told
    assert "   14 px: target" in told and f"edict(name='cr_fiqa', weights='{out}')" in told
    assert scored("cr_fiqa", out).shape == scored("ex_fiqa", out).shape == (2,)
    with safe_open(out, framework="pt") as opened:
        notes = opened.metadata()
    assert notes["sides"] == "112 14" and notes["base_tensors_sha256"] == hash_tensors(tiny_base().state_dict())


def test_a_centre_is_fitted_from_the_base_of_a_run(records: str, tmp_path: Path, capsys) -> None:
    config = settings.load(tiny_recipe(tmp_path))
    write_weights(tmp_path / "base.safetensors", tiny_base().state_dict(), {})
    delivery.write_start(tmp_path / "run", config, "fingerprint")
    out = tmp_path / "centre.safetensors"
    argv = ["recognizability", str(tmp_path / "run"), records, str(out), "--images", "4", "--device", "cpu"]
    assert door.main(argv) == 0, capsys.readouterr().err
    assert "4 images: distance to the centre" in capsys.readouterr().out
    assert torch.linalg.vector_norm(read_fitted(str(out), "recognizability", "")[0]["centre"]).item() == pytest.approx(
        1
    )
    assert scored("recognizability", out).shape == (2,)


def test_the_network_of_degradation_is_fitted_to_faces_alone(records: str, tmp_path: Path, capsys) -> None:
    out = tmp_path / "level.safetensors"
    options = ["--images", "24", "--epochs", "1", "--seed", "3", "--device", "cpu"]
    assert door.main(["degradation", records, records, str(out), *options]) == 0, capsys.readouterr().err
    told = capsys.readouterr().out
    assert "24 faces, 1 epochs" in told and told.count("held-out people, 5 faces") == 2
    assert SCORERS.create("degradation", weights=str(out))(torch.rand(2, 3, 112, 112)).shape == (2,)
    with safe_open(out, framework="pt") as opened:
        notes = opened.metadata()
    assert notes["scorer"] == "degradation" and notes["seed"] == "3" and notes["images"] == "24"
    assert notes["records"] == f"{records} {records}" and len(notes["fingerprints"].split()) == 2
    few = write_records(tmp_path / "few", people=1, images=3)
    assert door.main(["degradation", str(few), str(out), *options]) == 2
    assert "too few people to hold some out" in capsys.readouterr().err


def test_refusals_in_words(base: str, records: str, tmp_path: Path, capsys) -> None:
    out = str(tmp_path / "head.safetensors")
    for argv, words in (
        (["cr_fiqa", base, records, "head.npz"], "written as .safetensors"),
        (["cr_fiqa", base, records, out, "--sides", "0"], "a side is 1 to 112"),
        (["sharpness", base, records, out], "invalid choice"),
        (["degradation", records, out, "--epochs", "0"], "--epochs is 1 or more"),
    ):
        with pytest.raises(SystemExit):
            door.parse(argv)
        assert words in capsys.readouterr().err
    write_weights(tmp_path / "bare.safetensors", tiny_base().state_dict(), {})
    assert door.main(["cr_fiqa", str(tmp_path / "bare.safetensors"), records, out]) == 2
    assert "--backbone NAME" in capsys.readouterr().err
    lonely = write_records(tmp_path / "lonely", people=4, images=1)
    assert door.main(["cr_fiqa", base, str(lonely), out, "--device", "cpu"]) == 2
    assert "people with two images or more" in capsys.readouterr().err
    assert not Path(out).exists()
