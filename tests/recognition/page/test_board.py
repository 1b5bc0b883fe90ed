from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from recognition.distributed import World
from recognition.evaluation.protocol import Looked
from recognition.evaluation.sets import open_sets
from recognition.page import board
from recognition.page.runs import read_run
from tests.pages import make_run

ALONE = World(0, 0, 1, torch.device("cpu"))


class Colours(torch.nn.Module):
    """(B, 3, H, W) -> (B, 12): mean colours of quarters."""

    def embed(self, image: torch.Tensor, score: torch.Tensor | None = None) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(image, 2).flatten(1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("board"))


def read_config(folder: Path) -> ProjectorConfig:
    return text_format.Parse((folder / board.CONFIG).read_text(), ProjectorConfig())


def test_every_plot_has_its_curves(run: Path) -> None:
    found = board.figures(read_run(run).results)
    expected = {"roc/pairs", "det/pairs", "similarity/pairs", "quality/pairs", "cmc/people"}
    assert set(found) == expected  # too few probes for fifths of quality
    position = read_run(run).results["after"]["people"]["112"]["items"]["position"]
    cmc = found["cmc/people"].axes[0]
    assert [line.get_label() for line in cmc.lines] == ["before", "after"]
    assert cmc.lines[1].get_ydata()[0] == pytest.approx((position == 1).mean())
    assert board.figures({}) == {}


def test_a_model_that_misses_nothing_can_be_drawn() -> None:
    items = {"score": np.array([0.9, 0.1]), "same": np.array([True, False])}
    part = {"roc": {"far": [0.5, 1.0], "tar": [1.0, 1.0]}, "items": items, "pairs": 2, "genuine": 1}
    found = board.figures({"after": {"pairs": {"112": part}}})
    for figure in found.values():
        figure.canvas.draw()
    assert "det/pairs" in found


def test_plots_and_projector_join_the_logs(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "load_run", lambda path: Colours())
    told = board.add_to_logs(read_run(run), ALONE)
    assert told[0].startswith("5 plots of update 8") and "at 112" in told[1]
    events = EventAccumulator(str(run / "logs"), {"images": 0}).Reload()
    assert "report/cmc/people" in events.Tags()["images"]
    one = read_config(run / "logs").embeddings[0]
    rows = np.fromfile(run / "logs" / one.tensor_path, "<f4").reshape(list(one.tensor_shape))
    lines = (run / "logs" / one.metadata_path).read_text().splitlines()
    assert rows.shape[1] == 12 and len(lines) == len(rows) + 1 and lines[0] == "image\tperson\tside"
    assert (run / "logs" / one.sprite.image_path).is_file()


def test_the_faces_chosen_are_those_that_the_model_saw(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = open_sets(read_run(run).config.evaluation)[0]
    looked = {}
    for key, view in one.protocol.views.items():
        looked[key] = Looked(torch.from_numpy(view.rows + 1000.0 * view.side)[:, None])
    monkeypatch.setattr(board, "FACES", 7)
    faces = board.chosen(one, looked)
    assert [side for side, *_ in faces.seen] == [112, 14] and faces.name == "pairs"
    for side, rows, embedding in faces.seen:
        assert len(rows) == 7 and embedding[:, 0].tolist() == (rows + 1000 * side).tolist()
        assert rows[0] == one.protocol.views[str(side)].rows[0] and rows[-1] == one.protocol.views[str(side)].rows[-1]


def test_without_sets_there_are_no_faces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "figures", lambda _: {})
    one = read_run(make_run(tmp_path))
    one.config.evaluation.sets = []
    assert "nothing to show: evaluation.sets is empty" in board.add_to_logs(one, ALONE)[1]


def test_a_second_tag_stands_beside_the_first(tmp_path: Path) -> None:
    rows, labels = np.arange(6.0).reshape(3, 2), [{"name": f"a\tb {n}", "n": n} for n in range(3)]
    pictures = np.full((3, 20, 20, 3), 7, np.uint8)
    board.write_projector(tmp_path, rows, labels, pictures, "one/two")
    board.write_projector(tmp_path, rows, [{"n": n} for n in range(3)], None, "other")
    board.write_projector(tmp_path, torch.from_numpy(rows) + 1, labels, pictures, "one/two")
    config = read_config(tmp_path)
    assert sorted(one.tensor_name for one in config.embeddings) == ["one/two", "other"]
    two = next(one for one in config.embeddings if one.tensor_name == "one/two")
    assert np.fromfile(tmp_path / two.tensor_path, "<f4").tolist() == (rows + 1).ravel().tolist()
    assert (tmp_path / two.metadata_path).read_text() == "name\tn\na b 0\t0\na b 1\t1\na b 2\t2\n"
    assert list(two.sprite.single_image_dim) == [20, 20]
    other = next(one for one in config.embeddings if one.tensor_name == "other")
    assert (tmp_path / other.metadata_path).read_text() == "0\n1\n2\n" and not other.sprite.image_path
    with pytest.raises(ValueError, match="3 labels"):
        board.write_projector(tmp_path, rows[:2], labels, None, "wrong")


def test_what_cannot_be_drawn_is_said(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no results to draw"):
        board.add_to_logs(read_run(make_run(tmp_path, whens=())), ALONE)
    assert "the embedding projector has nothing to show" in board.add_to_logs(read_run(run), ALONE)[1]
