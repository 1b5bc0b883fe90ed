"""From pictures to records: order, bytes, resumption, and what is refused."""

import os
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from recognition.data.recordio import RecordReader
from recognition.data.records import Records
from tools import make_records

ROOT = Path(__file__).parents[2]


def picture(seed: int, height: int = 112, width: int = 112) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Three identities, nine JPEGs of 112 x 112."""
    folder = tmp_path / "faces"
    for identity, count in (("zoe", 4), ("ann", 2), ("bob smith", 3)):
        (folder / identity).mkdir(parents=True)
        for number in range(count):
            cv2.imwrite(str(folder / identity / f"{number}.jpg"), picture(len(identity) * 10 + number))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_per_identity_becomes_a_set_with_the_pictures_own_bytes(faces, tmp_path, capsys):
    out = tmp_path / "out"
    assert make_records.main([str(faces), str(out)]) == 0
    assert "9 images of 3 classes" in capsys.readouterr().out
    assert sorted(contents(out)) == ["classes.txt", "property", "train.idx", "train.rec"]
    assert (out / "property").read_text() == "3,112,112\n"
    assert (out / "classes.txt").read_text() == "0\tann\n1\tbob smith\n2\tzoe\n"
    records = Records(out)
    assert (len(records), records.num_classes) == (9, 3)
    assert records.key.tolist() == list(range(9)) == [records.header(i).id for i in range(9)]
    found = {(records.labels[i], records.read(i)) for i in range(9)}
    names = {"ann": 0, "bob smith": 1, "zoe": 2}
    assert found == {(names[path.parent.name], path.read_bytes()) for path in faces.rglob("*.jpg")}
    assert records.labels.tolist() != sorted(records.labels.tolist())  # shuffled


def test_seed_shards_and_workers(faces, tmp_path):
    def made(name: str, *options: str) -> Path:
        assert make_records.main([str(faces), str(tmp_path / name), *options]) == 0
        return tmp_path / name

    one = contents(made("one", "--seed", "3", "--workers", "1"))
    assert one == contents(made("again", "--seed", "3", "--workers", "4"))
    assert one["train.rec"] != contents(made("other", "--seed", "4"))["train.rec"]
    single, sharded = Records(made("single")), Records(made("sharded", "--shards", "4", "--name", "set"))
    assert [path.name for path in sharded.shards] == [f"set-{k:05d}-of-00004.rec" for k in range(4)]
    assert np.bincount(sharded.shard).tolist() == [2, 2, 2, 3]
    assert sharded.labels.tolist() == single.labels.tolist() and sharded.num_classes == 3
    assert [sharded.read(i) for i in range(9)] == [single.read(i) for i in range(9)]


def test_list_files_name_pictures_and_labels(faces, tmp_path):
    lines = ["ann/0.jpg\t30", "bob smith/1.jpg 7", "", "zoe/2.jpg 30", "zoe/0.jpg\t100"]
    (faces / "list.txt").write_text("\n".join(lines))
    assert make_records.main([str(faces / "list.txt"), str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "classes.txt").read_text() == "0\t7\n1\t30\n2\t100\n"
    records = Records(tmp_path / "out")
    found = {(records.labels[i], records.read(i)) for i in range(len(records))}
    wanted = {(1, "ann/0.jpg"), (0, "bob smith/1.jpg"), (1, "zoe/2.jpg"), (2, "zoe/0.jpg")}
    assert found == {(label, (faces / name).read_bytes()) for label, name in wanted}
    (tmp_path / "names.txt").write_text("ann/0.jpg Ann\nzoe/0.jpg 10\n")
    assert make_records.main([str(tmp_path / "names.txt"), str(tmp_path / "named"), "--root", str(faces)]) == 0
    assert (tmp_path / "named" / "classes.txt").read_text() == "0\t10\n1\tAnn\n"


def test_other_pictures_are_coded_anew_in_colour_at_the_size(tmp_path, capsys):
    (tmp_path / "faces" / "a").mkdir(parents=True)
    folder = tmp_path / "faces" / "a"
    cv2.imwrite(str(folder / "big.png"), picture(1, 224, 224))
    cv2.imwrite(str(folder / "grey.jpg"), cv2.cvtColor(picture(2), cv2.COLOR_BGR2GRAY))
    cv2.imwrite(str(folder / "small.jpg"), picture(3, 40, 40))
    cv2.imwrite(str(folder / "wide.jpg"), picture(4, 112, 200))
    (folder / "readme.txt").write_text("no picture")
    (tmp_path / "faces" / "nobody").mkdir()
    assert make_records.main([str(tmp_path / "faces"), str(tmp_path / "out"), "--quality", "98"]) == 0
    report = capsys.readouterr().out
    assert "1 pictures were not square" in report and "1 files are no pictures" in report
    assert "1 folders hold no pictures and got no class: nobody" in report
    records = Records(tmp_path / "out")
    stored = [cv2.imdecode(np.frombuffer(records.read(i), np.uint8), cv2.IMREAD_UNCHANGED) for i in range(4)]
    assert {image.shape for image in stored} == {(112, 112, 3)}
    wanted = cv2.resize(picture(1, 224, 224), (112, 112), interpolation=cv2.INTER_AREA)
    assert min(np.abs(image.astype(int) - wanted).mean() for image in stored) < 3


def test_bad_pictures_are_all_named_and_left_out_only_on_demand(faces, tmp_path, capsys):
    (faces / "ann" / "broken.jpg").write_bytes((faces / "ann" / "0.jpg").read_bytes()[:-60])
    (faces / "zoe" / "text.png").write_text("no picture")
    (faces / "zoe" / "empty.png").touch()
    out = tmp_path / "out"
    assert make_records.main([str(faces), str(out)]) == 1
    report = capsys.readouterr().err
    for name, reason in (
        ("ann/broken.jpg", "truncated"),
        ("zoe/text.png", "not a picture"),
        ("empty.png", "empty file"),
    ):
        assert any(name in line and reason in line for line in report.splitlines())
    assert "3 of 12 pictures cannot be used" in report
    assert not (out / "train.rec").exists() and not (out / "property").exists()
    assert make_records.main([str(faces), str(out), "--skip-bad"]) == 0
    assert "going on after 12 of 12" in capsys.readouterr().out
    assert len((out / "bad_images.txt").read_text().splitlines()) == 3
    records = Records(out)
    assert len(records) == 9 and records.key.tolist() == list(range(9))
    fresh = tmp_path / "fresh"
    assert make_records.main([str(faces), str(fresh), "--skip-bad"]) == 0
    assert contents(fresh) == contents(out)


def test_mended_pictures_are_read_again(faces, tmp_path):
    whole = (faces / "ann" / "0.jpg").read_bytes()
    (faces / "ann" / "0.jpg").write_bytes(whole[:100])
    assert make_records.main([str(faces), str(tmp_path / "out")]) == 1
    (faces / "ann" / "0.jpg").write_bytes(whole)
    assert make_records.main([str(faces), str(tmp_path / "out")]) == 0
    assert len(Records(tmp_path / "out")) == 9


@pytest.mark.parametrize("more", [[], ["--checksum"]])
@pytest.mark.parametrize("stop_after", [0, 1, 4, 5, 8])
def test_a_stopped_run_goes_on_to_the_same_bytes(faces, tmp_path, monkeypatch, stop_after, more):
    (faces / "zoe" / "text.png").write_text("no picture")
    options = ["--shards", "2", "--skip-bad", "--workers", "1", *more]
    assert make_records.main([str(faces), str(tmp_path / "whole"), *options]) == 0
    monkeypatch.setattr(make_records, "BATCH", 2)
    encode, calls = make_records.encode, []

    def stops(*arguments):
        calls.append(arguments)
        if len(calls) > stop_after:
            raise KeyboardInterrupt
        return encode(*arguments)

    command = [str(faces), str(tmp_path / "out"), *options]
    monkeypatch.setattr(make_records, "encode", stops)
    assert make_records.main(command) == 130
    assert not list((tmp_path / "out").glob("*.rec"))
    monkeypatch.setattr(make_records, "encode", encode)
    assert make_records.main(command) == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize(("more", "names"), [([], 4), (["--checksum"], 5), (["--checksum"], 6)])
def test_a_run_killed_while_naming_its_files_goes_on(faces, tmp_path, monkeypatch, more, names):
    command = [str(faces), str(tmp_path / "out"), "--shards", "3", *more]
    assert make_records.main([str(faces), str(tmp_path / "whole"), "--shards", "3", *more]) == 0
    replace, done = os.replace, []

    def dies(source, target):
        if str(target).endswith((".rec", ".idx", ".crc")):
            done.append(target)
            if len(done) == names:  # behind the second shard's .rec, or its .idx
                raise SystemExit
        replace(source, target)

    monkeypatch.setattr(os, "replace", dies)
    monkeypatch.setattr("recognition.data.recordio.RecordWriter.discard", lambda self: None)  # a kill cleans nothing
    with pytest.raises(SystemExit):
        make_records.main(command)
    monkeypatch.setattr(os, "replace", replace)
    assert make_records.main(command) == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_checksums_are_those_of_the_records(faces, tmp_path):
    for name, options in (("plain", []), ("with", ["--checksum", "--shards", "2"])):
        assert make_records.main([str(faces), str(tmp_path / name), *options]) == 0
    assert not list((tmp_path / "plain").glob("*.crc"))
    for shard in range(2):
        reader = RecordReader(tmp_path / "with" / f"train-{shard:05d}-of-00002")
        wanted = [zlib.crc32(reader.read_row(row, check=False)) for row in range(len(reader))]
        assert reader.checksums.tolist() == wanted and len(wanted) > 3
    assert make_records.main([str(faces), str(tmp_path / "with"), "--shards", "2", "--overwrite"]) == 0
    assert not list((tmp_path / "with").glob("*.crc")), "checksums of other files"


def test_a_shard_without_a_record_is_refused(faces, tmp_path, capsys):
    (faces / "ann" / "0.jpg").write_text("no picture")
    command = [str(faces), str(tmp_path / "out"), "--skip-bad", "--shards", "9"]
    assert make_records.main(command) == 2
    said = capsys.readouterr().err
    assert "of-00009.rec without a record: call again with --overwrite" in said and "fewer shards than 9" in said
    assert not list((tmp_path / "out").glob("*.rec"))
    assert make_records.main([*command[:3], "--overwrite", "--shards", "2"]) == 0
    assert len(Records(tmp_path / "out")) == 8


def test_a_killed_process_goes_on_to_the_same_bytes(tmp_path):
    faces = tmp_path / "faces"
    for number in range(1500):
        path = faces / f"{number % 50:02d}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), picture(number, 32, 32))
    options = [str(faces), "--workers", "1"]
    assert make_records.main([*options, str(tmp_path / "whole")]) == 0
    out = tmp_path / "out"
    command = [sys.executable, str(ROOT / "tools" / "make_records.py"), *options, str(out)]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)})
    while process.poll() is None and not (out / "train.progress.json").exists():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not (out / "train.rec").exists()
    assert make_records.main([*options, str(out)]) == 0
    assert contents(out) == contents(tmp_path / "whole")


def test_what_stands_in_the_way_is_refused_in_words(faces, tmp_path, monkeypatch, capsys):
    def refused(*arguments: object) -> str:
        assert make_records.main([str(argument) for argument in arguments]) == 2
        return capsys.readouterr().err

    out = tmp_path / "out"
    assert "neither a folder nor a file" in refused(tmp_path / "nothing", out)
    assert "--shards is 10, but there are only 9 pictures" in refused(faces, out, "--shards", 10)
    assert make_records.main([str(faces), str(out)]) == 0
    assert "train.rec is there already: give --overwrite" in refused(faces, out)
    assert make_records.main([str(faces), str(out), "--overwrite", "--seed", "1"]) == 0
    monkeypatch.setattr(make_records, "encode", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert make_records.main([str(faces), str(tmp_path / "b"), "--workers", "1"]) == 130
    (tmp_path / "list.txt").write_text("a.jpg 0\na b c\n\t\n")
    (tmp_path / "flat").mkdir()
    cv2.imwrite(str(tmp_path / "flat" / "0.jpg"), picture(0))
    assert "wanted" in refused(tmp_path / "flat", out)
    for text, what in (
        ("a.jpg 0\nb.jpg\n", "line 2: found 'b.jpg', wanted `picture TAB label`"),
        ("0\t1.5\ta.jpg", "line 1: found"),
        ("a.jpg -1", "label -1 is negative"),
        ("\n", "names no pictures"),
    ):
        (tmp_path / "list.txt").write_text(text)
        assert what in refused(tmp_path / "list.txt", out)
    with pytest.raises(SystemExit):
        make_records.main([str(faces), str(out), "--size", "4"])


def test_progress_of_another_call_is_not_mixed_in(faces, tmp_path, monkeypatch, capsys):
    command = [str(faces), str(tmp_path / "out"), "--workers", "1"]
    encode, calls = make_records.encode, []
    monkeypatch.setattr(make_records, "BATCH", 2)

    def stops(*arguments):
        calls.append(arguments)
        if len(calls) > 4:
            raise KeyboardInterrupt
        return encode(*arguments)

    monkeypatch.setattr(make_records, "encode", stops)
    assert make_records.main(command) == 130
    monkeypatch.setattr(make_records, "encode", encode)
    for change in (["--seed", "1"], ["--quality", "80"], ["--shards", "2"], ["--checksum"]):
        assert make_records.main([*command, *change]) == 2
        assert "belongs to other pictures or settings" in capsys.readouterr().err
    cv2.imwrite(str(faces / "zoe" / "new.jpg"), picture(77))
    assert make_records.main(command) == 2
    assert make_records.main([*command, "--overwrite"]) == 0
    assert len(Records(tmp_path / "out")) == 10
