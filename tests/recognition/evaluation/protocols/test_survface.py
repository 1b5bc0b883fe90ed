"""QMUL-SurvFace in miniature: pairs whose kinds come stacked, a watch list, both halves or one, failures."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from recognition.distributed import World
from recognition.evaluation.protocol import Asked
from recognition.evaluation.protocols import PROTOCOLS
from recognition.evaluation.protocols.survface import SurvFace
from recognition.evaluation.runner import evaluate
from recognition.evaluation.sets import open_sets
from tests.recognition.evaluation.protocols import retrieving
from tests.recognition.test_evaluation import TinyModel, face

VERIFICATION, IDENTIFICATION = "Face_Verification_Test_Set", "Face_Identification_Test_Set"
FACES = [f"{person}_cam{shot}_1.jpg" for person in range(20) for shot in (1, 2)]
SAME = [(f"{person}_cam1_1.jpg", f"{person}_cam2_1.jpg") for person in range(20)]
DIFFERENT = [(f"{person}_cam1_1.jpg", f"{(person + 3) % 20}_cam2_1.jpg") for person in range(20)]
GALLERY = [f"{person}_cam1_{shot}.jpg" for person in (5, 3, 4) for shot in range(8)]
MATED = [f"{person}_cam2_{shot}.jpg" for person in (3, 4, 5) for shot in range(6)]
UNMATED = [f"{person}_cam3_{shot}.jpg" for person in range(30, 50) for shot in range(2)]
ASKED = Asked(far=(0.1, 0.05), ranks=(1, 3), resamples=60)


def person(name: str) -> int:
    return int(Path(name).name.split("_")[0])


def write_verification(root: Path, picture: bytes = b"") -> None:
    folder = root / VERIFICATION
    retrieving.write(folder / "verification_images", FACES, picture)
    for kind, pairs in (("positive", SAME), ("negative", DIFFERENT)):
        name = f"{kind}_pairs_names"
        retrieving.write_mat(folder / f"{name}.mat", **{name: retrieving.cells(pairs)})


def write_identification(root: Path, lists: str = IDENTIFICATION) -> None:
    for kind, names in (("gallery", GALLERY), ("mated_probe", MATED), ("unmated_probe", UNMATED)):
        retrieving.write(root / IDENTIFICATION / kind, names)
    for key, names in (("gallery", GALLERY), ("mated_probe", MATED)):
        ids = np.array([[person(name)] for name in names], np.uint16)
        arrays = {f"{key}_set": retrieving.cells(names), f"{key}_ids": ids}
        retrieving.write_mat(root / lists / f"{key}_img_ID_pairs.mat", **arrays)


def survface(root: Path, **settings: str) -> SurvFace:
    found = PROTOCOLS.create("survface", data=str(root), **{"counts": "any", **settings})
    assert isinstance(found, SurvFace)
    return found


def identification(protocol: SurvFace, known: dict[str, list[float]], asked: Asked = ASKED) -> dict:
    return protocol.measure(retrieving.looked_at(protocol, known, "identification"), asked)["identification"]


def watched() -> dict[str, list[float]]:
    kinds = (("gallery", GALLERY), ("mated_probe", MATED), ("unmated_probe", UNMATED))
    names = [f"{IDENTIFICATION}/{kind}/{n}" for kind, of in kinds for n in of]
    return retrieving.random_vectors(names, [person(n) for n in names], spread=0.7, seed=3)


def similarities(known: dict[str, list[float]], kind: str, name: str) -> np.ndarray:
    unit = [np.array(known[f"{IDENTIFICATION}/gallery/{n}"]) for n in GALLERY]
    probe = np.array(known[f"{IDENTIFICATION}/{kind}/{name}"])
    return np.array([g @ probe / np.linalg.norm(g) / np.linalg.norm(probe) for g in unit])


def test_verification_is_judged_in_mixed_folds(tmp_path: Path) -> None:
    write_verification(tmp_path)
    protocol = survface(tmp_path)
    assert list(protocol.views) == ["verification"]
    names = [f"{VERIFICATION}/verification_images/{n}" for n in FACES]
    known = retrieving.random_vectors(names, [person(n) for n in names], spread=0.6)
    results = protocol.measure(retrieving.looked_at(protocol, known, "verification"), ASKED)
    assert list(results) == ["verification"]
    found = results["verification"]
    items = found["items"]
    scores, folds = [], []
    for kind in (SAME, DIFFERENT):
        for n, pair in enumerate(kind):
            a, b = (np.array(known[f"{VERIFICATION}/verification_images/{x}"]) for x in pair)
            scores.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
            folds.append(n % 10)
    scores, folds, same = np.array(scores), np.array(folds), np.repeat([True, False], 20)
    np.testing.assert_allclose(items["score"], scores, atol=1e-6)
    assert items["fold"].tolist() == folds.tolist() and items["same"].tolist() == same.tolist()
    shares = []
    for fold in range(10):
        others = folds != fold
        right = [((scores >= t) == same)[others].sum() for t in sorted(scores[others])]
        threshold = sorted(scores[others])[int(np.argmax(right))]
        shares.append(((scores >= threshold) == same)[~others].mean())
    assert found["accuracy"]["value"] == pytest.approx(np.mean(shares))
    assert 0.5 < np.mean(shares) < 1
    impostors = np.sort(scores[~same])[::-1]
    for far in (0.3, 0.1, 0.05, 0.01, 0.001):
        limit = impostors[int(far * 20 + 1e-9)]
        assert found[f"tar@{far:g}"]["value"] == pytest.approx((scores[same] > limit).mean())
    auc = np.mean([a > b for a in scores[same] for b in scores[~same]])
    assert found["auc"]["value"] == pytest.approx(auc)
    image = np.array(protocol.images.names)
    assert [Path(n).name for n in image[items["first"]]] == [a for a, _ in SAME + DIFFERENT]


@pytest.mark.parametrize("lists", [IDENTIFICATION, "Face_Identification_Evaluation"])
def test_the_watch_list_is_counted_plainly(tmp_path: Path, lists: str) -> None:
    write_identification(tmp_path, lists)
    protocol, known = survface(tmp_path), watched()
    assert list(protocol.views) == ["identification"]
    found = identification(protocol, known)
    alarms = np.array([similarities(known, "unmated_probe", n).max() for n in sorted(UNMATED)])
    mates, positions = [], []
    for name in MATED:
        alike = similarities(known, "mated_probe", name)
        own = np.array([person(g) == person(name) for g in GALLERY])
        mates.append(alike[own].max())
        positions.append(1 + int((alike[~own] >= mates[-1]).sum()))
    mates, positions = np.array(mates), np.array(positions)
    assert found["items"]["position"].tolist() == positions.tolist()
    np.testing.assert_allclose(found["items"]["mate_similarity"], mates, atol=1e-6)
    np.testing.assert_allclose(found["items"]["unmated_similarity"], alarms, atol=1e-6)
    assert found["items"]["unmated_person"].tolist() == [person(n) for n in sorted(UNMATED)]
    values = []
    for f in (0.3, 0.2, 0.1, 0.01, 0.05):
        thresholds = [t for t in [*alarms, *mates] if (alarms >= t).mean() <= f] + [np.inf]
        for rank in (1, 20):
            value = ((mates >= min(thresholds)) & (positions <= rank)).mean()
            measure = found[f"tpir{rank}@{f:g}"]
            assert measure["value"] == pytest.approx(value)
            assert measure["fpir"] == (alarms >= min(thresholds)).mean() <= f
            assert measure["lo"] <= value <= measure["hi"]
            values.append(value)
    assert len(set(values)) > 4 and found["tpir1@0.3"]["value"] < found["tpir20@0.3"]["value"]
    counts = [found[key] for key in ("probes", "unmated", "gallery", "people", "failed", "unmated_failed")]
    assert counts == [18, 40, 24, 3, 0, 0]
    assert found["rank-1"]["value"] == (positions == 1).mean()


def test_people_instead_of_pictures(tmp_path: Path) -> None:
    write_identification(tmp_path)
    protocol, known = survface(tmp_path, fusion="mean"), watched()
    found = identification(protocol, known)
    whole = {}
    for p in (3, 4, 5):
        vectors = [np.array(known[f"{IDENTIFICATION}/gallery/{g}"]) for g in GALLERY if person(g) == p]
        whole[p] = np.mean([v / np.linalg.norm(v) for v in vectors], axis=0)
    positions = []
    for name in MATED:
        probe = known[f"{IDENTIFICATION}/mated_probe/{name}"]
        order = [sorted(whole)[i] for i in retrieving.ranked(probe, [whole[p] for p in sorted(whole)])]
        positions.append(1 + order.index(person(name)))
    assert found["items"]["position"].tolist() == positions and found["gallery"] == 3
    assert not any(key.startswith("tpir20") for key in found)  # there are no 20 people
    assert found["items"]["gallery_person"].tolist() == [3, 4, 5]
    shown = np.array(protocol.images.names)[found["items"]["gallery"]]
    assert [person(n) for n in shown] == [3, 4, 5] and protocol.rules.fusion
    with pytest.raises(ValueError, match="fusion is 'max'; it must be one of none, mean"):
        survface(tmp_path, fusion="max")


def test_failures_of_the_watch_list(tmp_path: Path) -> None:
    write_identification(tmp_path)
    gone = ("gallery/3_cam1_0.jpg", "mated_probe/4_cam2_1.jpg", "mated_probe/5_cam2_0.jpg")
    for name in gone:
        (tmp_path / IDENTIFICATION / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 24 listed pictures .*gallery/3_cam1_0.jpg"):
        survface(tmp_path)
    known = watched()
    missed, left = (identification(survface(tmp_path, failures=rule), known) for rule in ("miss", "exclude"))
    assert [found["probes"] for found in (missed, left)] == [18, 16]
    assert [missed[k] for k in ("failed", "gallery_failed", "unmated_failed", "gallery")] == [2, 1, 0, 23]
    assert missed["items"]["position"][[MATED.index("4_cam2_1.jpg"), MATED.index("5_cam2_0.jpg")]].tolist() == [24, 24]
    for key in ("tpir20@0.3", "rank-1"):
        assert missed[key]["value"] * 18 == pytest.approx(left[key]["value"] * 16)


def test_failures_of_pairs(tmp_path: Path) -> None:
    write_verification(tmp_path)
    (tmp_path / VERIFICATION / "verification_images" / "7_cam1_1.jpg").unlink()  # of a genuine and an impostor pair
    with pytest.raises(FileNotFoundError, match="1 of 40 listed"):
        survface(tmp_path)
    names = [f"{VERIFICATION}/verification_images/{n}" for n in FACES]
    known = retrieving.random_vectors(names, [person(n) for n in names], spread=0.01)
    found = {}
    for rule in ("miss", "exclude"):
        protocol = survface(tmp_path, failures=rule)
        found[rule] = protocol.measure(retrieving.looked_at(protocol, known, "verification"), ASKED)["verification"]
    assert [found[rule]["pairs"] for rule in found] == [40, 38] and found["miss"]["failed"] == 2
    assert found["miss"]["items"]["score"][[7, 27]].tolist() == [-2, -2]
    assert found["miss"]["tar@0.3"]["value"] == 0.95 and found["exclude"]["tar@0.3"]["value"] == 1


def tiny_face(who: int, shot: int, smallest: bool) -> bytes:
    """A face of 24 x 20 pixels, or of 6 x 5, the smallest there is."""
    pixels = cv2.imdecode(np.frombuffer(face(who, shot), np.uint8), cv2.IMREAD_COLOR)
    size = (5, 6) if smallest else (20, 24)
    return cv2.imencode(".png", cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))[1].tobytes()


def test_both_halves_through_the_runner(tmp_path: Path, world: World) -> None:
    write_verification(tmp_path)
    write_identification(tmp_path)
    folders = {f"{VERIFICATION}/verification_images": FACES}
    folders |= {f"{IDENTIFICATION}/{k}": n for k, n in (("gallery", GALLERY), ("mated_probe", MATED))}
    folders[f"{IDENTIFICATION}/unmated_probe"] = UNMATED
    for folder, names in folders.items():
        for shot, name in enumerate(names):
            retrieving.write(tmp_path / folder, [name], tiny_face(person(name), shot, smallest=shot % 9 == 0))
    chosen = {"name": "surv", "kind": "survface", "data": str(tmp_path), "counts": "any"}
    settings = {"sets": [chosen], "ranks": [1], "bootstrap": 20, "batch_size": 32}
    results = evaluate(TinyModel(), settings, world, open_sets(settings))["surv"]
    assert list(results) == ["verification", "identification"]
    assert results["identification"]["rank-1"]["value"] > 0.9 and results["verification"]["auc"]["value"] > 0.95


def test_counts_and_lists_are_checked(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        survface(tmp_path / "nothing")
    retrieving.write(tmp_path, ["training_set/1/1_cam1_1.jpg"])
    with pytest.raises(FileNotFoundError, match=f"holds neither {VERIFICATION} nor {IDENTIFICATION}"):
        survface(tmp_path)
    write_verification(tmp_path)
    with pytest.raises(ValueError, match=r"positive_pairs_names.mat holds 20 positive pairs where 5,320 are published"):
        survface(tmp_path, counts="published")
    retrieving.write_mat(tmp_path / VERIFICATION / "negative_pairs_names.mat", pairs=retrieving.cells(DIFFERENT))
    with pytest.raises(ValueError, match=r"negative_pairs_names.mat .*holds no 'negative_pairs_names', but pairs"):
        survface(tmp_path)
    write_verification(tmp_path)
    write_identification(tmp_path)
    wanted = r"24 gallery pictures where 60,294.* 3 people where 3,000.* 18 mated probes where 60,423.*40 unmated"
    with pytest.raises(ValueError, match="positive pairs"):
        survface(tmp_path, counts="published")
    for path in (tmp_path / VERIFICATION / "verification_images").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=wanted):
        survface(tmp_path, counts="published")
    ids = np.array([[person(name)] for name in MATED])
    ids[4] = 77
    path = tmp_path / IDENTIFICATION / "mated_probe_img_ID_pairs.mat"
    retrieving.write_mat(path, mated_probe_set=retrieving.cells(MATED), mated_probe_ids=ids)
    with pytest.raises(ValueError, match=r"1 mated probes .* not in the gallery, the first is .*3_cam2_4.jpg"):
        survface(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"no file .*Face_Identification_Test_Set/mated_probe_img_ID_pairs"):
        survface(tmp_path)
