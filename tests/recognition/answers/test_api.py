"""What models answer: the same from a run, an adapter on its base and an ONNX file, whatever pictures come as."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from lrface import LRFace
from recognition.answers import opening
from recognition.data.alignment import TEMPLATE, align
from recognition.export import export_onnx
from recognition.weights import write_weights
from tests.answering import RESULTS, Run, by_hand, faces, tiny_run, write_picture
from tests.tiny import Tiny, nameable

FACES = faces(7)
RED = np.zeros((112, 112, 3), np.uint8)
RED[30:80, 30:80, 0] = 255  # RGB


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with nameable():
        yield tiny_run(tmp_path_factory.mktemp("answers"))


@pytest.fixture(scope="module")
def onnx(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(run.model, tmp_path_factory.mktemp("onnx") / "face.onnx").path


@pytest.fixture(scope="module")
def model(run: Run) -> LRFace:
    return LRFace.load(run.path)


def test_a_run_answers_as_its_network(run: Run, model: LRFace) -> None:
    wanted, score, gate = by_hand(run.model, FACES)
    found = model.look(FACES)
    np.testing.assert_allclose(found.embedding, wanted, atol=1e-6)
    np.testing.assert_allclose(found.quality, score, atol=1e-6)
    np.testing.assert_allclose(found.gate, gate, atol=1e-6)
    assert found.embedding.dtype == np.float32 and np.ptp(gate) > 0.3, "pictures of different quality"
    raw = model.look(FACES, normalise=False)
    np.testing.assert_allclose(np.linalg.norm(raw.embedding, axis=1), found.norm, rtol=1e-6)
    np.testing.assert_array_equal(model.embed(FACES), found.embedding)
    assert found.names[2] == "image 2" and found.sound.all() and model.size == 12


def test_an_adapter_on_its_base_is_the_run(run: Run, model: LRFace, tmp_path: Path) -> None:
    shutil.copytree(run.path / "model", tmp_path / "alone")
    for path in (tmp_path / "alone", tmp_path / "alone" / "adapter.safetensors", run.path):
        other = LRFace.load(path, run.base)
        np.testing.assert_array_equal(other.embed(FACES), model.embed(FACES))
        assert other.space() == model.space() and other.thresholds.at == model.thresholds.at
    with pytest.raises(ValueError, match=r"an adapter without its base.*--base FILE\)$"):
        LRFace.load(tmp_path / "alone")
    with pytest.raises(ValueError, match=f"or name the run, {run.path}"):
        LRFace.load(run.path / "model")
    other = tmp_path / "other.safetensors"
    write_weights(other, Tiny().state_dict(), {})
    with pytest.raises(ValueError, match="trained on another base"):
        LRFace.load(tmp_path / "alone", other)


def test_a_run_away_from_where_it_was_trained(
    run: Run, model: LRFace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run.path, tmp_path / "moved")
    settings = tmp_path / "moved" / "config.json"
    settings.write_text(settings.read_text().replace(str(run.base), "weights/base.params"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"^the base of moved, weights/base\.params, is not there: give base="):
        LRFace.load("moved")
    np.testing.assert_array_equal(LRFace.load("moved", run.base).embed(FACES[:1]), model.embed(FACES[:1]))
    (tmp_path / "moved" / "checkpoints" / "step_000000001").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"is not there: give base="):
        LRFace.load("moved/checkpoints/step_000000001")


def test_a_checkpoint_has_a_card(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "load_run", lambda path, weights: run.model)
    path = run.path / "checkpoints" / "step_000000001"
    path.mkdir(parents=True, exist_ok=True)
    assert "there is no card" in LRFace.load(path).thresholds.source
    (path / "adapter.json").write_text(json.dumps({"results": {"before": {}, "during": RESULTS}}))
    assert LRFace.load(path).thresholds.choose().threshold == 0.5
    assert LRFace.load(path, run.base).thresholds.choose().threshold == 0.5


def test_it_shows_what_it_is(run: Run, model: LRFace) -> None:
    assert repr(model) == f"LRFace('{run.path}', embeddings of 12 numbers)"


def test_plain_weights_with_a_card(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "plain.safetensors"
    plain = Tiny().eval()
    write_weights(path, plain.state_dict(), {"backbone": "tiny_of_tests"})
    found = LRFace.load(path, scorer="sharpness").look(FACES)
    image = torch.from_numpy(FACES).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        wanted = plain(torch.nn.functional.interpolate(image, size=(16, 16), mode="bilinear")).numpy()
    np.testing.assert_allclose(found.embedding * found.norm[:, None], wanted, atol=1e-5)
    assert found.gate is None
    np.testing.assert_allclose(found.quality, by_hand(run.model, FACES)[1], atol=1e-6)
    with pytest.raises(ValueError, match="is a whole backbone, no adapter"):
        LRFace.load(path, run.base)
    with pytest.raises(ValueError, match="reads no quality"):
        LRFace.load(path).embed(FACES, scores=np.ones(7))
    with pytest.raises(ValueError, match=r"has no card .* tools/convert_checkpoint\.py"):
        LRFace.load(run.base)


def test_onnx_equals_torch(model: LRFace, onnx: Path) -> None:
    exported = LRFace.load(onnx, device="cpu", scorer="sharpness")
    for flip in ("none", "sum"):
        mine, theirs = model.look(FACES, flip=flip), exported.look(FACES, flip=flip, batch_size=3)
        assert (mine.embedding * theirs.embedding).sum(1).min() > 1 - 1e-4
        np.testing.assert_allclose(theirs.norm, mine.norm, rtol=1e-3)
    np.testing.assert_allclose(theirs.quality, mine.quality, rtol=1e-5)
    assert theirs.gate is None and LRFace.load(onnx).look(FACES).quality is None, "they are inside"
    assert exported.space()["preprocessing"] == model.space()["preprocessing"]
    with pytest.raises(ValueError, match="scores pictures inside"):
        exported.embed(FACES, scores=np.ones(7))
    with pytest.raises(ValueError, match="leave the base out"):
        LRFace.load(onnx, "base.safetensors")


def test_onnx_with_the_score_as_an_input(run: Run, model: LRFace, tmp_path: Path) -> None:
    path = export_onnx(run.model, tmp_path / "two.onnx", two_inputs=True).path
    wanted = model.look(FACES)
    for given in (
        LRFace.load(path, scorer="sharpness").embed(FACES),
        LRFace.load(path).embed(FACES, scores=wanted.quality),
    ):
        assert (given * wanted.embedding).sum(1).min() > 1 - 1e-4
    with pytest.raises(ValueError, match="give scores, or the scorer"):
        LRFace.load(path).embed(FACES)


def test_files_of_strangers(onnx: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(ValueError, match="onnxruntime cannot open it"):
        LRFace.load(tmp_path / "broken.onnx")
    import onnx as library

    graph = library.load(str(onnx))
    del graph.metadata_props[:]
    library.save(graph, str(tmp_path / "silent.onnx"))
    with pytest.raises(ValueError, match="does not tell how pictures go in"):
        LRFace.load(tmp_path / "silent.onnx")
    for path in ("nowhere", "nowhere.onnx"):
        with pytest.raises(FileNotFoundError, match="there is no"):
            LRFace.load(tmp_path / path)
    (tmp_path / "evil.pt").write_bytes(b"\x80\x04cos\nsystem\n.")
    with pytest.raises(ValueError, match=r"not a weights file|holds other things"):
        LRFace.load(tmp_path / "evil.pt")


def test_red_is_red_whatever_it_comes_as(model: LRFace, tmp_path: Path) -> None:
    from PIL import Image

    wanted = model.embed(RED)
    encoded = cv2.imencode(".png", RED[..., ::-1])[1].tobytes()
    path = write_picture(tmp_path / "red.png", RED)
    same = [path, str(path), encoded, RED[None], torch.from_numpy(RED).permute(2, 0, 1)]
    same += [Image.fromarray(RED), Image.fromarray(RED).convert("RGBA"), Image.fromarray(RED).convert("P")]
    for one in same:
        np.testing.assert_array_equal(model.embed(one), wanted)
    blue = RED[..., ::-1]
    np.testing.assert_array_equal(model.embed(blue, colour="bgr"), wanted)
    np.testing.assert_array_equal(model.embed([blue, path], colour="bgr"), model.embed([RED, path]))  # files tell it
    assert (model.embed(blue) * wanted).sum() < 0.999, "the model sees colours"


def test_mixed_pictures_are_handled_one_by_one(model: LRFace, tmp_path: Path) -> None:
    good = write_picture(tmp_path / "good.png", FACES[0])
    (tmp_path / "torn.jpg").write_bytes(cv2.imencode(".jpg", FACES[0])[1].tobytes()[:200])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("no picture")
    given = [good, tmp_path / "empty.png", FACES[1], tmp_path / "text.jpg", tmp_path / "gone.png", FACES[2] / 255.0]
    given += [FACES[3][..., 0], FACES[4][..., :2], b"bytes", FACES[5:7]]
    found = model.look(given, batch_size=3)
    assert sorted(found.errors) == [1, 3, 4, 5, 7, 8] and len(found) == 11
    assert found.errors[4] == "there is no such file" and "wanted uint8" in found.errors[5]
    assert "wanted (H, W, 3)" in found.errors[7] and "do not decode" in found.errors[8]
    assert np.isnan(found.embedding[~found.sound]).all() and np.isnan(found.quality[~found.sound]).all()
    np.testing.assert_allclose(found.embedding[[0, 2, 9, 10]], model.embed(FACES[[0, 1, 5, 6]]), atol=1e-6)
    assert found.problems()[2] == {"name": str(tmp_path / "gone.png"), "error": "there is no such file"}
    with pytest.raises(ValueError, match=r"6 of 11 pictures could not be embedded, the first is .*empty\.png"):
        model.embed(given)
    assert np.isnan(model.embed(given, errors="nan")).any(axis=1).sum() == 6
    folder = model.look(tmp_path)
    assert folder.names == ["empty.png", "good.png", "text.jpg", "torn.jpg"] and 1 not in folder.errors
    assert {0, 2} <= set(folder.errors)


def test_any_batch_size_and_many_threads_give_the_same(model: LRFace) -> None:
    wanted = model.embed(FACES)
    for size in (1, 2, 5):
        np.testing.assert_allclose(model.embed(FACES, batch_size=size), wanted, atol=1e-6)
    with ThreadPoolExecutor(4) as pool:
        each = list(pool.map(model.embed, list(FACES) * 4))
    np.testing.assert_allclose(np.concatenate(each), np.tile(wanted, (4, 1)), atol=1e-6)


def test_the_mirrored_face_and_given_scores(run: Run, model: LRFace) -> None:
    there = FACES[:, :, ::-1]
    own, other = (model.look(pixels, normalise=False).embedding for pixels in (FACES, there))
    np.testing.assert_allclose(model.look(FACES, flip="sum", normalise=False).embedding, own + other, atol=1e-5)
    _, score, _ = by_hand(run.model, FACES)
    np.testing.assert_allclose(model.embed(FACES, scores=score), model.embed(FACES), atol=1e-6)
    assert np.abs(model.embed(FACES, scores=np.full(7, 9.0)) - model.embed(FACES)).max() > 0.01, "scores steer the gate"


def test_points_align(model: LRFace) -> None:
    large = cv2.resize(FACES[0], (400, 300))
    points = TEMPLATE * 1.7 + 20
    wanted = model.embed(align(large, points))
    np.testing.assert_array_equal(model.embed([large], points=[points]), wanted)
    found = model.look([large, FACES[1]], points=[points, np.zeros((5, 2))])
    assert list(found.errors) == [1] and "degenerate" in found.errors[1] and not found.notes
    assert "1 picture is far from square" in model.look(large).notes[0]


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        ([], {}, "no pictures were given"),
        ({"a": 1}, {}, "a dict is no picture"),
        ([None], {}, "a NoneType is no picture"),
        (torch.zeros(2, 112, 112, 3, dtype=torch.uint8), {}, r"uint8 \(B, 3, H, W\)"),
        (RED, {"colour": "rbg"}, "colour is 'rbg'"),
        (RED, {"flip": "both"}, "flip is 'both'"),
        (RED, {"batch_size": 0}, "at least 1"),
        (RED, {"points": np.zeros((2, 5, 2))}, r"points must be \(1, 5, 2\)"),
        (RED, {"scores": [1.0, 2.0]}, "one row for each of 1 pictures"),
        (RED, {"errors": "skip"}, "raise or nan"),
    ],
)
def test_what_cannot_be_meant_is_a_sentence(model: LRFace, given: object, options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        model.embed(given, **options)


def test_verify(run: Run, model: LRFace, tmp_path: Path) -> None:
    a, b = write_picture(tmp_path / "a.png", FACES[0]), FACES[1]
    one, two = model.embed([a, b])
    found = model.verify(a, b)
    assert found.similarity == pytest.approx(float(one @ two), abs=1e-6)
    assert (found.chosen.threshold, found.chosen.operating) == (0.5, "faces/112")
    assert found.same == (found.similarity >= 0.5) == bool(found)
    assert found.first["gate"] == pytest.approx(float(by_hand(run.model, FACES[:1])[2][0]), abs=1e-6)
    assert model.verify(a, a).same and model.verify(a, b, threshold=1.0).same is False
    assert model.verify(a, b, threshold=found.similarity).same, "equal to the threshold is accepted"
    with pytest.raises(ValueError, match=r"gone\.png: there is no such file"):
        model.verify(a, tmp_path / "gone.png")
    with pytest.raises(ValueError, match="one side holds 7"):
        model.verify(a, FACES)


def test_verify_pairs_embeds_each_path_once(run: Run, tmp_path: Path) -> None:
    from tests.answering import Counting

    model = Counting.load(run.path)
    a, b = (write_picture(tmp_path / f"{name}.png", FACES[i]) for i, name in enumerate("ab"))
    found = model.verify_pairs([(a, b), (b, a), (a, tmp_path / "gone.png"), (FACES[2], FACES[2])])
    assert model.seen == 5 and found[0].similarity == found[1].similarity
    assert found[2].similarity is None and "gone.png: there is no such file" in found[2].error
    assert found[3].similarity == pytest.approx(1)
    with pytest.raises(RuntimeError, match=r"nothing was decided: .*gone"):
        bool(found[2])


def test_without_thresholds_the_similarity_alone(onnx: Path) -> None:
    found = LRFace.load(onnx).verify(FACES[0], FACES[0])
    assert found.same is None and found.similarity == pytest.approx(1) and "holds no thresholds" in found.chosen.note
    with pytest.raises(RuntimeError, match="nothing was decided: no threshold"):
        bool(found)


def test_a_card_beside_an_onnx_file(run: Run, onnx: Path) -> None:
    for card in (run.path, run.path / "model" / "adapter.json", run.path / "report" / "after" / "results.json"):
        assert LRFace.load(onnx, card=card).verify(FACES[0], FACES[0]).same
