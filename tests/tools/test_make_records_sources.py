"""Records from whatever pictures lie in: lists of every form, folders, tars; one code path, the same guarantees."""

from __future__ import annotations

import tarfile

import pytest

from recognition.data.records import Records
from recognition.data.tar_format import tar_end, tar_member
from tests.tools.sources import (
    NUMBERS,
    as_samples,
    faces,
    holds,
    jpeg,
    made,
    pictures,
    refused,
    stopped,
    wanted,
    write_lmdb,
    write_tars,
)
from tools import make_records

__all__ = ["faces", "pictures"]

# lists

FORMS = {
    "im2rec": lambda i, name, label: f"{i}\t{label}.000000\t{name}",
    "insightface": lambda i, name, label: f"1\t{name}\t{label}",
    "tab": lambda i, name, label: f"{name}\t{label}",
    "blank": lambda i, name, label: f"{name} {label}",
    "comma": lambda i, name, label: f"{name},{label}",
    "comma and blank": lambda i, name, label: f"{name}, {label}",
    "csv": lambda i, name, label: f'{i},"{name}",{label}' if i else f"id,Path,identity\n{i},{name},{label}",
    "semicolon": lambda i, name, label: f"{label};{name}" if i else f"label;file\n{label};{name}",
}


@pytest.mark.parametrize("form", FORMS)
def test_lists_of_every_form(faces, pictures, tmp_path, form):
    lines = [FORMS[form](i, name, NUMBERS[name.split("/")[0]]) for i, name in enumerate(pictures)]
    listed = faces / "list.txt"
    listed.write_text("\ufeff" + "\r\n".join(lines) + "\r\n", encoding="utf-8")
    out = made(listed, tmp_path / "out")
    assert holds(out) == wanted(pictures)
    ordered = Records(made(listed, tmp_path / "ordered", "--keep-order", "--shards", 2))
    assert [ordered.read(i) for i in range(9)] == list(pictures.values())


def test_labels_may_be_names(faces, pictures, tmp_path):
    lines = ["path,identity", *(f"{name},{name.split('/')[0].upper()}" for name in pictures)]
    (faces / "list.csv").write_text("\n".join(lines))
    out = made(faces / "list.csv", tmp_path / "out")
    assert holds(out) == wanted(pictures)
    assert (out / "classes.txt").read_text() == "0\tANN\n1\tBOB SMITH\n2\tZOE\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0\t1\ta.jpg\n1\tx\tb.jpg", "line 2: found '1\\tx\\tb.jpg', wanted `number TAB label TAB picture`"),
        ("0\t1\ta.jpg\n\n1\t2.5\tb.jpg", "line 3"),
        ("0\t1\ta.jpg\nb.jpg 1", "line 2"),
        ("1\ta.jpg\t0\n0\tb.jpg\t0", "line 2: found '0\\tb.jpg\\t0', a picture that is not aligned yet"),
        ("1\ta.jpg\t0\n1\tb.jpg", "line 2"),
        ("path,label\na.jpg,1\nb.jpg", "line 3: found 'b.jpg', wanted 2 fields"),
        ("path,label\na.jpg,", "line 2"),
        ("path,label\na.jpg,-3", "label -3 is negative"),
        ('path,label\n"a.jpg,1\nb.jpg,2', "no CSV"),
        ("path,label", "names no pictures"),
        ("a.jpg\t1\tb\tc", "line 1"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, capsys, text, says):
    (tmp_path / "list.txt").write_text(text)
    assert says in refused(capsys, tmp_path / "list.txt", tmp_path / "out")
    assert str(tmp_path / "list.txt") in refused(capsys, tmp_path / "list.txt", tmp_path / "out")


def test_csv_without_known_columns_and_files_that_are_no_lists(tmp_path, capsys):
    (tmp_path / "list.csv").write_text("a,b,c\n1,2,3\n")
    assert "names no such columns; wanted" in refused(capsys, tmp_path / "list.csv", tmp_path / "out")
    (tmp_path / "x.jpg").write_bytes(jpeg(0))
    assert "no text in UTF-8" in refused(capsys, tmp_path / "x.jpg", tmp_path / "out")
    for name, says in (("x.tar.gz", "unpack it"), ("x.rec", "a record file already"), ("x.tfrecord", "TFRecord")):
        (tmp_path / name).write_bytes(b"\x1f\x8b" * 20)
        assert says in refused(capsys, tmp_path / name, tmp_path / "out")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.rec").touch()
    assert "holds record files already" in refused(capsys, tmp_path / "set", tmp_path / "out")


# folders


def test_parts_of_a_set_are_not_taken_for_identities(faces, tmp_path, capsys):
    whole = tmp_path / "whole"
    (whole).mkdir()
    faces.rename(whole / "Train")
    assert "Train holds folders of pictures: it is a part of a set" in refused(capsys, whole, tmp_path / "out")
    (whole / "Train").rename(whole / "faces")
    assert "holds one folder only" in refused(capsys, whole, tmp_path / "out")
    made(whole / "faces", tmp_path / "out")


def test_endings_in_any_case_and_what_macos_leaves(faces, pictures, tmp_path, capsys):
    for path in [*faces.rglob("*.jpg")][::2]:
        path.rename(path.with_suffix(".JPEG"))
    (faces / "zoe" / "._0.jpg").write_bytes(b"remarks")
    assert holds(made(faces, tmp_path / "out")) == wanted(pictures)
    assert "1 files are no pictures" in capsys.readouterr().out


# tars


@pytest.mark.parametrize("way", ["cls", "json", "txt", "named", "folder", "long"])
def test_tars_of_every_form(pictures, tmp_path, way):
    files = write_tars(tmp_path / "tars", as_samples(pictures, way), 2)
    out = made(tmp_path / "tars", tmp_path / "out", "--shards", 2)
    assert holds(out) == wanted(pictures)
    if way != "long" and way != "cls":
        assert (out / "classes.txt").read_text() == "0\tann\n1\tbob smith\n2\tzoe\n"
    pattern = tmp_path / "tars" / "faces-{000000..000001}.tar"
    ordered = Records(made(pattern, tmp_path / "ordered", "--keep-order"))
    assert [ordered.read(i) for i in range(9)] == list(pictures.values())
    assert {data for _, data in holds(made(files[0], tmp_path / "half"))} == set([*pictures.values()][:4])


def test_what_is_wrong_with_a_sample_is_named(pictures, tmp_path, capsys):
    samples = as_samples(pictures, "cls")
    samples[1] = samples[1][:1]
    samples[3] = samples[3][1:]
    samples[4].append(("00004.png", b"x"))
    samples[5] = [samples[5][0], ("00005.cls", b"\xff\xfe")]
    samples[6].append(("00006.cls", b"7"))
    samples[7] = [samples[7][0], ("00007.json", b"[1]")]
    samples[8][0] = ("00008.jpg", b"no picture")
    (file,) = write_tars(tmp_path / "tars", samples)
    said = refused(capsys, file, tmp_path / "out", code=1)
    for line in (
        f"{file}: 00001.jpg: a picture without a label",
        f"{file}: 00003: a label without a picture (00003.cls)",
        f"{file}: 00004: several pictures of one base name (00004.jpg, 00004.png)",
        f"{file}: 00005: 00005.cls holds no label",
        f"{file}: 00006: two members .cls of one base name",
        f"{file}: 00007: 00007.json is no JSON object",
        "6 of 9 pictures cannot be used",
    ):
        assert line in said
    out = made(file, tmp_path / "out", "--skip-bad")
    assert len(Records(out)) == 2
    assert len((out / "bad_images.txt").read_text().splitlines()) == 7


@pytest.mark.parametrize("cut", ["within", "header", "behind", "flipped", "empty", "packed"])
def test_a_tar_cut_short_is_named_and_its_whole_samples_can_be_kept(pictures, tmp_path, capsys, cut):
    whole, last = write_tars(tmp_path / "tars", as_samples(pictures, "cls"), 2)
    data = last.read_bytes()
    with tarfile.open(last) as tar:
        at = tar.getmember("00006.jpg").offset
    last.write_bytes(
        {
            "within": data[: at + 1000],
            "header": data[: at + 100],
            "behind": data[:at],
            "flipped": data[: at + 5] + b"\xff" + data[at + 6 :],
            "empty": b"",
            "packed": b"\x1f\x8b" + data[2:],
        }[cut]
    )
    said = refused(capsys, tmp_path / "tars", tmp_path / "out", code=1)
    assert str(last) in said and "1 of" in said and ("cut short" in said or "damaged" in said)
    assert len(Records(made(tmp_path / "tars", tmp_path / "out", "--skip-bad"))) == (
        4 if cut in ("empty", "packed") else 6
    )
    assert len(Records(made(whole, tmp_path / "first"))) == 4


def test_tars_that_are_not_there_and_sets_without_pictures(tmp_path, capsys, pictures):
    files = write_tars(tmp_path / "tars", as_samples(pictures, "cls"), 3)
    pattern = str(tmp_path / "tars" / "faces-{000000..000002}.tar")
    files[1].unlink()
    assert f"{files[1]} is not there, 1 of 3" in refused(capsys, pattern, tmp_path / "out")
    assert "wanted one {first..last}" in refused(capsys, tmp_path / "{0..1}-{0..1}.tar", tmp_path / "out")
    assert "wanted one {first..last}" in refused(capsys, tmp_path / "{3..1}.tar", tmp_path / "out")
    (tmp_path / "none.tar").write_bytes(tar_member("readme", b"x") + tar_end(1024))
    assert "holds no picture with a label; wanted members" in refused(capsys, tmp_path / "none.tar", tmp_path / "out")
    two = tar_member("a.jpg", b"") + tar_member("a.json", b'{"label": 1, "identity": "x"}')
    two += tar_member("b.jpg", b"") + tar_member("b.json", b'{"label": 1, "identity": "y"}')
    (tmp_path / "two.tar").write_bytes(two + tar_end(len(two)))
    assert "label 1 is called x and y" in refused(capsys, tmp_path / "two.tar", tmp_path / "out")
    assert "--root is for lists" in refused(capsys, files[0], tmp_path / "out", "--root", tmp_path)


def test_tars_that_webdataset_wrote(pictures, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    (tmp_path / "tars").mkdir()
    with webdataset.ShardWriter(str(tmp_path / "tars" / "x-%06d.tar"), maxcount=4, verbose=0) as writer:
        for i, (name, data) in enumerate(pictures.items()):
            writer.write({"__key__": f"{i:06d}", "jpg": data, "cls": NUMBERS[name.split("/")[0]]})
    ordered = Records(made(tmp_path / "tars" / "x-{000000..000002}.tar", tmp_path / "out", "--keep-order"))
    assert [ordered.read(i) for i in range(9)] == list(pictures.values())
    assert holds(tmp_path / "out") == wanted(pictures)


def test_members_never_reach_the_disk(pictures, tmp_path):
    samples = [[(f"../../{n}.jpg", d), (f"../../{n}.cls", b"1")] for n, d in enumerate(pictures.values())]
    (file,) = write_tars(tmp_path / "a" / "b", samples)
    before = sorted(tmp_path.rglob("*"))
    made(file, tmp_path / "a" / "b" / "out")
    assert [p for p in sorted(tmp_path.rglob("*")) if "out" not in p.parts] == before


# the same guarantees for all


@pytest.mark.parametrize("kind", ["tars", "lmdb"])
def test_a_stopped_run_goes_on_to_the_same_bytes(pictures, tmp_path, monkeypatch, capsys, kind):
    samples = as_samples(pictures, "cls")
    samples[2] = samples[2][:1]
    samples[3][0] = ("00003.jpg", b"no picture")
    if kind == "tars":
        write_tars(tmp_path / "source", samples, 2)
    else:
        write_lmdb(tmp_path / "source", [(name.encode(), data) for name, data in pictures.items()], subdir=True)
    options = ["--shards", "2", "--skip-bad", "--workers", "1", "--checksum"]
    whole = made(tmp_path / "source", tmp_path / "whole", *options)
    monkeypatch.setattr(make_records, "BATCH", 2)
    command = [str(tmp_path / "source"), str(tmp_path / "out"), *options]
    with stopped():
        assert make_records.main(command) == 130
    assert not list((tmp_path / "out").glob("*.rec"))
    made(*command)
    assert "going on after 4 of" in capsys.readouterr().out
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == {
        p.name: p.read_bytes() for p in whole.iterdir()
    }


def test_a_damaged_progress_is_refused_in_words(faces, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    for text in ("{", "[]", '{"plan": 1}', "null"):
        (tmp_path / "out" / "train.progress.json").write_text(text)
        assert "is no progress of an earlier run" in refused(capsys, faces, tmp_path / "out")
    made(faces, tmp_path / "out", "--overwrite")
