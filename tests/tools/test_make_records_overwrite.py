"""Sets that take the place of others: in other shards, with other checksums, killed in between; and a quiet screen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from recognition.data.records import Records
from tests.tools.sources import faces, jpeg, made, pictures, refused, stopped
from tools import make_records

__all__ = ["faces", "pictures"]
ROOT = Path(__file__).parents[2]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(("before", "after"), [(4, 1), (4, 2), (1, 3)])
def test_a_set_takes_the_place_of_one_in_other_shards(faces, tmp_path, capsys, before, after):
    out = made(faces, tmp_path / "out", "--shards", before, "--checksum")
    stem = "train" if before == 1 else f"train-00000-of-{before:05d}"
    cache = f"{stem}.idx.cache"
    beside = (cache, f"{cache}.fingerprints", f"{stem}.scores.brisque-1.safetensors", f"{stem}.landmarks.npz")
    for name in (*beside, "other.rec", "trainer.idx"):
        (out / name).write_bytes(b"beside it")
    (out / "bad_images.txt").write_text("of an earlier run")
    assert "is there already: give --overwrite" in refused(capsys, faces, out, "--shards", after)
    made(faces, out, "--shards", after, "--overwrite")
    (out / "other.rec").unlink()
    (out / "trainer.idx").unlink()
    assert contents(out) == contents(made(faces, tmp_path / "whole", "--shards", after))
    assert len(Records(out)) == 9


def test_scores_of_the_same_shards_stay(faces, tmp_path):
    out = made(faces, tmp_path / "out")
    (out / "train.scores.brisque-1.safetensors").write_bytes(b"bound to the records, which are the same again")
    (out / "train.idx.cache").write_bytes(b"of the records that go")
    made(faces, out, "--overwrite")
    assert "train.idx.cache" not in names(out)
    assert "train.scores.brisque-1.safetensors" in names(out)


def test_partial_files_of_an_interrupted_run_go(faces, tmp_path, monkeypatch):
    """A .crc.partial that stayed would get its name and refuse every record."""
    monkeypatch.setattr(make_records, "BATCH", 2)
    whole = made(faces, tmp_path / "whole")
    for options in (["--shards", "4"], ["--checksum"]):
        command = [str(faces), str(tmp_path / "out"), "--overwrite", "--workers", "1", *options]
        with stopped():
            assert make_records.main(command) == 130
        assert list((tmp_path / "out").glob("*.partial"))
        made(faces, tmp_path / "out", "--overwrite")
        assert contents(tmp_path / "out") == contents(whole)


def test_killed_at_any_name_no_records_stand_beside_names_of_another_set(faces, tmp_path, monkeypatch):
    """Old records go before classes.txt is written anew, and new ones come behind it."""
    first = made(faces, tmp_path / "first")
    (faces / "zoe").rename(faces / "abe")
    other = made(faces, tmp_path / "other", "--shards", "2")
    replace, seen = os.replace, 0
    for stop_at in range(1, 20):
        out = tmp_path / f"out{stop_at}"
        out.mkdir()
        for name, data in contents(first).items():
            (out / name).write_bytes(data)
        calls = []

        def dies(source: object, target: object, calls: list = calls, stop_at: int = stop_at) -> None:
            if not str(target).endswith("progress.json"):
                calls.append(target)
            if len(calls) == stop_at and calls[-1] is target:
                raise SystemExit
            replace(source, target)

        monkeypatch.setattr(os, "replace", dies)
        monkeypatch.setattr("recognition.data.recordio.RecordWriter.discard", lambda self: None)
        try:
            make_records.main([str(faces), str(out), "--overwrite", "--shards", "2"])
            break
        except SystemExit:
            seen += 1
        finally:
            monkeypatch.setattr(os, "replace", replace)
        if list(out.glob("*.rec")):
            assert (out / "classes.txt").read_bytes() == (other / "classes.txt").read_bytes()
        made(faces, out, "--shards", "2")
        assert contents(out) == contents(other)
    assert seen == 6, "property, classes.txt, two records, two indexes"


def test_decoders_say_nothing_of_their_own(tmp_path):
    pixels = cv2.imdecode(np.frombuffer(jpeg(0), np.uint8), cv2.IMREAD_COLOR)
    png = cv2.imencode(".png", pixels)[1].tobytes()
    (tmp_path / "faces" / "a").mkdir(parents=True)
    (tmp_path / "faces" / "a" / "0.png").write_bytes(png[:300])
    (tmp_path / "faces" / "a" / "1.png").write_bytes(png[:60] + b"\xff" + png[61:])
    (tmp_path / "faces" / "a" / "2.jpg").write_bytes(jpeg(0)[:900])
    command = [sys.executable, "tools/make_records.py", str(tmp_path / "faces"), str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if line]
    assert done.returncode == 1 and len(lines) == 4, done.stderr
    assert all("not a picture, or a truncated one" in line for line in lines[:3])
