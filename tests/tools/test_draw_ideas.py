"""The pictures are what the code gives."""

from __future__ import annotations

import base64
import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch

from recognition.data.order import SampleOrder
from recognition.reference import faces, processes
from recognition.reference.docstrings import ROOT
from recognition.reference.svg import png
from tools import draw_ideas

KEPT = ROOT / "docs" / "ideas"
NUMBER = re.compile(r"-?\d+\.?\d*")
EMBEDDED = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=]+)")


def pixels(text: str) -> list[np.ndarray]:
    return [
        cv2.imdecode(np.frombuffer(base64.b64decode(one), np.uint8), 1).astype(int) for one in EMBEDDED.findall(text)
    ]


@pytest.mark.parametrize("name", draw_ideas.NAMES)
def test_a_picture_is_what_the_tool_draws(name):
    kept, drawn = (KEPT / f"{name}.svg").read_text(), draw_ideas.draw(name)
    again = f"run python tools/draw_ideas.py and commit docs/ideas/{name}.svg"
    for old, new in zip(pixels(kept), pixels(drawn), strict=True):  # another processor may round a grey level elsewhere
        assert old.shape == new.shape and abs(old - new).max() <= 2, again
    kept, drawn = EMBEDDED.sub("", kept), EMBEDDED.sub("", drawn)
    assert NUMBER.sub("#", kept) == NUMBER.sub("#", drawn), again
    numbers = zip(NUMBER.findall(kept), NUMBER.findall(drawn), strict=True)
    assert all(old == new or abs(float(old) - float(new)) <= 2.0 for old, new in numbers), again


@pytest.mark.parametrize("name", draw_ideas.NAMES)
def test_a_picture_is_small_safe_and_inside_its_frame(name):
    path = KEPT / f"{name}.svg"
    assert path.stat().st_size < 100_000
    root = ElementTree.fromstring(path.read_text())
    _, _, width, height = map(float, root.get("viewBox").split())
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert tags <= {"svg", "title", "style", "rect", "text", "path", "circle", "line", "image"}
    for element in root.iter():
        assert not any(key.startswith("on") for key in element.attrib)
        assert element.get("href", "data:image/png").startswith("data:image/png")
        if element.tag.endswith("}text"):
            x, y, words = float(element.get("x")), float(element.get("y")), len(element.text or "")
            wide = 6.9 * words if element.get("class") != "title" else 8.2 * words  # of the widest common fonts
            left = x - {"start": 0, "middle": wide / 2, "end": wide}[element.get("text-anchor")]
            assert left >= 0 and left + wide <= width and 0 < y < height, element.text
    assert "prefers-color-scheme:dark" in path.read_text(), "legible on a dark page, too"


def test_the_page_shows_all_of_them():
    page = (ROOT / "docs" / "ideas.md").read_text()
    assert set(re.findall(r"\]\(ideas/(\w+)\.svg\)", page)) == set(draw_ideas.NAMES)
    assert {path.stem for path in KEPT.iterdir()} == set(draw_ideas.NAMES)


def test_scores_and_gates_fall_with_resolution():
    ladder = faces.ladder()
    assert [face.side for face in ladder] == [112, 56, 28, 14, 7]
    for better, worse in pairwise(ladder):
        assert better.score > worse.score and better.gate >= worse.gate and better.cosine > worse.cosine
    gate = faces.recipe().gate
    for face in ladder:
        assert face.gate == pytest.approx(min(1, max(0, 0.5 + gate.slope * (face.score - gate.midpoint))), abs=1e-6)
    assert f"{ladder[2].gate:.2f}" in (KEPT / "gate.svg").read_text()


def test_shards_and_samples_are_those_of_the_classifier():
    """Against the classifier itself, told that it is one of three."""
    from recognition.margins import MARGINS
    from recognition.partial_fc import PartialFC

    label = torch.tensor([one for own in processes.LABELS for one in own])
    for rank in range(processes.PROCESSES):
        classes, positive, rows = processes.sampled(rank)
        centres = PartialFC(4, processes.CLASSES, MARGINS.create("cosface"), processes.RATE, processes.SEED)
        centres.global_rank, centres.class_start = rank, classes.start
        centres.weight = torch.nn.Parameter(centres.weight[classes.start : classes.stop])
        assert (centres.sample(label, processes.STEP) + classes.start).tolist() == rows
        assert set(positive) == {one for one in label.tolist() if one in classes} <= set(rows)


def test_the_order_is_that_of_the_loader():
    order = SampleOrder(processes.IMAGES, processes.SEED, processes.GLOBAL_BATCH)
    images = [int(one) for step in range(processes.STEPS) for one in order.indices(order.positions(step))]
    assert f"Records in order: {images}" in (KEPT / "sample_order.svg").read_text()
    assert sorted(images[: processes.IMAGES]) == list(range(processes.IMAGES))


def test_forgetting_is_that_of_the_results():
    found = processes.figures_of_forgetting()
    assert found["base"]["112"] == 98.1 and found["lfw_full"]["112"] == 88.1
    assert set(found) == {"base", "lfw_full", "lfw_lora", "lfw_dual_lora"}


def test_pixels_go_through_png_unchanged():
    image = np.random.default_rng(0).integers(0, 256, (150, 151, 3), dtype=np.uint8)  # more than one block
    assert np.array_equal(cv2.imdecode(np.frombuffer(png(image), np.uint8), 1)[:, :, ::-1], image)


def test_an_unknown_picture_is_a_sentence(capsys, tmp_path):
    assert draw_ideas.main(["gates", "--out", str(tmp_path)]) == 2
    assert "did you mean 'gate'" in capsys.readouterr().err and not any(tmp_path.iterdir())
    assert draw_ideas.main(["forgetting", "--out", str(tmp_path)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["forgetting.svg"]
