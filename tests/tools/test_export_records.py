"""From records to tars and folders and back: the same pictures, labels and order; the same tar bytes each time."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest

from recognition.data.recordio import Header, RecordReader, RecordWriter, pack
from recognition.data.records import Records
from tests.tools.sources import jpeg
from tools import export_records, make_records

ROOT = Path(__file__).parents[2]
LABELS = [2, 0, 1, 1, 2, 0, 0]


def write_set(prefix: Path, names: str = "", bad: int = -1) -> Path:
    """Seven pictures of three classes; record `bad` is no picture. Returns the folder."""
    with RecordWriter(prefix) as writer:
        for key, label in enumerate(LABELS):
            data = b"no picture" if key == bad else jpeg(key)
            writer.write(key * 3, pack(Header(0, float(label), key * 3, 0), data))
    if names:
        (prefix.parent / "classes.txt").write_text(names, encoding="utf-8")
    return prefix.parent


NAMED = "0\tann\n1\tbob/smith\n2\t..é\n"


def export(*arguments: object, code: int = 0) -> None:
    assert export_records.main([str(argument) for argument in arguments]) == code


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def in_order(path: Path) -> list[tuple[int, bytes]]:
    records = Records(path)
    return [(int(records.labels[i]), records.read(i)) for i in range(len(records))]


@pytest.mark.parametrize("options", [[], ["--shards", "3"], ["--per-shard", "2"]])
def test_there_and_back(tmp_path, options):
    source = write_set(tmp_path / "in" / "train", NAMED)
    export(source, tmp_path / "tars", *options)
    tars = sorted((tmp_path / "tars").glob("*.tar"))
    assert [path.name for path in tars] == [
        f"train-{k:06d}.tar" for k in range({0: 1, 3: 3, 2: 4}[int((options or "00")[-1])])
    ]
    assert make_records.main([str(tmp_path / "tars"), str(tmp_path / "back"), "--keep-order"]) == 0
    assert in_order(tmp_path / "back") == in_order(source)
    assert (tmp_path / "back" / "classes.txt").read_text() == NAMED
    assert (tmp_path / "tars" / "classes.txt").read_text() == NAMED
    export(source, tmp_path / "again", *options)
    assert content(tmp_path / "again") == content(tmp_path / "tars")


def test_tars_as_tarfile_and_webdataset_read_them(tmp_path):
    source = write_set(tmp_path / "in" / "train", NAMED)
    export(source, tmp_path / "tars", "--shards", 2)
    with tarfile.open(tmp_path / "tars" / "train-000001.tar") as tar:
        entries = tar.getmembers()
        assert [entry.name for entry in entries][:3] == ["000000003.jpg", "000000003.cls", "000000003.json"]
        assert {(entry.mtime, entry.uid, entry.uname, entry.mode) for entry in entries} == {(0, 0, "", 0o644)}
        told = json.load(tar.extractfile("000000003.json"))
    assert told == {"label": 1, "identity": "bob/smith", "file": "train.rec", "key": 9}
    webdataset = pytest.importorskip("webdataset")
    files = [str(path) for path in sorted((tmp_path / "tars").glob("*.tar"))]
    read = webdataset.WebDataset(files, shardshuffle=False).to_tuple("jpg", "cls", "json")
    found = [(int(label), data, json.loads(about)["identity"]) for data, label, about in read]
    names = dict(line.split("\t") for line in NAMED.splitlines())
    assert found == [(label, data, names[str(label)]) for label, data in in_order(source)]


def test_headers_and_identities_of_insightface_stay_out(tmp_path):
    with RecordWriter(tmp_path / "in" / "train") as writer:
        writer.write(0, pack(Header(2, [4.0, 6.0], 0, 0), b""))
        for key, label in ((1, 0), (2, 0), (3, 1)):
            writer.write(key, pack(Header(0, float(label), key, 0), jpeg(key)))
        writer.write(4, pack(Header(2, [1.0, 3.0], 4, 0), b""))
        writer.write(5, pack(Header(2, [3.0, 4.0], 5, 0), b""))
    export(tmp_path / "in", tmp_path / "tars")
    with tarfile.open(tmp_path / "tars" / "train-000000.tar") as tar:
        assert len(tar.getnames()) == 9 and "identity" not in json.load(tar.extractfile("000000000.json"))
    export(tmp_path / "in", tmp_path / "faces", "--to", "folder")
    assert [*content(tmp_path / "faces")] == ["0/000000000.jpg", "0/000000001.jpg", "1/000000002.jpg"]


def test_folders(tmp_path, capsys):
    source = write_set(tmp_path / "in" / "train", NAMED)
    export(source, tmp_path / "faces", "--to", "folder")
    assert sorted({path.split("/")[0] for path in content(tmp_path / "faces")}) == [
        "%2E.é",
        "ann",
        "bob%2Fsmith",
        "classes.txt",
    ]
    assert make_records.main([str(tmp_path / "faces"), str(tmp_path / "back")]) == 0
    assert sorted(data for _, data in in_order(tmp_path / "back")) == sorted(data for _, data in in_order(source))
    assert not list(tmp_path.glob("faces.*"))
    capsys.readouterr()
    export(source, tmp_path / "faces", "--to", "folder", code=2)
    assert "faces is there already: give --overwrite" in capsys.readouterr().err
    before = content(tmp_path / "faces")
    (tmp_path / "faces" / "ann" / "more.jpg").write_bytes(b"somebody's own")
    export(source, tmp_path / "faces", "--to", "folder", "--overwrite", code=2)
    assert "faces holds ann/more.jpg, which no export wrote" in capsys.readouterr().err
    (tmp_path / "faces" / "ann" / "more.jpg").rename(tmp_path / "faces" / "ann" / "000000099.jpg")
    export(source, tmp_path / "faces", "--to", "folder", "--overwrite")
    assert content(tmp_path / "faces") == before and not list(tmp_path.glob("faces.*"))
    (source / "classes.txt").write_text("0\ta\n1\tb\n2\ta\n")
    export(source, tmp_path / "other", "--to", "folder", code=2)
    assert "classes 0 and 2 are both called 'a'" in capsys.readouterr().err


def test_landmarks_and_scores_travel(tmp_path, capsys):
    from recognition.data.landmarks import write_landmarks
    from recognition.data.scores import ScorerIdentity, ShardScores

    source = write_set(tmp_path / "in" / "train")
    keys, points = np.arange(7) * 3, np.random.default_rng(0).uniform(0, 112, (7, 5, 2)).astype(np.float32)
    write_landmarks(source / "train", keys, points)
    values = np.array([0.1, np.nan, 3, 4, 5, 6, 7], np.float32)
    ShardScores(source / "train.rec", ScorerIdentity("brisque", "{}", 1, "0")).write(keys, values)
    (source / "train.scores.bad-0.safetensors").write_bytes(b"no scores")
    export(source, tmp_path / "tars")
    assert "bad-0.safetensors left out" in capsys.readouterr().out
    with tarfile.open(tmp_path / "tars" / "train-000000.tar") as tar:
        told = [json.load(tar.extractfile(f"{i:09d}.json")) for i in range(7)]
    assert np.array_equal(np.array([one["landmarks"] for one in told], np.float32), points)
    assert [one["scores"]["brisque"] for one in told][:3] == [0.1, None, 3.0]
    write_set(tmp_path / "in" / "train", bad=1)  # other records: what lies beside them is no longer theirs
    export(source, tmp_path / "tars", "--overwrite", "--skip-bad")
    said = capsys.readouterr().out
    assert "landmarks left out" in said and "scores of brisque left out" in said


@pytest.mark.parametrize("to", ["webdataset", "folder"])
@pytest.mark.parametrize("stop_after", [0, 1, 3, 6])
def test_a_stopped_run_goes_on_to_the_same_bytes(tmp_path, monkeypatch, capsys, to, stop_after):
    source = write_set(tmp_path / "in" / "train", NAMED, bad=2)
    options = ["--to", to, "--skip-bad", *(["--shards", "2"] if to == "webdataset" else [])]
    export(source, tmp_path / "whole", *options)
    monkeypatch.setattr(export_records, "BATCH", 2)
    name = "sample" if to == "webdataset" else "picture"
    real, calls = getattr(export_records, name), []

    def stops(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) > stop_after:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(export_records, name, stops)
    export(source, tmp_path / "out", *options, code=130)
    assert "call again in the same way" in capsys.readouterr().err
    assert not list(tmp_path.glob("out/*.tar")) and not (to == "folder" and (tmp_path / "out").exists())
    monkeypatch.setattr(export_records, name, real)
    export(source, tmp_path / "out", *options)
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert not list(tmp_path.glob("out.*"))


def finished_and_killed(folders: export_records.Folders, finish=export_records.Folders.finish) -> None:
    finish(folders)
    raise SystemExit


@pytest.mark.parametrize("names", [1, 2])
def test_a_folder_killed_while_it_is_named_goes_on(tmp_path, monkeypatch, names):
    source = write_set(tmp_path / "in" / "train", NAMED)
    export(source, tmp_path / "whole", "--to", "folder")
    (tmp_path / "out" / "old").mkdir(parents=True)
    (tmp_path / "out" / "old" / "000000000.jpg").write_bytes(b"of an earlier set")
    replace, done = os.replace, []

    def dies(here: object, there: object) -> None:
        if not str(there).endswith((".json", ".txt")):
            done.append(there)
            if len(done) == names:
                raise SystemExit
        replace(here, there)

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(SystemExit):
        export(source, tmp_path / "out", "--to", "folder", "--overwrite")
    monkeypatch.setattr(os, "replace", replace)
    if names == 2:  # and once more behind the names, before the progress is gone
        progress = tmp_path / "out.progress.json"
        monkeypatch.setattr(export_records.Folders, "finish", finished_and_killed)
        with pytest.raises(SystemExit):
            export(source, tmp_path / "out", "--to", "folder")
        monkeypatch.undo()
        assert progress.is_file() and (tmp_path / "out").is_dir()
    export(source, tmp_path / "out", "--to", "folder")
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert not list(tmp_path.glob("out.*"))


@pytest.mark.parametrize("names", [1, 2, 3])
def test_a_run_killed_while_naming_its_files_goes_on(tmp_path, monkeypatch, names):
    source = write_set(tmp_path / "in" / "train")
    export(source, tmp_path / "whole", "--shards", 3)
    replace, done = os.replace, []

    def dies(here: object, there: object) -> None:
        if str(there).endswith(".tar"):
            done.append(there)
            if len(done) == names:
                raise SystemExit
        replace(here, there)

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(SystemExit):
        export(source, tmp_path / "out", "--shards", 3)
    monkeypatch.setattr(os, "replace", replace)
    export(source, tmp_path / "out", "--shards", 3)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_killed_process_goes_on_to_the_same_bytes(tmp_path):
    data = jpeg(0)
    with RecordWriter(tmp_path / "in" / "train") as writer:
        for key in range(6_000):
            writer.write(key, pack(Header(0, float(key % 5), key, 0), data))
    export(tmp_path / "in", tmp_path / "whole", "--shards", 2)
    out = tmp_path / "out"
    command = [
        sys.executable,
        str(ROOT / "tools" / "export_records.py"),
        str(tmp_path / "in"),
        str(out),
        "--shards",
        "2",
    ]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)})
    while process.poll() is None and not (out / "train.progress.json").exists():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not list(out.glob("*.tar"))
    export(tmp_path / "in", out, "--shards", 2)
    assert content(out) == content(tmp_path / "whole")


def test_bad_records_are_named_and_left_out_only_on_demand(tmp_path, capsys):
    source = write_set(tmp_path / "in" / "train", bad=4)
    export(source, tmp_path / "out", code=1)
    said = capsys.readouterr().err
    assert "key 12" in said and "no JPEG, PNG, WebP or BMP" in said and "1 of 7 pictures cannot be used" in said
    assert not list((tmp_path / "out").glob("*.tar"))
    export(source, tmp_path / "out", "--skip-bad")
    assert make_records.main([str(tmp_path / "out"), str(tmp_path / "back"), "--keep-order"]) == 0
    assert in_order(tmp_path / "back") == [one for one in in_order(source) if one[1] != b"no picture"]
    whole = bytearray((source / "train.rec").read_bytes())
    whole[RecordReader(source / "train").offsets[1]] ^= 1
    (source / "train.rec").write_bytes(whole)
    export(source, tmp_path / "other", code=2)
    assert "key 3" in capsys.readouterr().err
    export(source, tmp_path / "other", "--skip-bad")
    assert "2 bad records left out" in capsys.readouterr().out


def test_what_stands_in_the_way_is_refused_in_words(tmp_path, capsys):
    source = write_set(tmp_path / "in" / "train")

    def refused(*arguments: object) -> str:
        export(*arguments, code=2)
        return capsys.readouterr().err

    assert "there is no" in refused(tmp_path / "nothing", tmp_path / "out")
    assert "--shards is 8, but there are only 7" in refused(source, tmp_path / "out", "--shards", 8)
    assert "are for tars" in refused(source, tmp_path / "out", "--to", "folder", "--shards", 2)
    export(source, tmp_path / "out", "--shards", 3)
    assert "train-000000.tar is there already" in refused(source, tmp_path / "out")
    export(source, tmp_path / "out", "--overwrite", "--shards", 2)
    assert len([*(tmp_path / "out").glob("*.tar")]) == 2, "tars of the earlier set"
    for text, says in (
        ("0\ta\n", "names 1 classes, but not class 1"),
        ("0\ta\n0\tb\n", "line 2: found '0\\tb'"),
        ("x", "line 1"),
        ("\xff", "no text in UTF-8"),
    ):
        (source / "classes.txt").write_bytes(text.encode("latin1"))
        assert says in refused(source, tmp_path / "named")
    with pytest.raises(SystemExit):
        export(source, tmp_path / "out", "--shards", 1, "--per-shard", 1)
    for wrong in (["--name", "../x"], ["--name", ""], ["--shards", 0], ["--per-shard", 0]):
        with pytest.raises(SystemExit):
            export(source, tmp_path / "out", *wrong)
    (source / "classes.txt").unlink()
    (tmp_path / "file").touch()
    for to in ("webdataset", "folder"):
        assert "file is a file: wanted a folder" in refused(source, tmp_path / "file", "--to", to)


def test_pictures_of_other_kinds_keep_their_ending(tmp_path):
    import cv2

    pixels = cv2.imdecode(np.frombuffer(jpeg(1), np.uint8), cv2.IMREAD_COLOR)
    with RecordWriter(tmp_path / "in" / "x") as writer:
        for key, ending in enumerate((".png", ".webp", ".bmp")):
            writer.write(key, pack(Header(0, 0.0, key, 0), cv2.imencode(ending, pixels)[1].tobytes()))
    export(tmp_path / "in", tmp_path / "tars", "--name", "faces")
    with tarfile.open(tmp_path / "tars" / "faces-000000.tar") as tar:
        assert [name for name in tar.getnames() if name.endswith(("png", "webp", "bmp"))] == [
            "000000000.png",
            "000000001.webp",
            "000000002.bmp",
        ]
        assert io.BytesIO(tar.extractfile("000000000.png").read()).read(4) == b"\x89PNG"
