"""What cannot be measured is said when a set is opened, not after its pictures were embedded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from recognition.evaluation.protocol import Asked, Looked
from recognition.evaluation.protocols import PROTOCOLS
from recognition.evaluation.protocols.bin import bin_file
from recognition.evaluation.protocols.briar import BRIAR, COLUMNS
from recognition.evaluation.protocols.pairs_txt import pairs_txt
from recognition.evaluation.protocols.rfw import rfw
from tests.recognition.evaluation.protocols import test_briar, test_ijb, test_survface
from tests.recognition.evaluation.protocols.seeing import ASKED, see, write_angles, write_folder, write_lfw
from tests.recognition.test_evaluation import write_records


def write_paths(folder: Path, kinds: str) -> None:
    """pairs.txt of two paths a line, 1 and 0 as in kinds; every pair has its own pictures."""
    write_folder(folder, {f"{n}/{k}.jpg": k * (80 - 60 * int(kind)) for n, kind in enumerate(kinds) for k in range(2)})
    (folder / "pairs.txt").write_text("\n".join(f"{n}/0.jpg,{n}/1.jpg,{kind}" for n, kind in enumerate(kinds)))


def test_contiguous_folds_of_one_kind(tmp_path: Path) -> None:
    """600 genuine and 600 impostor pairs in blocks of 300: two folds hold both."""
    same = np.arange(1200) % 600 < 300
    write_angles(tmp_path / "blocks.bin", np.where(same, 10, 80), same)
    with pytest.raises(ValueError, match=r"fold 0 holds genuine pairs only \(120 of them\).*--argument folds=2, or"):
        bin_file(str(tmp_path / "blocks.bin"))
    assert len(bin_file(str(tmp_path / "blocks.bin"), folds=2).gallery) == 1200
    write_angles(tmp_path / "stacked.bin", [10] * 20 + [80] * 20, [True] * 20 + [False] * 20)
    with pytest.raises(ValueError, match=r"fold 0 holds genuine pairs only .*: give the protocol's own fold per pair"):
        bin_file(str(tmp_path / "stacked.bin"))


def test_as_many_folds_as_there_are_pairs_of_either_kind(tmp_path: Path) -> None:
    write_paths(tmp_path, "1" * 25 + "0" * 5)
    protocol = pairs_txt(str(tmp_path))
    assert np.bincount(protocol.fold).tolist() == [6] * 5 and protocol.rules.folds.startswith("5, each with every 5th")
    assert protocol.measure(see(protocol), ASKED)["112"]["accuracy"]["value"] == 1


def test_pairs_that_failures_leave(tmp_path: Path) -> None:
    write_paths(tmp_path, "111000")
    for n in (0, 1):
        (tmp_path / f"{n}/1.jpg").unlink()
    assert pairs_txt(str(tmp_path), failures="miss").failed == 2
    with pytest.raises(ValueError, match=r"pairs.txt: 1 genuine and 3 impostor pairs that failures='exclude' leaves"):
        pairs_txt(str(tmp_path), failures="exclude")


def test_people_are_drawn_where_the_list_names_them(tmp_path: Path) -> None:
    write_lfw(tmp_path / "names", [10, 10, 85, 80, 70, 70, 60, 80] * 2, 4, 2)
    plain, drawn = (pairs_txt(str(tmp_path / "names"), resampled=unit) for unit in ("pairs", "people"))
    assert plain.rules.resampled == "pairs" and drawn.rules.resampled.startswith("people, of accuracy and TAR: ")
    parts = [one.measure(see(one), ASKED)["112"] for one in (plain, drawn)]
    for part in parts:
        one, other = part["items"]["person_1"], part["items"]["person_2"]
        assert ((one == other) == part["items"]["same"]).all() and len(np.unique(np.append(one, other))) == 24
    assert parts[0]["tar@0.1"]["value"] == parts[1]["tar@0.1"]["value"] and parts[1]["auc"].keys() == {"value"}
    write_paths(tmp_path / "paths", "1100" * 3)
    with pytest.raises(ValueError, match="resampled is 'people', but these pairs do not say who is on them"):
        pairs_txt(str(tmp_path / "paths"), resampled="people")


@pytest.mark.parametrize("kind", ["pairs", "drawn"])
def test_people_of_records(tmp_path: Path, kind: str) -> None:
    labels = np.repeat(np.arange(12), 3)
    write_records(tmp_path / "faces.rec", labels.tolist())
    rows = [f"{3 * p},{3 * p + 1},1,{p % 2}\n{3 * p},{(3 * p + 4) % 36},0,{p % 2}" for p in range(12)]
    (tmp_path / "pairs.csv").write_text("\n".join(["key_1,key_2,same,fold", *rows]) + "\n")
    more = {"pairs": str(tmp_path / "pairs.csv")} if kind == "pairs" else {"count": 16, "folds": 2}
    angle = dict(enumerate(np.random.default_rng(0).normal(labels * 20, 8)))
    for unit in ("pairs", "people"):
        protocol = PROTOCOLS.create(kind, records=str(tmp_path / "faces.rec"), resampled=unit, **more)
        angles = np.deg2rad([angle[int(i)] for i in protocol.views["112"].rows])
        embedding = torch.tensor(np.stack([np.cos(angles), np.sin(angles)], 1), dtype=torch.float32)
        part = protocol.measure({"112": Looked(embedding)}, Asked(far=(0.2,), resamples=50))["112"]
        assert part["resampled"] == unit and protocol.rules.resampled.startswith(unit)
        known = protocol.images.labels()
        assert (part["items"]["person_1"] == known[part["items"]["first"]]).all()
        assert (part["items"]["person_2"] == known[part["items"]["second"]]).all()
        assert ("lo" in part["auc"]) == (unit == "pairs") and "thresholds" in part


def test_a_rank_beyond_a_gallery_of_records(tmp_path: Path) -> None:
    write_records(tmp_path / "faces.rec", [0, 0, 1, 1, 2])
    protocol = PROTOCOLS.create("identification", records=str(tmp_path / "faces.rec"))
    protocol.check(Asked(ranks=(1, 3)))
    with pytest.raises(ValueError, match="rank 5 of a gallery of 3"):
        protocol.check(Asked(ranks=(1, 5)))


def test_groups_without_an_error_have_intervals(tmp_path: Path) -> None:
    for group in ("African", "Asian", "Caucasian", "Indian"):
        write_lfw(tmp_path / group, [10, 10, 80, 80] * 10, 10, 2)
        (tmp_path / "txts" / group).mkdir(parents=True)
        (tmp_path / group / "pairs.txt").rename(tmp_path / "txts" / group / f"{group}_pairs.txt")
    for unit in ("pairs", "people"):
        protocol = rfw(str(tmp_path), str(tmp_path), counts="any", resampled=unit)
        bias = protocol.measure(see(protocol), ASKED)["bias"]
        assert bias["accuracy"]["value"] == 1 == bias["accuracy"]["hi"] and 0.9 < bias["accuracy"]["lo"] < 1
        assert bias["gap"]["value"] == 0 == bias["gap"]["lo"] and 0.04 < bias["gap"]["hi"] < 0.1
        assert bias["std"]["lo"] is bias["std"]["hi"] is None and bias["resampled"] == unit
        assert (bias["fmr@0.1_Asian"]["lo"] is None) == (unit == "people")
        assert len(np.unique(np.append(bias["items"]["person_1"], bias["items"]["person_2"]))) == 4 * 60
        assert protocol.rules.resampled.startswith(unit)


def test_a_rank_beyond_the_watch_list(tmp_path: Path) -> None:
    test_survface.write_identification(tmp_path)
    test_survface.survface(tmp_path).check(Asked(ranks=(24,)))
    with pytest.raises(ValueError, match="rank 25 of a gallery of 24"):
        test_survface.survface(tmp_path).check(Asked(ranks=(25,)))
    with pytest.raises(ValueError, match="rank 4 of a gallery of 3"):
        test_survface.survface(tmp_path, fusion="mean").check(Asked(ranks=(4,)))


def test_survface_s_pictures_are_counted(tmp_path: Path) -> None:
    test_survface.write_verification(tmp_path)
    with pytest.raises(ValueError, match=r"verification_images holds 40 pictures where 10,051 are published"):
        test_survface.survface(tmp_path, counts="published")


def test_a_gallery_of_one_person_has_no_impostors(tmp_path: Path) -> None:
    rows = [row[:5] for row in test_briar.PROBES]
    folder = test_briar.write(tmp_path, rows, "distance")
    (folder / "gallery.csv").write_text("\n".join([",".join(COLUMNS), "g1,ann,m1,ann.jpg"]))
    with pytest.raises(ValueError, match=r"probe.csv, condition 100m holds 1 genuine pairs of 1: both kinds"):
        BRIAR(str(folder), condition="distance", ranks=(1,))
    assert BRIAR(str(folder), ranks=(1,))


def test_templates_that_failures_leave(tmp_path: Path) -> None:
    folder = test_briar.write(tmp_path / "briar", [row[:5] for row in test_briar.PROBES], "distance")
    for name in ("ann.jpg", "v2.jpg"):  # ann is not in the gallery, and bob among no probes
        (folder / "pictures" / name).unlink()
    with pytest.raises(ValueError, match=r"0 genuine pairs of \d that failures='exclude' leaves: both kinds"):
        test_briar.opened(folder, failures="exclude")
    folder = test_ijb.write(tmp_path / "ijb")
    for number in (1, 8, 9):  # template 10, and probes 2 and 3
        (folder / "loose_crop" / f"{number}.png").unlink()
    assert test_ijb.opened(folder, failures="miss")
    with pytest.raises(ValueError, match=r"label.txt holds 0 genuine pairs of 2 that failures='exclude' leaves"):
        test_ijb.opened(folder, failures="exclude")


def test_a_picture_on_both_sides(tmp_path: Path) -> None:
    rows = [[*row[:5]] for row in test_briar.PROBES]
    rows[4][3] = "bob.jpg"
    with pytest.raises(ValueError, match=r"probe.csv, line 6: bob.jpg is in .*gallery.csv, too \(and 0 more\)"):
        test_briar.opened(test_briar.write(tmp_path, rows, "distance"))


@pytest.mark.parametrize("score", ["-1", "0", "nan", "inf"])
def test_detector_scores_are_weights(tmp_path: Path, score: str) -> None:
    rows = [[*row[:5], score if n == 2 else 1] for n, row in enumerate(test_briar.PROBES)]
    with pytest.raises(ValueError, match=rf"probe.csv, line 4: score is '?{score}"):
        test_briar.opened(test_briar.write(tmp_path / "briar", rows))
    folder = test_ijb.write(tmp_path / "ijb", score=[1.0, float(score), *[1.0] * 7])
    with pytest.raises(ValueError, match=rf"5pts_score.txt, line 2: the detector score is {score}; it weighs"):
        test_ijb.opened(folder)
    assert test_ijb.opened(folder, detector_score=False)


def test_lists_that_are_no_text(tmp_path: Path) -> None:
    folder = test_briar.write(tmp_path / "briar")
    (folder / "gallery.csv").write_bytes(b"template,subject,media,file\ng1,J\xf6rg,m1,ann.jpg\n")
    with pytest.raises(ValueError, match=r"gallery.csv is no text in UTF-8"):
        test_briar.opened(folder)
    folder = test_ijb.write(tmp_path / "ijb")
    for name in ("1N_gallery_S1.csv", "face_tid_mid.txt", "template_pair_label.txt"):
        path = folder / "meta" / f"ijbb_{name}"
        before = path.read_bytes()
        path.write_bytes(before + b"\xff\xfe\n")
        with pytest.raises(ValueError, match=f"{name} is no text in UTF-8"):
            test_ijb.opened(folder)
        path.write_bytes(before)


def test_a_picture_that_does_not_decode_is_named_without_advice_for_records(tmp_path: Path) -> None:
    folder = test_ijb.write(tmp_path)
    (folder / "loose_crop" / "2.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"loose_crop/2.png: 10 bytes that do not decode as an image") as raised:
        test_ijb.opened(folder).images[1]
    assert "inspect_records" not in str(raised.value)
