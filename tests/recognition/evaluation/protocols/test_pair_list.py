"""Lists of pairs: LFW's lines, lines of paths, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recognition.data.named import NamedImages
from recognition.evaluation.protocols._pair_list import mixed, read_pair_list, resolve
from tests.recognition.evaluation.protocols.seeing import lfw_lines, write_folder


@pytest.fixture
def written(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "pairs.txt"
        path.write_text(text)
        return path

    return write


def test_lfw_s_form(written) -> None:
    found = read_pair_list(
        written("2\t2\nAnn\t1\t4\nBob\t2\t3\nAnn\t1\tBob\t12\nCid\t1\tAnn\t2\nD 1 2\nE 1 2\nD\t1\tE\t1\nE\t2\tD\t2\n")
    )
    assert found.first[:3] == ["Ann/Ann_0001", "Bob/Bob_0002", "Ann/Ann_0001"]
    assert found.second[:4] == ["Ann/Ann_0004", "Bob/Bob_0003", "Bob/Bob_0012", "Ann/Ann_0002"]
    assert found.same.tolist() == [True, True, False, False] * 2
    assert found.fold.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert found.counts == {"genuine pairs": (4, 4), "impostor pairs": (4, 4)}


def test_blanks_divide_where_the_first_line_has_no_tab(written) -> None:
    found = read_pair_list(written("1 1\n\nAnn  1   2\nAnn 1  Bob 2\n"), pattern="{name}_{number}")
    assert (found.first, found.second) == (["Ann_1", "Ann_1"], ["Ann_2", "Bob_2"])


def test_a_list_of_one_block_leaves_its_folds_open(written) -> None:
    found = read_pair_list(written("2\nA\t1\t2\nB\t1\t2\nA\t1\tB\t1\nA\t2\tB\t2\n"))
    assert found.fold is None and found.counts == {"genuine pairs": (2, 2), "impostor pairs": (2, 2)}


def test_names_without_a_first_line_are_cut_in_contiguous_folds(written) -> None:
    text = "\n".join(lfw_lines(3, 2)[1:])
    found = read_pair_list(written(text), form="names", folds=3)
    assert found.fold.tolist() == [0] * 4 + [1] * 4 + [2] * 4 and found.counts == {}


@pytest.mark.parametrize("divider", [",", "\t", " "])
@pytest.mark.parametrize("heading", [False, True])
def test_paths(written, divider: str, heading: bool) -> None:
    rows = [["a/1.jpg", "./a/2.png", "1", "3"], ["a/1.jpg", "b/1.jpg", "0", "7"]]
    rows = [["path1", "path2", "same", "fold"]] * heading + rows
    found = read_pair_list(written("\n".join(divider.join(row) for row in rows)))
    assert found.first == ["a/1.jpg", "a/1.jpg"] and found.second == ["a/2.png", "b/1.jpg"]
    assert found.same.tolist() == [True, False] and found.fold.tolist() == [3, 7]
    short = read_pair_list(written("\n".join(divider.join(row[:3]) for row in rows)))
    assert short.fold is None and short.counts == {}


@pytest.mark.parametrize(
    ("text", "form", "message"),
    [
        ("1 1\nAnn 1\n", "auto", "line 2: 'Ann 1' is not Name n1 n2"),
        ("1 1\n\nAnn 1 x\n", "auto", "line 3"),
        ("1 1\nAnn 1 2\nAnn 1 Bob two\n", "auto", "line 3"),
        ("a.jpg b.jpg 1\na.jpg b.jpg 2\n", "auto", "line 2: 'a.jpg b.jpg 2' is not path1 path2 same"),
        ("a.jpg,b.jpg,1\na.jpg,,1\n", "auto", "line 2"),
        ("a.jpg,b.jpg,1,0\na.jpg,c.jpg,1\n", "auto", "line 2"),
        ("a.jpg,b.jpg,1,zero\n", "auto", "fold 'zero'"),
        ("Ann 1 2\n", "auto", "line 1"),  # without a first line they are paths, unless form says names
        ("", "auto", "holds no pairs"),
        ("10 300\n", "auto", "holds no pairs"),
        ("path1,path2,same\n", "auto", "holds no pairs"),
        ("1 1\nAnn 1 2\n", "lfw", "form is 'lfw'"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(written, text: str, form: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        read_pair_list(written(text), form)
    assert form == "lfw" or "pairs.txt" in str(error.value)


def test_no_list_and_no_pattern(written, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_pair_list(tmp_path / "nowhere.txt")
    (tmp_path / "faces.bin").write_bytes(b"\x80\x04\xff")
    with pytest.raises(ValueError, match=r"faces\.bin is no text"):
        read_pair_list(tmp_path / "faces.bin")
    for pattern in ("{name}", "{person}_{number}", "{}", "{name.x}{number}", "{name}_{number:q}"):
        with pytest.raises(ValueError, match="pattern is"):
            read_pair_list(written("1 1\nA 1 2\n"), pattern=pattern)


def test_names_find_their_pictures(tmp_path: Path) -> None:
    write_folder(tmp_path, {"m.01/m.01_0001.jpg": 0, "m.01/m.01_0002.PNG": 0, "b/1.jpg": 0, "b/1.png": 0})
    images = NamedImages(tmp_path)
    wanted = ["m.01/m.01_0001", "m.01/m.01_0002", "m.01/m.01_0003", "b/1.png", "b/9.png"]
    found = ["m.01/m.01_0001.jpg", "m.01/m.01_0002.PNG", "m.01/m.01_0003.jpg", "b/1.png", "b/9.png"]
    assert resolve(images, wanted) == found
    with pytest.raises(ValueError, match=r"both b/1.jpg and b/1.png"):
        resolve(images, ["b/1"])


def test_mixed_folds_hold_both_kinds() -> None:
    same = np.array([True] * 5 + [False] * 4)
    assert mixed(same, 2).tolist() == [0, 1, 0, 1, 0, 0, 1, 0, 1]
