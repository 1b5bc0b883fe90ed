"""Pictures listed by name: absent ones, those without a face, and counts that differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recognition.data.named import NamedImages
from recognition.evaluation import listed
from recognition.evaluation.listed import FAILURES, MISSED, Listed, check_counts, rule_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a/1.jpg", "a/2.jpg", "b/1.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())  # nothing is decoded
    return tmp_path


def test_names_become_rows_in_the_order_of_the_list(folder: Path) -> None:
    found = Listed(folder, ["b/1.png", "a/1.jpg", "b/1.png"])
    assert found.rows.tolist() == [2, 0, 2] and found.rows.dtype == np.int64
    assert not found.failed.any() and found.failed.dtype == bool
    assert found.images[found.rows[0]] == b"b/1.png"
    again = Listed(found.images, ["a/2.jpg"])
    assert again.images is found.images and again.rows.tolist() == [1]


@pytest.mark.parametrize("failures", ["miss", "exclude"])
def test_failures_are_marked(folder: Path, failures: str) -> None:
    found = Listed(folder, ["a/1.jpg", "c/1.jpg", "a/2.jpg"], failures)
    assert found.rows.tolist() == [0, -1, 1] and found.failed.tolist() == [False, True, False]
    with pytest.raises(FileNotFoundError, match="2 of 2"):  # nothing at all is no result under any rule
        Listed(folder, ["c/1.jpg", "c/2.jpg"], failures)


def test_an_absent_picture_is_an_error_that_says_what_to_do(folder: Path) -> None:
    wanted = r"2 of 3 listed pictures are not in .*, the first is b/1.jpg \(there is b/1.png\): .*'miss'.*'exclude'"
    with pytest.raises(FileNotFoundError, match=wanted):
        Listed(folder, ["a/1.jpg", "b/1.jpg", "c/1.jpg", "c/1.jpg"])
    with pytest.raises(ValueError, match="failures is 'skip'; it must be one of error, miss, exclude"):
        Listed(folder, ["a/1.jpg"], "skip")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        Listed(folder / "nothing", ["a/1.jpg"])


def test_a_picture_without_a_face_is_told_apart_from_an_absent_one(folder: Path) -> None:
    images = NamedImages(folder)
    images.failed = frozenset({"d/1.jpg"})
    with pytest.raises(FileNotFoundError, match=r"^no face was found in 1 of 2 when they were aligned.*d/1.jpg"):
        Listed(images, ["a/1.jpg", "d/1.jpg"])
    with pytest.raises(FileNotFoundError, match=r"1 of 3 listed pictures .* c/1.jpg; no face was found in 1 of 3"):
        Listed(images, ["a/1.jpg", "d/1.jpg", "c/1.jpg"])
    assert Listed(images, ["a/1.jpg", "d/1.jpg"], "miss").failed.tolist() == [False, True]


def test_counts_that_differ_name_the_file() -> None:
    found = {"probes": (3, 4, "probes.mat"), "people": (2, 2, "probes.mat"), "mates": (1500, 4443, "gallery.mat")}
    with pytest.raises(
        ValueError, match=r"probes.mat holds 3 probes where 4 are .*gallery.mat holds 1,500 .* 4,443"
    ) as e:
        check_counts(found, "published")
    assert "people" not in str(e.value)
    check_counts(found, "any")
    check_counts({"people": found["people"]}, "published")
    with pytest.raises(ValueError, match="counts is 'some'; it must be one of published, any"):
        check_counts({}, "some")


def test_a_failed_pair_lies_below_every_cosine() -> None:
    assert np.isfinite(MISSED) and MISSED < -1
    assert [rule_of(rule, "a", "b") for rule in FAILURES][1:] == ["a", "b"]
    assert listed.COUNTS == ("published", "any")
