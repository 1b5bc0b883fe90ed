"""Quality scorers as evaluation uses them: made from a line, shown the matcher's pixels, compared, reported."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from easydict import EasyDict
from torch import Tensor, nn

from iqa import SCORERS
from recognition import config as settings
from recognition.backbones import BACKBONES
from recognition.data.augment import normalise
from recognition.data.degrade import Degradation, low_res
from recognition.data.pairs import PairSet
from recognition.distributed import World
from recognition.evaluation import quality, scorers
from recognition.evaluation.compared import Compared
from recognition.evaluation.embed import embed
from recognition.evaluation.protocol import EvaluationSet
from recognition.evaluation.quality_report import save_quality
from recognition.weights import write_weights

ALONE = World(0, 0, 1, torch.device("cpu"))
CONFIG = settings.load(Path(__file__).parents[3] / "configs" / "demo.py")


class Matcher(nn.Module):
    """(B, 3, 112, 112) -> (B, 588): colours of a 14 x 14 grid, which small pictures lose."""

    def embed(self, image: Tensor, score: Tensor | None = None) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(image, 14).flatten(1) + 1e-3


def faces(people: int = 24, shots: int = 2) -> list[bytes]:
    """Pictures of 14 x 14 blocks by person, with noise by shot."""
    found = []
    for person in range(people):
        blocks = np.random.default_rng(person).normal(127, 30, (14, 14, 3))
        for shot in range(shots):
            noisy = blocks + np.random.default_rng([person, shot]).normal(0, 60, (14, 14, 3))
            picture = np.kron(noisy, np.ones((8, 8, 1))).clip(0, 255).astype(np.uint8)
            found.append(cv2.imencode(".png", picture)[1].tobytes())
    return found


def a_set() -> EvaluationSet:
    images = faces()
    first = np.repeat(np.arange(0, 48, 2), 2)
    same = np.arange(48) % 2 == 0
    second = np.where(same, first + 1, (first + 7) % 48)
    pairs = PairSet("faces", images, first, second, same)
    return EvaluationSet("faces", Compared(images, first, second, ((112, 112),), pairs))


def made(*specs: str, base: nn.Module | str = "") -> tuple[dict[str, nn.Module], dict[str, str]]:
    return scorers.make(scorers.sections(CONFIG, specs), base, [a_set().protocol.images], ALONE.device)


def section(**edc: object) -> dict:
    return {"sets": [], "bootstrap": 20, "far": [0.1], "edc": edc}


def test_a_line_makes_a_scorer() -> None:
    found = scorers.sections(CONFIG, ["sharpness", "sharpness:variance log=False", "feature_norm base=runs/a/vit"])
    assert found == {
        "sharpness": {"name": "sharpness", "base": ""},
        "sharpness variance log=False": {"name": "sharpness", "measure": "variance", "log": False, "base": ""},
        "feature_norm on vit": {"name": "feature_norm", "base": "runs/a/vit"},
    }
    assert set(scorers.sections(CONFIG)) == set(SCORERS.names())
    twice = ["cr_fiqa:a/one.safetensors", "cr_fiqa:a/two.safetensors"]
    assert [*scorers.sections(CONFIG, twice)] == ["cr_fiqa", twice[1]]


@pytest.mark.parametrize(
    "spec, complaint",
    [
        ("sharpnes", "did you mean 'sharpness'"),
        ("sharpness sharp=1", "unexpected argument 'sharp'"),
        ("sharpness log=3", "it takes true or false"),
        ("sharpness variance", "no override"),
    ],
)
def test_a_line_that_cannot_be_is_an_error(spec: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        scorers.sections(CONFIG, [spec])


def test_what_cannot_be_made_says_why() -> None:
    found, missing = made(
        "sharpness", "brisque", "landmark_forest", "feature_norm base=absent", "spectral_slope base=absent"
    )
    assert [*found] == ["sharpness"] and not found["sharpness"].training
    assert "needs a file" in missing["brisque"] and "\n" not in missing["brisque"]
    assert "holds no config.json" in missing["feature_norm on absent"]
    assert "looks through no network" in missing["spectral_slope on absent"]
    assert "several scores for each image" in made("several")[1]["several"]


@pytest.fixture(scope="module")
def vit_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that trained a small ViT whole, from nothing."""
    run = tmp_path_factory.mktemp("vit")
    config = EasyDict(json.loads(settings.to_json(CONFIG)))
    config.backbone, config.adapter = EasyDict(name="vit_nano", weights=""), EasyDict(name="full", weights="")
    (run / "config.json").write_text(settings.to_json(config))
    tensors = BACKBONES.create("vit_nano").state_dict()
    write_weights(run / "model" / "adapter.safetensors", tensors, {"backbone": "vit_nano", "adapter": {"name": "full"}})
    return run


def test_a_scorer_may_look_through_a_network_of_its_own(vit_run: Path) -> None:
    base = BACKBONES.create("mobilefacenet_nano").eval()
    found, missing = made("attn_fiqa", f"attn_fiqa base={vit_run}", "feature_norm", base=base)
    assert "needs a transformer" in missing["attn_fiqa"]
    assert [*found] == [f"attn_fiqa on {vit_run.name}", "feature_norm"]
    weights = scorers.plain_base(vit_run / "model" / "adapter.safetensors")
    for key, tensor in scorers.plain_base(vit_run).state_dict().items():
        assert torch.equal(tensor, weights.state_dict()[key])
    image = torch.rand(2, 3, 112, 112)
    with torch.no_grad():
        assert torch.allclose(found["feature_norm"](image), base(image * 2 - 1).norm(dim=1))


def test_scorer_and_matcher_see_the_same_pixels() -> None:
    one, (found, _) = a_set(), made("oracle", "sharpness", "constant")
    degradation = Degradation(share=0.7, sides=(7, 112), noise=3.0)
    options = {"world": ALONE, "model": Matcher(), "batch_size": 7}
    embeddings, scores = scorers.look(one.protocol.images, degradation, 5, found, **options)
    draw = degradation.draw(5, np.arange(48))
    assert 0 < (draw.side == 0).sum() < 48
    np.testing.assert_allclose(scores["oracle"], np.log2(np.where(draw.side > 0, draw.side, 112) / 112), atol=1e-6)
    rows = np.array([40, 3])
    again = scorers.look(one.protocol.images, degradation, 5, found, world=ALONE, model=Matcher(), rows=rows)
    assert torch.equal(again[0], embeddings[rows])
    assert all(np.array_equal(again[1][label], scores[label][rows]) for label in found)
    reduced = Degradation(share=1.0, sides=(14, 14))
    embeddings, scores = scorers.look(one.protocol.images, reduced, 0, found, world=ALONE, model=Matcher(), flip=True)
    assert torch.equal(embeddings, embed(Matcher(), one.protocol.images, world=ALONE, side=14, flip=True))
    pixels = np.stack([cv2.imdecode(np.frombuffer(i, np.uint8), cv2.IMREAD_COLOR_RGB) for i in one.protocol.images])
    seen = (normalise(low_res(torch.from_numpy(pixels), 14)) + 1) / 2
    np.testing.assert_allclose(scores["sharpness"], found["sharpness"](seen), rtol=1e-6)


def test_the_protocol_and_what_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorers, "REPEATS", 2)
    one, (found, missing) = a_set(), made("oracle", "sharpness", "constant", "brisque")
    results = quality.measure_quality(Matcher(), found, section(share=1.0, sides=[2, 112], ladder=6), ALONE, [one])
    at = results["faces"]["from"]["2"]["far"]["0.1"]
    areas = {label: each["relative"]["value"] for label, each in at["scorers"].items()}
    assert areas["oracle"] < 0.5 and areas["constant"] == pytest.approx(1) and set(areas) == {*found, "random"}
    assert at["scorers"]["constant"]["less"]["oracle"]["value"] > 0 and at["far"] <= 0.1
    ladder = results["faces"]["ladder"]
    assert [ladder[side]["oracle"] for side in ladder] == [0, -1, -2, -3, -4]
    assert results["faces"]["cost"].keys() == found.keys() and results["faces"]["matcher"] > 0
    path = save_quality(tmp_path, results, missing)
    assert {file.name for file in tmp_path.iterdir()} == {"edc.json", "edc.md", "edc.png", "edc_items.npz"}
    text = path.read_text()
    for words in ("| oracle |", "| random |", "less `oracle`", "`brisque`: scorer 'brisque' needs a file", "| 7 px |"):
        assert words in text
    saved = json.loads((tmp_path / "edc.json").read_text())
    assert saved["sets"]["faces"]["from"]["2"]["far"]["0.1"]["fnmr"] == at["fnmr"]
    assert saved["missing"].keys() == {"brisque"}
    items = results["faces"]["items"]
    small = np.minimum(items["side"][one.protocol.gallery], items["side"][one.protocol.probe]) < 14
    assert (
        results["faces"]["from"]["14"]["pairs"] == (~small).sum() < len(small) == results["faces"]["from"]["2"]["pairs"]
    )
    with pytest.raises(ValueError, match=r"below 113 px \(evaluation.edc.least\): 0 pairs"):
        quality.measure_items(items, section(least=[113]))


@pytest.mark.parametrize(
    "edc, complaint",
    [
        ({"shares": 1.0}, "did you mean 'share'"),
        ({"share": 2.0}, "evaluation.edc: degradation: share=2.0"),
        ({"most": 1.0}, "largest share discarded"),
        ({"against": ["oracles"]}, "names 'oracles'"),
    ],
)
def test_settings_that_cannot_be(edc: dict, complaint: str) -> None:
    found, _ = made("oracle")
    with pytest.raises(ValueError, match=complaint):
        quality.measure_quality(Matcher(), found, section(**edc), ALONE, [a_set()])
    with pytest.raises(ValueError, match="holds no pairs"):
        quality.measure_quality(Matcher(), found, section(), ALONE, [])


def test_processes_share_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = made("oracle", "sharpness")
    one, worlds = a_set(), [World(rank, rank, 5, ALONE.device) for rank in range(5)]  # 48 images do not divide by 5
    degradation = Degradation(share=0.7, sides=(7, 112))
    alone = scorers.look(one.protocol.images, degradation, 5, found, world=ALONE, model=Matcher())
    parts: list[Tensor] = []
    monkeypatch.setattr(scorers, "gather", lambda local: parts.append(local) or local.repeat(5, 1))
    for world in worlds:
        scorers.look(one.protocol.images, degradation, 5, found, world=world, model=Matcher())
    assert [len(part) for part in parts] == [10] * 5
    monkeypatch.setattr(scorers, "gather", lambda local: torch.cat(parts))
    for world in worlds[:2]:
        embeddings, scores = scorers.look(one.protocol.images, degradation, 5, found, world=world, model=Matcher())
        assert torch.equal(embeddings, alone[0])
        assert all(np.array_equal(scores[label], alone[1][label]) for label in found)
    assert quality.measure_quality(Matcher(), found, section(ladder=0), worlds[1], [one]) == {}
