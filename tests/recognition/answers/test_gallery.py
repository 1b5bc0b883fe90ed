"""Galleries: whose faces they are, the index that is brought up to date, and which indexes are refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from recognition.answers.gallery import Gallery, people_of, read_labels
from recognition.answers.pictures import gather
from tests.answering import Counting, Run, faces, tiny_run, write_picture
from tests.small import write_records
from tests.tiny import nameable

FACES = faces(8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with nameable():
        yield tiny_run(tmp_path_factory.mktemp("gallery"))


@pytest.fixture
def model(run: Run) -> Counting:
    return Counting.load(run.path)


@pytest.fixture
def people(tmp_path: Path) -> Path:
    for number, face in enumerate(FACES[:6]):
        write_picture(tmp_path / "people" / f"p{number % 3}" / f"{number}.png", face)
    return tmp_path / "people"


def test_whose_a_picture_is(tmp_path: Path, people: Path) -> None:
    for name in ("anna_maria_1.png", "bo.png", "deep/er/1.png"):
        write_picture(people / name, FACES[0])
    pictures = gather(people)
    whose = dict(zip([one.name for one in pictures], people_of(pictures), strict=True))
    assert whose["p1/4.png"] == "p1" and whose["anna_maria_1.png"] == "anna_maria"
    assert whose["bo.png"] == "bo" and whose["deep/er/1.png"] == "deep"
    assert people_of(gather([people / "anna_maria_1.png", FACES[0]])) == ["anna_maria", "image 1"]
    assert people_of(gather([people]))[-1] == "p2", "a folder among others"
    labels = tmp_path / "labels.csv"
    labels.write_text("name,person\n" + "".join(f"{one.name},someone\n" for one in pictures))
    assert set(people_of(pictures, labels)) == {"someone"}
    with pytest.raises(ValueError, match="leave out 8 of 9 pictures"):
        people_of(pictures, {"bo.png": "bo"})
    for text, words in (("a,b,c\n", "line 1"), ("a,b\na,c\n", "line 2: a stands there twice"), ("", "names nobody")):
        labels.write_text(text)
        with pytest.raises(ValueError, match=words):
            read_labels(labels)
    with pytest.raises(ValueError, match=r"0\.png is no list: it is no text"):
        read_labels(people / "p0" / "0.png")
    with pytest.raises(FileNotFoundError, match="there is no list gone"):
        read_labels("gone.csv")


def test_records_bring_their_labels(model: Counting, tmp_path: Path) -> None:
    made = model.gallery(write_records(tmp_path / "faces", people=3, images=2))
    assert made.people()[0] == ["0", "1", "2"] and len(made) == 6


def test_the_index_embeds_what_is_new_or_changed(model: Counting, people: Path, tmp_path: Path) -> None:
    index = tmp_path / "people.npz"
    first = model.gallery(people, index=index)
    assert model.seen == first.computed == 6
    for path, face in (("new/7.png", FACES[7]), ("p0/0.png", FACES[6])):
        write_picture(people / path, face)
    os.utime(people / "p1" / "1.png", ns=(1, 1))  # touched, its bytes are the same
    (people / "p2" / "2.png").unlink()
    (people / "p2" / "torn.png").write_bytes(b"torn")
    second = model.gallery(people, index=index, prune=True)
    assert model.seen == 9 and second.computed == 2
    assert [one["name"] for one in second.errors] == ["p2/torn.png"]
    plain = model.gallery(people)
    names = [entry.name for entry in plain.entries]
    assert names == [entry.name for entry in second.entries] == [e.name for e in Gallery.load(index).entries]
    np.testing.assert_allclose(second.embedding, plain.embedding, atol=1e-6)
    np.testing.assert_allclose(Gallery.load(index).embedding, plain.embedding, atol=1e-6)
    before, model.seen = index.stat().st_mtime_ns, 0
    (people / "p2" / "torn.png").unlink()
    model.gallery(people, index=index)
    assert model.seen == 0 and index.stat().st_mtime_ns == before, "nothing changed, nothing is written"


def test_another_folder_does_not_replace_an_index(model: Counting, people: Path, tmp_path: Path) -> None:
    index, other = tmp_path / "people.npz", tmp_path / "poeple"
    model.gallery(people, index=index)
    before = index.read_bytes()
    write_picture(other / "bo" / "1.png", FACES[7])
    write_picture(other / "p0" / "0.png", FACES[0])
    model.seen = 0
    words = r"of the 6 faces in .*people\.npz 5, of 3 people, .* given \(2\), p0/3\.png first.*prune=True"
    with pytest.raises(ValueError, match=words):
        model.gallery(other, index=index)
    assert index.read_bytes() == before and model.seen == 0
    assert len(model.gallery(other, index=index, prune=True)) == 2 and model.seen == 1
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*gone"):
        model.gallery(tmp_path / "gone", index=index)


def test_an_index_that_cannot_be_written_is_told_before_the_work(model: Counting, people: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for index, words in ((tmp_path / "file" / "x.npz", "cannot be written"), (tmp_path / "x.pkl", "written as .npz")):
        with pytest.raises((ValueError, OSError), match=words):
            model.gallery(people, index=index)
    assert model.seen == 0


def test_half_is_half_and_nearly_the_same(model: Counting, people: Path, tmp_path: Path) -> None:
    whole = model.gallery(people, index=tmp_path / "whole.npz")
    model.gallery(people, index=tmp_path / "half.npz", half=True)
    half = Gallery.load(tmp_path / "half.npz")
    assert half.embedding.dtype == np.float32 and (half.embedding * whole.embedding).sum(1).min() > 0.9999
    with np.load(tmp_path / "half.npz") as file:
        assert file["embedding"].dtype == np.float16


def test_an_index_of_another_model_is_refused(model: Counting, people: Path, tmp_path: Path) -> None:
    index = tmp_path / "people.npz"
    model.gallery(people, index=index)
    other = Counting.load(tiny_run(tmp_path / "other_run", seed=1).path)
    for use in (lambda: other.gallery(people, index=index), lambda: other.identify(FACES, index)):
        with pytest.raises(ValueError, match=r"people\.npz was made by another model .* cannot be compared"):
            use()
    with pytest.raises(
        ValueError, match=r"with another flip \(none, and this one is sum\).*ask for flip none, or"
    ) as told:
        model.identify(FACES, index, flip="sum")
    assert "two models" not in str(told.value)
    with pytest.raises(ValueError, match="the gallery was made by another model"):
        other.identify(FACES, model.gallery(people))


def test_damaged_indexes_are_told(model: Counting, people: Path, tmp_path: Path) -> None:
    index = tmp_path / "people.npz"
    made = model.gallery(people, index=index)
    arrays = dict(np.load(index))
    spoiled = {
        "none of these": {"about": np.frombuffer(b'{"format": "x"}', np.uint8)},
        "no json": {"entries": np.frombuffer(b"[[", np.uint8)},
        "a list too short": {"entries": np.frombuffer(b'[["a", "b", 1, 1, ""]]', np.uint8)},
        "another list": {"entries": np.frombuffer(b"[[1, 2]]", np.uint8)},
        "numbers": {"embedding": made.embedding * 2},
        "nan": {"embedding": made.embedding * np.float32("nan")},
        "doubles": {"embedding": made.embedding.astype(np.float64)},
    }
    for change in spoiled.values():
        np.savez(index, **{**arrays, **change})
        with pytest.raises(ValueError, match="build it again"):
            Gallery.load(index)
    np.savez(index, **{**arrays, "embedding": np.array([{}], object)})
    with pytest.raises(ValueError, match="object arrays are pickles"):
        Gallery.load(index)
    index.write_bytes(index.read_bytes()[:100])
    with pytest.raises(ValueError, match="no sound"):
        Gallery.load(index)
    with pytest.raises(FileNotFoundError, match="there is no index"):
        Gallery.load(tmp_path / "gone.npz")
    with pytest.raises(ValueError, match=r"written as \.npz"):
        made.save(tmp_path / "index.pkl")


def test_identify(model: Counting, people: Path) -> None:
    shutil.rmtree(people / "p2")
    probes = [people / "p0" / "0.png", FACES[1], b"torn", FACES[6]]
    found = model.identify(probes, people, k=2, far=1e-2)
    assert found.people == 2 and found.faces == 4 and len(found) == 4
    assert found[0].person == "p0" and found[0].candidates[0].image == "p0/0.png"
    assert found[0].candidates[0].similarity == pytest.approx(1, abs=1e-5) and found[0].candidates[0].accepted
    assert found[1].candidates[0].person == "p1" and len(found[1].candidates) == 2
    assert found[2].candidates == [] and "do not decode" in found[2].error and found[2].person is None
    assert "compared with 4" in found.notes[0] and "expect 0.04 false matches" in found.notes[0]
    assert "a threshold at FAR 0.0003" in found.notes[0] and "4,000 pairs of strangers" in found.notes[0]
    assert "the card's lowest is at FAR 0.001" in found.notes[0], "nothing is advised that is refused"
    strict = model.identify(probes[1:2], people, threshold=1.0, fuse="mean")
    assert strict[0].person is None and strict[0].candidates[0].image == "" and not strict.notes
    alone = model.identify(probes[1:2], FACES[:1], far=1e-2)
    assert alone.notes[0].endswith("at FAR 0.001, and the card has one at FAR 0.001")
    assert "takes a threshold" not in model.identify(probes[1:2], FACES[:1], far=1e-3).notes[0], "that is the one"
    gates = [model.look(FACES[1]).about(0)["gate"], found[1].about["gate"]]
    assert gates[0] == pytest.approx(gates[1])


def test_a_gallery_of_nothing(model: Counting, people: Path) -> None:
    with pytest.raises(ValueError, match="none of 1 pictures of the gallery can be used; image 0: "):
        model.gallery([b"torn"])
    with pytest.raises(ValueError, match="two pictures of the gallery are named"):
        model.gallery([people / "p0" / "0.png"] * 2)
