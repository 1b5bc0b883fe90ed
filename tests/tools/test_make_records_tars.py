"""Tars as people pack them: links, a dot in front of names, compressed as a whole, names and captions in .json."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from recognition.data.records import Records
from recognition.data.tar_format import members, tar_end, tar_member
from tests.tools.sources import as_samples, faces, holds, made, pictures, refused, wanted, write_tars

__all__ = ["faces", "pictures"]


def linked(path: Path, entries: list[tuple[str, bytes | str, bytes]]) -> Path:
    """A tar of files (name, bytes, b"0") and links (name, target, b"1" hard or b"2" symbolic)."""
    with tarfile.open(path, "w") as tar:
        for name, content, kind in entries:
            entry = tarfile.TarInfo(name)
            entry.type = kind
            if isinstance(content, str):
                entry.linkname = content
                tar.addfile(entry)
            else:
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return path


def test_hard_links_are_pictures_of_their_own(tmp_path, pictures):
    first, second = list(pictures.values())[:2]
    for person, data in (("ann", first), ("zoe", second)):
        (tmp_path / "big" / person).mkdir(parents=True)
        (tmp_path / "big" / person / "0000.jpg").write_bytes(data)
        for number in range(1, 40):
            os.link(tmp_path / "big" / person / "0000.jpg", tmp_path / "big" / person / f"{number:04d}.jpg")
    subprocess.run(["tar", "cf", "big.tar", "-C", "big", "."], cwd=tmp_path, check=True)
    out = made(tmp_path / "big.tar", tmp_path / "out")
    assert (out / "classes.txt").read_text() == "0\tann\n1\tzoe\n", "without the ./ of `tar -C big .`"
    records = Records(out)
    assert len(records) == 80 and holds(out) == {(0, first), (1, second)}
    assert sum(records.labels) == 40


def test_a_symbolic_link_is_named_and_what_follows_is_read(tmp_path, pictures, capsys):
    data = list(pictures.values())
    entries = [(f"{i}{end}", content, b"0") for i in range(6) for end, content in ((".jpg", data[i]), (".cls", b"1"))]
    entries[4] = ("2.jpg", "/etc/passwd", tarfile.SYMTYPE)
    entries[6] = ("3.jpg", "gone.jpg", tarfile.LNKTYPE)
    entries[8] = ("4.jpg", "./0.jpg", tarfile.LNKTYPE)
    entries.insert(2, ("readme", "elsewhere", tarfile.SYMTYPE))
    tar = linked(tmp_path / "x.tar", entries)
    said = refused(capsys, tar, tmp_path / "out", code=1)
    assert f"{tar}: 2: 2.jpg is a symbolic link to /etc/passwd" in said and "--dereference" in said
    assert f"{tar}: 3: 3.jpg is a hard link to gone.jpg, which does not stand before it" in said
    assert "2 of 6 pictures cannot be used" in said
    ordered = Records(made(tar, tmp_path / "out", "--skip-bad", "--keep-order"))
    assert [ordered.read(i) for i in range(4)] == [data[0], data[1], data[0], data[5]]


def test_a_file_with_holes_is_named(tmp_path, capsys, pictures):
    data = next(iter(pictures.values()))
    with open(tmp_path / "a.jpg", "wb") as file:
        file.truncate(1 << 20)
        file.write(data)
    (tmp_path / "b.jpg").write_bytes(data)
    for name in "ab":
        (tmp_path / f"{name}.cls").write_text("1")
    command = ["tar", "cSf", "x.tar", "--format=gnu", "a.jpg", "a.cls", "b.jpg", "b.cls"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert "a.jpg is a file with holes" in refused(capsys, tmp_path / "x.tar", tmp_path / "out", code=1)
    assert holds(made(tmp_path / "x.tar", tmp_path / "out", "--skip-bad")) == {(0, data)}


def test_tars_that_are_compressed_and_tars_that_seem_so(tmp_path, pictures, capsys):
    (tar,) = write_tars(tmp_path / "tars", as_samples(pictures, "cls"))
    (tmp_path / "packed.tar").write_bytes(gzip.compress(tar.read_bytes()))
    said = refused(capsys, tmp_path / "packed.tar", tmp_path / "out")
    assert "compressed as a whole" in said and "gunzip < packed.tar > new.tar" in said
    first = next(iter(pictures.values()))
    data = tar_member("BZh9.jpg", first) + tar_member("BZh9.cls", b"1")
    (tmp_path / "faces").write_bytes(data + tar_end(len(data)))
    assert holds(made(tmp_path / "faces", tmp_path / "out")) == {(0, first)}


@pytest.mark.parametrize("same", [True, False])
def test_name_names_a_class_only_where_it_is_one_for_each_label(tmp_path, pictures, capsys, same):
    samples = []
    for i, data in enumerate(pictures.values()):
        name = f"person {i % 2}" if same else f"img_{i}.jpg"
        samples.append([(f"{i}.jpg", data), (f"{i}.json", json.dumps({"name": name, "label": i % 2}).encode())])
    out = made(*write_tars(tmp_path / "tars", samples), tmp_path / "out")
    assert (out / "classes.txt").read_text() == ("0\tperson 0\n1\tperson 1\n" if same else "0\t0\n1\t1\n")
    assert ("`name` in the .json is no name of a class: img_0.jpg and img_2.jpg" in capsys.readouterr().out) != same


def test_captions_taken_for_labels_are_noted(tmp_path, pictures, capsys):
    samples = [[(f"{i}.jpg", data), (f"{i}.txt", b"face %d" % i)] for i, data in enumerate(pictures.values())]
    made(*write_tars(tmp_path / "tars", samples), tmp_path / "out")
    assert "9 classes for 9 pictures: nearly every picture is a class of its own" in capsys.readouterr().out
    samples = as_samples(pictures, "txt")
    assert holds(made(*write_tars(tmp_path / "sound", samples), tmp_path / "sound_out")) == wanted(pictures)
    assert "of its own" not in capsys.readouterr().out


def test_names_that_no_line_can_hold_are_refused_before_the_work(faces, tmp_path, capsys):
    (faces / "ann").rename(faces / "an\tn")
    said = refused(capsys, faces, tmp_path / "out")
    assert r"the class 'an\tn'" in said and "0.jpg" in said and "Rename it" in said
    (faces / "an\tn").rename(faces / "an\nn")
    assert r"'an\nn'" in refused(capsys, faces, tmp_path / "out")
    os.rename(os.fsencode(faces / "an\nn"), os.fsencode(faces) + b"/m\xfcller")
    said = refused(capsys, faces, tmp_path / "out")
    assert r"m\udcfcller" in said and "must be UTF-8" in said and not (tmp_path / "out").exists()
    (tar,) = write_tars(tmp_path / "tars", [[("a\nb/1.jpg", b"")], [("c/1.jpg", b"")]])
    assert r"'a\nb'" in refused(capsys, tar, tmp_path / "out")
    assert [member.name for member in members(tar)] == ["a\nb/1.jpg", "c/1.jpg"]
