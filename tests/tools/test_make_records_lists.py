"""Lists that contradict themselves or are of another form than they seem, and what is asked for beside a source."""

from __future__ import annotations

import pytest

from recognition.data.records import Records
from tests.tools.sources import faces, holds, made, pictures, refused
from tools import make_records

__all__ = ["faces", "pictures"]


def test_a_header_of_unknown_columns_becomes_no_person(faces, pictures, tmp_path, capsys):
    listed = faces / "list.csv"
    listed.write_text("photo,human\n" + "".join(f"{name},{i % 3 + 7}\n" for i, name in enumerate(pictures)))
    said = refused(capsys, listed, tmp_path / "out", code=1)
    assert "first line: photo" in said and "probably a header" in said and "1 of 10 pictures" in said
    out = made(listed, tmp_path / "out", "--skip-bad")
    assert (out / "classes.txt").read_text() == "0\t7\n1\t8\n2\t9\n" and len(Records(out)) == 9


def test_a_picture_with_two_labels_is_bad_and_one_named_twice_is_noted(faces, tmp_path, capsys):
    listed = faces / "list.txt"
    listed.write_text("ann/0.jpg\t0\nzoe/0.jpg\t1\nann/0.jpg\t1\nzoe/0.jpg\t1\nzoe/1.jpg\t0\n")
    said = refused(capsys, listed, tmp_path / "out", code=1)
    assert "ann/0.jpg: it has two labels, 0 and 1" in said and "1 of 4" in said
    assert len(Records(made(listed, tmp_path / "out", "--skip-bad"))) == 3
    assert f"1 lines of {listed} name a picture again" in capsys.readouterr().out
    listed.write_text("ann/0.jpg\t0\nann/0.jpg\t1\n")
    assert "it has two labels" in refused(capsys, listed, tmp_path / "out2")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ann/0.jpg 007\nzoe/0.jpg 7\n", "labels 007 and 7 are one number"),
        ("0 ann/0.jpg\n1 zoe/0.jpg\n", "first line: 'ann/0.jpg' stands where the label should, which comes last"),
        ("0,ann/0.jpg\n1,zoe/0.jpg\n", "which comes last"),
    ],
)
def test_labels_in_two_ways_and_in_front(faces, tmp_path, capsys, text, says):
    (faces / "list.txt").write_text(text)
    assert says in refused(capsys, faces / "list.txt", tmp_path / "out")


def test_lines_end_at_line_breaks_only(faces, tmp_path):
    listed = faces / "list.txt"
    listed.write_text("ann/0.jpg\ta\u2028b\r\nzoe/0.jpg\tc\x85d\nzoe/1.jpg\te\n", encoding="utf-8", newline="")
    out = made(listed, tmp_path / "out")
    assert (out / "classes.txt").read_text(encoding="utf-8").split("\n")[:3] == ["0\ta\u2028b", "1\tc\x85d", "2\te"]


def test_root_and_name_are_checked(faces, tmp_path, capsys):
    assert "--root is for lists" in refused(capsys, faces, tmp_path / "out", "--root", tmp_path)
    (faces / "list.txt").write_text("ann/0.jpg 0\n")
    said = refused(capsys, faces / "list.txt", tmp_path / "out", "--root", tmp_path / "gone")
    assert "gone is no folder" in said
    for name in ("../x", "a/b", "", ".x", "a\nb", "train-00000-of-00002"):
        with pytest.raises(SystemExit) as stopped:
            make_records.main([str(faces), str(tmp_path / "out"), "--name", name])
        assert stopped.value.code == 2 and "--name" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() and not (tmp_path / "x.rec").exists()
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "in"):
        assert f"{tmp_path / 'file'} is a file: wanted a folder" in refused(capsys, faces, out)


def test_classes_whose_pictures_are_all_bad_are_noted(faces, pictures, tmp_path, capsys):
    for path in (faces / "bob smith").iterdir():
        path.write_bytes(b"no picture")
    out = made(faces, tmp_path / "out", "--skip-bad")
    said = capsys.readouterr().out
    assert "1 classes have no picture left and keep their numbers: 1 (bob smith)" in said
    assert {label for label, _ in holds(out)} == {0, 2} and (out / "property").read_text() == "3,112,112\n"
