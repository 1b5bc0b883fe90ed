"""TinyFace in miniature: both layouts, lists and file names, rank-K and mAP counted plainly, failures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recognition.data.named import NamedImages
from recognition.distributed import World
from recognition.evaluation import intervals
from recognition.evaluation.identification import DISTRACTOR
from recognition.evaluation.protocol import Asked
from recognition.evaluation.protocols import PROTOCOLS
from recognition.evaluation.retrieval import Retrieval
from recognition.evaluation.runner import evaluate, scalars
from recognition.evaluation.sets import open_sets
from tests.recognition.evaluation.protocols import retrieving
from tests.recognition.test_evaluation import TinyModel, face

PROBES = [f"{person}_p{shot}.jpg" for person in (11, 12, 13, 14, 15) for shot in (1, 2)]
MATES = [f"{person}_g{shot}.jpg" for person in (15, 13, 11, 12, 14) for shot in range(1, 1 + person % 10)]
OTHERS = [f"{number}_x.jpg" for number in range(900, 925)]
ASKED = Asked(ranks=(1, 5), resamples=50)
VIEW = "112"


def number(name: str) -> int:
    return int(Path(name).name.split("_")[0])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for kind, names in (("Probe", PROBES), ("Gallery_Match", MATES), ("Gallery_Distractor", OTHERS)):
        retrieving.write(tmp_path / "Testing_Set" / kind, names)
    return tmp_path


def write_lists(folder: Path, shift: int = 0) -> None:
    for kind, key, names in (("probe", "probe", PROBES), ("gallery_match", "gallery", MATES)):
        ids = np.array([[number(name) + shift] for name in names], np.uint16)
        retrieving.write_mat(
            folder / f"{kind}_img_ID_pairs.mat", **{f"{key}_set": retrieving.cells(names), f"{key}_ids": ids}
        )


def tinyface(folder: Path, **settings: str) -> Retrieval:
    found = PROTOCOLS.create("tinyface", data=str(folder), **{"counts": "any", **settings})
    assert isinstance(found, Retrieval)
    return found


def vectors() -> dict[str, list[float]]:
    names = [f"{kind}/{n}" for kind, of in (("Probe", PROBES), ("Gallery_Match", MATES)) for n in of]
    known = retrieving.random_vectors(names, [number(name) - 10 for name in names])
    others = [f"Gallery_Distractor/{name}" for name in OTHERS]
    return known | retrieving.random_vectors(others, list(range(len(others))), seed=5)


@pytest.mark.parametrize("lists", ["", "Testing_Set", "tinyface/Testing_Set"])
def test_rank_and_map_are_those_of_plain_counting(folder: Path, lists: str) -> None:
    if lists:
        write_lists(folder / lists, shift=500)  # the lists' persons need not be the names' numbers
    protocol = tinyface(folder)
    found = protocol.measure(retrieving.looked_at(protocol, vectors(), VIEW), ASKED)["identification"]
    stored = [f"Gallery_Match/{n}" for n in (MATES if lists else sorted(MATES))]
    stored += [f"Gallery_Distractor/{n}" for n in OTHERS]
    probes = PROBES if lists else sorted(PROBES)
    known = vectors()
    positions, precisions, best = [], [], []
    for name in probes:
        order = retrieving.ranked(known[f"Probe/{name}"], [known[n] for n in stored])
        mates = {i for i, n in enumerate(stored) if number(n) == number(name)}
        strangers = [i for i in order[: min(order.index(m) for m in mates)] if i not in mates]
        positions.append(1 + len(strangers))
        precisions.append(retrieving.average_precision(order, mates))
        best.append(order[0])
    assert found["items"]["position"].tolist() == positions and found["items"]["best"].tolist() == best
    assert 1 in positions and max(positions) > 5, "the miniature must hold easy and hard probes"
    np.testing.assert_allclose(found["items"]["precision"], precisions, rtol=0, atol=1e-12)
    assert found["map"]["value"] == pytest.approx(np.mean(precisions), abs=1e-12)
    for k in (1, 5):
        assert found[f"rank-{k}"]["value"] == np.mean(np.array(positions) <= k)
        assert found[f"rank-{k}"]["lo"] <= found[f"rank-{k}"]["value"] <= found[f"rank-{k}"]["hi"]
    people = np.array([number(name) for name in probes])
    for key, each in (("rank-5", np.array(positions) <= 5), ("map", np.array(precisions))):
        drawn = intervals.resample_mean(each, groups=people, resamples=50)
        assert [found[key]["lo"], found[key]["hi"]] == pytest.approx(intervals.interval(drawn), abs=1e-12)
    counts = [found[key] for key in ("probes", "gallery", "people", "failed", "gallery_failed", "listed")]
    assert counts == [10, 15 + 25, 5, 0, 0, 10]
    shift = 500 if lists else 0
    assert found["items"]["person"].tolist() == [number(name) + shift for name in probes]
    names = np.array(protocol.images.names)
    assert names[found["items"]["probe"]].tolist() == [f"Probe/{n}" for n in probes]
    assert names[found["items"]["gallery"]].tolist() == stored
    assert found["items"]["gate"].tolist() == pytest.approx((found["items"]["probe"] / 100).tolist())


def test_ties_count_against_the_probe(folder: Path) -> None:
    protocol = tinyface(folder)
    same = dict.fromkeys(protocol.images.names, (1.0, 2.0))
    found = protocol.measure(retrieving.looked_at(protocol, same, VIEW), ASKED)["identification"]
    assert found["rank-1"]["value"] == 0
    mates = [number(n) % 10 for n in sorted(PROBES)]
    assert found["items"]["position"].tolist() == [41 - m for m in mates]


def test_the_aligned_layout(folder: Path) -> None:
    (folder / "Testing_Set").rename(folder / "aligned_pad_0.1_pad_high")
    write_lists(folder / "tinyface" / "Testing_Set")
    protocol = tinyface(folder, images="aligned_pad_0.1_pad_high")
    assert len(protocol.images) == 50 and len(protocol.probe_labels) == 10
    assert (protocol.gallery_labels == DISTRACTOR).sum() == 25
    flat = tinyface(folder / "aligned_pad_0.1_pad_high", lists=str(folder / "tinyface"))
    assert flat.gallery_labels.tolist() == protocol.gallery_labels.tolist()


def test_counts_are_the_published_ones(folder: Path) -> None:
    wanted = r"Testing_Set/Probe holds 10 pictures of Probe where 3,728 .*Gallery_Distractor where 153,428"
    with pytest.raises(ValueError, match=wanted):
        tinyface(folder, counts="published")


def test_lost_pictures_are_no_failures(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lists(folder)
    sizes = {"Probe": len(PROBES), "Gallery_Match": len(MATES), "Gallery_Distractor": len(OTHERS)}
    monkeypatch.setattr("recognition.evaluation.protocols.tinyface.COUNTS", sizes)
    (folder / "Testing_Set" / "Probe" / "13_p2.jpg").unlink()
    for failures in ("miss", "exclude"):
        with pytest.raises(ValueError, match="Probe holds 9 pictures of Probe where 10 are published"):
            tinyface(folder, failures=failures, counts="published")
    opened = NamedImages.__init__

    def aligned(self: NamedImages, path: str | Path) -> None:
        opened(self, path)
        self.failed = frozenset({"Probe/13_p2.jpg"})

    monkeypatch.setattr(NamedImages, "__init__", aligned)
    assert tinyface(folder, failures="miss", counts="published").probes.failed.sum() == 1


def test_lists_and_file_names_must_agree(folder: Path) -> None:
    write_lists(folder)
    ids = np.array([number(name) for name in PROBES])
    ids[-1] = 11
    retrieving.write_mat(folder / "probe_img_ID_pairs.mat", probe_set=retrieving.cells(PROBES), probe_ids=ids[:, None])
    with pytest.raises(
        ValueError, match=r"disagree on who is who: .*15_p1.jpg and .*15_p2.jpg are of one person by the n"
    ):
        tinyface(folder)


def test_what_is_wrong_is_said(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no pictures in Probe.*name the folder"):
        tinyface(folder / "Testing_Set", images="Gallery_Match")
    retrieving.write(folder / "Testing_Set" / "Probe", ["nobody.jpg"])
    with pytest.raises(ValueError, match=r"Probe/nobody.jpg does not begin with a person's number.*probe_img_ID_pairs"):
        tinyface(folder)
    (folder / "Testing_Set" / "Probe" / "nobody.jpg").unlink()
    retrieving.write_mat(folder / "probe_img_ID_pairs.mat", probes=retrieving.cells(PROBES), probe_ids=np.ones(10))
    with pytest.raises(ValueError, match=r"probe_img_ID_pairs.mat is .* holds no 'probe_set', but probes, probe_ids"):
        tinyface(folder)
    retrieving.write_mat(folder / "probe_img_ID_pairs.mat", probe_set=retrieving.cells(PROBES), probe_ids=np.ones(9))
    with pytest.raises(ValueError, match="holds 9 of float64 for 10 names"):
        tinyface(folder)


def test_failures_are_missed_or_left_out(folder: Path) -> None:
    write_lists(folder)
    (folder / "Testing_Set" / "Probe" / "13_p2.jpg").unlink()  # a probe
    (folder / "Testing_Set" / "Gallery_Match" / "11_g1.jpg").unlink()  # the only mate of two more
    with pytest.raises(FileNotFoundError, match=r"1 of 10 listed pictures are not in .*Probe/13_p2.jpg"):
        tinyface(folder)
    known = vectors()
    whole = {}
    for failures in ("miss", "exclude"):
        protocol = tinyface(folder, failures=failures)
        assert protocol.rules.failures
        whole[failures] = protocol.measure(retrieving.looked_at(protocol, known, VIEW), ASKED)["identification"]
    missed, left = whole["miss"], whole["exclude"]
    for found, probes in ((missed, 10), (left, 7)):
        counts = [found[key] for key in ("probes", "listed", "failed", "gallery_failed", "gallery")]
        assert counts == [probes, 10, 1, 1, 39]
    gone = [PROBES.index(name) for name in ("11_p1.jpg", "11_p2.jpg", "13_p2.jpg")]
    items = missed["items"]
    assert items["position"][gone].tolist() == [40, 40, 40] and items["precision"][gone].tolist() == [0, 0, 0]
    assert items["mate_similarity"][gone].tolist() == [-2, -2, -2]
    assert items["probe"][gone[2]] == -1 and items["best"][gone[2]] == -1 and np.isnan(items["gate"][gone[2]])
    kept = np.delete(np.arange(10), gone)
    np.testing.assert_array_equal(left["items"]["position"], items["position"][kept])
    assert left["rank-1"]["value"] * 7 == pytest.approx(missed["rank-1"]["value"] * 10)


def test_lost_mates_stay_in_the_denominator_of_map(folder: Path) -> None:
    """Person 13 has three mates: with two of them lost, the best that a probe can come to is a third."""
    write_lists(folder)
    known = {name: [float(number(name) - 10), 1.0] for name in vectors()}
    for shot in (1, 2):
        (folder / "Testing_Set" / "Gallery_Match" / f"13_g{shot}.jpg").unlink()
    for failures, wanted in (("miss", 1 / 3), ("exclude", 1.0)):
        protocol = tinyface(folder, failures=failures)
        found = protocol.measure(retrieving.looked_at(protocol, known, VIEW), ASKED)["identification"]
        precision = found["items"]["precision"]
        np.testing.assert_allclose(precision, np.where(found["items"]["person"] == 13, wanted, 1.0), atol=1e-6)
        assert found["map"]["value"] == pytest.approx(precision.mean()) and found["rank-1"]["value"] == 1


def test_pictures_without_a_face_are_failures_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("Probe/12_p1.jpg", "Gallery_Distractor/900_x.jpg"):
        (folder / "Testing_Set" / name).unlink()
    opened = NamedImages.__init__

    def aligned(self: NamedImages, path: str | Path) -> None:
        opened(self, path)
        self.failed = frozenset({"Probe/12_p1.jpg", "Gallery_Distractor/900_x.jpg"})

    monkeypatch.setattr(NamedImages, "__init__", aligned)
    with pytest.raises(FileNotFoundError, match="no face was found in 1 of 10 when they were aligned"):
        tinyface(folder)
    protocol = tinyface(folder, failures="miss")
    assert (protocol.probes.failed.sum(), protocol.gallery.failed.sum(), len(protocol.gallery.rows)) == (1, 1, 40)


def test_through_the_runner(tmp_path: Path, world: World) -> None:
    for kind, names in (("Probe", PROBES), ("Gallery_Match", MATES), ("Gallery_Distractor", OTHERS)):
        for shot, name in enumerate(names):
            retrieving.write(tmp_path / "Testing_Set" / kind, [name], face(number(name), shot))
    settings = {
        "sets": [{"name": "tiny", "kind": "tinyface", "data": str(tmp_path), "counts": "any"}],
        "ranks": [1, 5],
        "bootstrap": 20,
        "batch_size": 16,
    }
    (one,) = open_sets(settings)
    results = evaluate(TinyModel(), settings, world, [one])
    flat = scalars(results)
    assert set(flat) == {"tiny/identification/rank-1", "tiny/identification/rank-5", "tiny/identification/map"}
    assert flat["tiny/identification/rank-1"] == 1.0 and "112 x 112" in one.protocol.rules.gallery
