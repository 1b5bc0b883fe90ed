"""What the page's controls do: both models' answers, thresholds, sentences; nothing of gradio's."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from recognition.answers.api import LRFace
from recognition.demo import models as opened_models
from recognition.demo.answering import Demo, Many
from recognition.demo.compare import NEAREST, compare, curve, nearest_point, operating_points, thresholds
from recognition.demo.faces import RESIZED, SIDES, Face, sample
from recognition.demo.models import SHIPPED_BASE, Models, default_model, open_models
from recognition.export import export_onnx
from recognition.page.charts import Line
from recognition.runs import load_run
from tests.answering import RESULTS, Run, by_hand, faces, tiny_run, write_picture
from tests.recognition.demo.test_faces import packed, png
from tests.tiny import nameable

BEFORE = {"tar@0.01": 0.35, "tar@0.001": 0.6}  # thresholds of the base, which are not the model's
HOSTILE = "<img src=x onerror=alert(1)>{{value}}${1+1}"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with nameable():
        made = tiny_run(tmp_path_factory.mktemp("demo"))
        card = made.path / "model" / "adapter.json"
        told = json.loads(card.read_text())
        tars = {name: {**RESULTS["faces"]["112"][name], "threshold": BEFORE[name]} for name in BEFORE}
        before = {"faces": {"112": {**RESULTS["faces"]["112"], **tars}, "112-14": {**RESULTS["faces"]["28"]}}}
        after = {**RESULTS["faces"], "112-14": RESULTS["faces"]["28"]}
        told["results"] = {"before": before, "after": {"faces": after}}
        card.write_text(json.dumps(told))
        yield made


@pytest.fixture(scope="module")
def models(run: Run) -> Models:
    return open_models(run.path)


PAIR = tuple(Face(str(n), pixels) for n, pixels in enumerate(faces(2)))


def test_base_and_adapted_are_those_of_the_run(run: Run, models: Models) -> None:
    assert [one.name for one in models.shown] == ["base", "adapted"] and models.scorer == "sharpness"
    found = compare(models, PAIR, (112, 112))
    pixels = np.stack([face.pixels for face in PAIR])
    for judged, model in zip(found.judged, (load_run(run.path, base=True), run.model), strict=True):
        embedding, score, gate = by_hand(model, pixels)
        assert judged.similarity == pytest.approx(float(embedding[0] @ embedding[1]), abs=1e-5)
    assert found.seen[1].quality == pytest.approx(float(score[1]), abs=1e-5)
    assert found.seen[1].gate == pytest.approx(float(gate[1]), abs=1e-5)
    assert abs(found.judged[0].similarity - found.judged[1].similarity) > 1e-3


def test_the_folder_of_an_adapter_and_its_base(run: Run, models: Models) -> None:
    alone = open_models(run.path / "model", str(run.base))
    first, again = compare(models, PAIR, (112, 28)), compare(alone, PAIR, (112, 28))
    for one, other in zip(first.judged, again.judged, strict=True):
        assert one.similarity == pytest.approx(other.similarity, abs=1e-6)


def test_thresholds_of_both_with_their_interval(models: Models) -> None:
    assert operating_points(models)[0] == "faces/112"
    found = compare(models, PAIR, (112, 112), 1e-2, "faces/112")
    assert [one.chosen.threshold for one in found.judged] == [0.35, 0.25] and not found.of_other_faces
    assert "the base" not in found.judged[1].chosen.note and found.judged[0].same is not None
    assert compare(models, PAIR, (112, 14), 1e-3, NEAREST).judged[1].chosen.operating == "faces/112-14"
    assert compare(models, PAIR, (112, 14), 1e-3, "faces/112").of_other_faces
    assert nearest_point(models, (112, 100), 1e-2) == "faces/112" and nearest_point(models, (7, 7), 0.5) == ""
    nothing = compare(models, PAIR, (112, 112), 1e-6, "faces/112").judged[1]
    assert nothing.same is None and "holds no threshold at FAR 1e-06" in nothing.chosen.note


def test_the_curve_meets_the_comparison(models: Models) -> None:
    found = compare(models, PAIR, (112, 33))
    sides, values = curve(models, found)
    assert sides == sorted({*SIDES, 33})
    for judged in found.judged:
        assert values[judged.one.name][sides.index(33)] == pytest.approx(judged.similarity)
    for side in (14, 112):
        same = compare(models, PAIR, (112, side)).judged[1].similarity
        assert values["adapted"][sides.index(side)] == pytest.approx(same)


def test_the_charts_threshold_follows_the_resolution_or_says_where_it_was_measured(models: Models) -> None:
    found = compare(models, PAIR, (112, 20), 1e-3, NEAREST)
    base, adapted = thresholds(models, found)
    turn = next(side for side in range(7, 113) if side * side > 112 * 14)  # the middle, as factors
    assert base == {7: 0.75, turn: 0.6, 112: 0.6} and adapted == {7: 0.75, turn: 0.5, 112: 0.5}
    at_20 = Line("", 0, [*adapted], [*adapted.values()], step=True).value(20)
    assert at_20 == found.judged[1].chosen.threshold
    assert thresholds(models, compare(models, PAIR, (112, 20), 1e-2, "faces/112")) == [
        {7: 0.35, 112: 0.35},
        {7: 0.25, 112: 0.25},
    ]
    demo = Demo(models)
    assert "threshold (faces: 112 px), base" in demo.show(PAIR, (112, 20), 1e-2, "faces/112")[3]
    assert "threshold, base" in demo.show(PAIR, (112, 20), 1e-3, NEAREST)[3]


def test_a_base_on_the_hub_that_is_not_in_the_cache_is_a_reason(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(where: object) -> Path:
        raise ConnectionError("hf://a/b/c.pt: not in the cache")

    monkeypatch.setattr(opened_models.hub, "local_path", away)
    reason = opened_models._base(run.path, None)
    assert "is not in the cache, and the demo asks nobody" in reason and "--base FILE" in reason


def test_embeddings_are_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, seen = open_models(run.path), []
    look = LRFace.look
    monkeypatch.setattr(LRFace, "look", lambda self, images: seen.append(len(images)) or look(self, images))
    for _ in range(3):
        curve(mine, compare(mine, PAIR, (112, 14)))
    assert sum(seen) == 2 * (len({*SIDES}) + 1)  # both models; the second face at each side, the first at 112
    monkeypatch.setattr(opened_models, "KEPT", 3)
    compare(mine, PAIR, (112, 20))
    assert len(mine._kept) == 3


def test_models_without_base_gate_or_thresholds(run: Run, tmp_path: Path) -> None:
    plain = open_models(SHIPPED_BASE)
    assert (
        len(plain.shown) == 1
        and "no adapter" in plain.notes[0]
        and "neither a quality scorer nor a gate" in plain.notes[1]
    )
    shown = Demo(plain).show((sample(0), sample(1)), (112, 14), None, None)
    assert "no quality score, no gate" in shown[0] and "no verdict" in shown[2] and "No threshold: " in shown[2]
    assert Demo(plain).points() == [] and "threshold" not in shown[3]
    path = tmp_path / "face.onnx"
    export_onnx(run.model, path)
    onnx = open_models(path)
    assert len(onnx.shown) == 1 and "ONNX" in onnx.notes[0] and "inside the ONNX file" in onnx.notes[1]
    ours = compare(open_models(run.path), PAIR, (112, 14)).judged[1].similarity
    assert compare(onnx, PAIR, (112, 14)).judged[0].similarity == pytest.approx(ours, abs=1e-4)
    assert open_models(SHIPPED_BASE, scorer="sharpness").scorer == "sharpness"


def test_the_default_is_the_demo_or_what_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path, note = default_model()
    assert path == SHIPPED_BASE and "There is no finished runs/demo" in note
    (tmp_path / "runs/demo/model").mkdir(parents=True)
    (tmp_path / "runs/demo/model/adapter.json").write_text("{}")
    assert default_model() == (Path("runs/demo"), "")


def test_pickers_and_sliders_with_wrong_values(models: Models) -> None:
    demo = Demo(models)
    assert demo.take("sample:2") == sample(2)
    assert demo.take(packed(("x.png", png(PAIR[0].pixels)))).name == "x.png"
    for value in (None, "", "sample:x", "sample:-1", "large:99", packed(("a.png", b"no"))):
        with pytest.raises(ValueError):
            demo.take(value)
    for side, said in ((3, "3 px"), (None, "None px"), (float("nan"), "nan px"), (float("inf"), "inf px")):
        with pytest.raises(ValueError, match=f"a side of {said}"):
            demo.show(PAIR, (side, 112), None, None)
        with pytest.raises(ValueError, match=f"a side of {said}"):
            demo.show_many(Many(PAIR), side, None, None)
    assert (
        demo.notes() == []
        and "no threshold at FAR 0.05; the page opens with FAR 0.01" in Demo(models, far=0.05).notes()[0]
    )
    assert [value for _, value in demo.points()][:2] == [NEAREST, "faces/112"]
    assert [far for _, far in demo.rates("faces/112")] == [1e-2, 1e-3] and demo.rate_at("faces/28", 1e-2) == 1e-3


def test_many_pictures_broken_ones_and_hostile_names(models: Models, tmp_path: Path) -> None:
    for number, face in enumerate(faces(5)):
        write_picture(tmp_path / f"{number}{HOSTILE.replace('/', '')}.png", face)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8")
    demo = Demo(models, tmp_path)
    many = demo.read_folder(".")
    assert len(many.faces) == 5 and [name for name, _ in many.errors] == ["broken.jpg"]
    text = demo.show_many(many, 28, 1e-3, NEAREST)
    assert "<img src=x" not in text and "&lt;img src=x onerror" in text and "broken.jpg" in text
    assert "1 picture without an answer" in text
    assert text.count("<tr>") == 6 + 2 * 6 and "threshold 0.750 at FAR 0.001" in text
    handed = demo.take_many(packed(*[(HOSTILE, png(face)) for face in faces(20)]))
    text = demo.show_many(handed, 112, None, None)
    assert text.count("data:image/png") == 2 and "<img src=x" not in text
    assert demo.show_many(type(many)(), 112, None, None) == ""
    assert "<img src=x" not in "".join(demo.show((Face(HOSTILE, PAIR[0].pixels), PAIR[1]), (112, 14), 1e-3, NEAREST))


def test_what_was_done_to_pictures_is_said_below_the_table(models: Models) -> None:
    one, other = (Face(str(n), pixels, RESIZED) for n, pixels in enumerate(faces(2)))
    text = Demo(models).show_many(Many((PAIR[0], one)), 112, None, None)
    assert f">Picture 2: {RESIZED}.<" in text
    assert f">Pictures 1, 3: {RESIZED}.<" in Demo(models).show_many(Many((one, PAIR[0], other)), 112, None, None)


def test_gradio_is_imported_where_it_is_used() -> None:
    for path in Path(opened_models.__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            assert not isinstance(node, ast.Import | ast.ImportFrom) or "gradio" not in ast.unparse(node), path
