import json
import stat

import pytest
import torch
from easydict import EasyDict
from matplotlib.figure import Figure

from recognition import config as settings
from recognition import delivery
from recognition.evaluation.report import write_report
from recognition.evaluation.results import load_results, save_results
from recognition.logs import provenance
from recognition.model import assemble
from tests.disk import fill, small_disk
from tests.small import write_recipe


@pytest.fixture
def config(tmp_path):
    return settings.load(write_recipe(tmp_path))


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def results(accuracy=0.5):
    items = {"correct": torch.tensor([True, False]).numpy(), "same": torch.tensor([True, False]).numpy()}
    measures = {"accuracy": {"value": accuracy, "lo": 0.1, "hi": 0.9}, "pairs": 2, "genuine": 1, "items": items}
    return {"small": {"112": {**measures, "roc": {"far": [0.1, 1.0], "tar": [0.5, 1.0]}}}}


def write_everything(run, config, model, accuracy):
    delivery.write_start(run, config, "fingerprint")
    delivery.write_model(run, config, model, "fingerprint")
    delivery.write_summary(run, model, 3, 1.5)
    delivery.write_picture(run, "faces", Figure(figsize=(2, 2)))
    save_results(run / "report" / "after", results(accuracy))
    write_report(run / "report", {"after": results(accuracy)})


def test_a_run_is_delivered_whole_with_the_modes_of_new_files(tmp_path, config):
    run, model = tmp_path / "runs" / "small", assemble(config).model
    write_everything(run, config, model, 0.5)
    wanted = [
        "config.json", "model/README.md", "model/adapter.json", "model/adapter.safetensors", "provenance.json",
        "report/after/items.npz", "report/after/results.json", "report/faces.png", "report/report.md",
        "report/roc.png", "summary.json",
    ]  # fmt: skip
    assert names(run) == wanted
    (tmp_path / "new").write_text("")
    mode = stat.S_IMODE((tmp_path / "new").stat().st_mode)
    assert {stat.S_IMODE((run / name).stat().st_mode) for name in wanted} == {mode}
    assert settings.from_json(run / "config.json") == config
    assert json.loads((run / "provenance.json").read_text()) == {**provenance(), "records": "fingerprint"}
    summary = json.loads((run / "summary.json").read_text())
    assert summary["updates"] == 3 and summary["trainable_parameters"] > 500_000
    assert load_results(run / "report" / "after")["small"]["112"]["items"]["correct"].tolist() == [True, False]
    for picture in ("faces", "roc"):
        assert (run / "report" / f"{picture}.png").read_bytes().startswith(b"\x89PNG")


def test_on_a_full_disk_every_file_stays_what_it_was(tmp_path, config):
    model = assemble(config).model
    with small_disk(tmp_path / "disk", "8m") as disk:
        run = disk / "run"
        write_everything(run, config, model, 0.5)
        before = {name: (run / name).read_bytes() for name in names(run)}
        fill(disk)
        writers = (
            lambda: delivery.write_start(run, EasyDict(config, needs=[]), "another"),
            lambda: delivery.write_model(run, config, model, "another"),
            lambda: delivery.write_summary(run, model, 4, 2.5),
            lambda: delivery.write_picture(run, "faces", Figure(figsize=(3, 3))),
            lambda: save_results(run / "report" / "after", results(0.75)),
            lambda: write_report(run / "report", {"after": results(0.75)}),
        )
        for write in writers:
            with pytest.raises(OSError, match=r"No space left on device: '/.*/run/.*"):
                write()
        assert {name: (run / name).read_bytes() for name in names(run)} == before


def test_an_earlier_run_is_set_aside_under_a_free_name(tmp_path):
    run = tmp_path / "small"
    assert delivery.set_aside(run) is None
    for number in (1, 2):
        run.mkdir()
        assert delivery.set_aside(run) is None and run.is_dir()  # nothing of a run in it
        (run / "config.json").write_text(str(number))
        assert delivery.set_aside(run) == tmp_path / f"small.{number}"
    assert [(tmp_path / f"small.{n}" / "config.json").read_text() for n in (1, 2)] == ["1", "2"]
