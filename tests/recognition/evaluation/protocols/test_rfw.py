"""RFW: each group's figures, the gaps between them by hand, both layouts, and the bootstrap of shared thresholds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recognition.evaluation.gains import compare
from recognition.evaluation.protocol import ITEMS, Asked, Protocol
from recognition.evaluation.protocols._shared_threshold import error_rates
from recognition.evaluation.protocols.rfw import GROUPS, rfw
from recognition.evaluation.results import load_results, save_results
from tests.recognition.evaluation.protocols.seeing import ASKED, see, write_angles, write_folder

RIGHT = [20.0, 80.0] * 10  # a genuine and an impostor pair in each of ten folds
ANGLES = {
    "African": [85.0, 80.0, *RIGHT[2:]],  # one genuine pair is refused
    "Asian": [85.0, 80.0] * 2 + RIGHT[4:],
    "Caucasian": RIGHT[:14] + [85.0, 80.0] * 3,
    "Indian": [85.0, 10.0] * 2 + RIGHT[4:],  # two of either kind are wrong
}
ERRORS = {"African": 1, "Asian": 2, "Caucasian": 3, "Indian": 4}


@pytest.fixture
def release(tmp_path: Path) -> Path:
    for group, angles in ANGLES.items():
        lines, pictures = [], {}
        for n, angle in enumerate(angles):
            first, second = (f"m.0{n}", f"m.0{n}") if n % 2 == 0 else (f"m.0{n}", f"m.1{n}")
            lines.append(f"{first}\t1\t2" if n % 2 == 0 else f"{first}\t1\t{second}\t2")
            pictures |= {f"{group}/{first}/{first}_0001.jpg": 0, f"{group}/{second}/{second}_0002.jpg": angle}
        write_folder(tmp_path / "test/data", pictures)
        path = tmp_path / f"test/txts/{group}/{group}_pairs.txt"
        path.parent.mkdir(parents=True)
        path.write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.fixture
def bins(tmp_path: Path) -> Path:
    for group, angles in ANGLES.items():
        write_angles(tmp_path / f"{group}_test.bin", angles, [True, False] * 10)
    return tmp_path


@pytest.mark.parametrize("layout", ["release", "bins"])
def test_gaps_between_groups(layout: str, request: pytest.FixtureRequest) -> None:
    protocol = rfw(str(request.getfixturevalue(layout)), counts="any")
    assert isinstance(protocol, Protocol) and len(protocol.images) == 4 * 40
    results = protocol.measure(see(protocol), Asked(far=(0.05, 0.01), resamples=300))
    assert list(results) == [*GROUPS, "bias"]
    for group, errors in ERRORS.items():
        assert results[group]["accuracy"]["value"] == pytest.approx(1 - errors / 20)
    part = results["bias"]
    accuracy = [0.95, 0.9, 0.85, 0.8]
    assert part["accuracy"]["value"] == pytest.approx(0.875)
    assert part["std"]["value"] == pytest.approx(np.std(accuracy, ddof=1))
    assert part["gap"]["value"] == pytest.approx(0.15)
    assert part["skewed_error_ratio"]["value"] == pytest.approx(0.2 / 0.05)
    assert part["skewed_error_ratio"]["unit"] == "ratio"
    assert part["skewed_error_ratio"]["hi"] is None  # in many resamples a group has no error
    for figure in ("accuracy", "std", "gap"):
        assert part[figure]["lo"] < part[figure]["value"] < part[figure]["hi"]
    # of 40 impostors 2 may pass: those of the Indian group; at FAR 0.01 none, and with them no genuine pair
    for group, errors in ERRORS.items():
        refused = errors if group != "Indian" else 2
        assert part[f"fmr@0.05_{group}"]["value"] == pytest.approx(0.2 if group == "Indian" else 0)
        assert part[f"fnmr@0.05_{group}"]["value"] == pytest.approx(refused / 10)
        assert (part[f"fmr@0.01_{group}"]["value"], part[f"fnmr@0.01_{group}"]["value"]) == (0, 1)
    assert part["fnmr@0.05_Asian"]["threshold"] == pytest.approx(np.cos(np.deg2rad(80)), abs=1e-6)
    assert part["fnmr@0.05_Asian"]["better"] == part["gap"]["better"] == "lower"
    assert (part["groups"], part["pairs"]) == (4, 80)
    assert len(np.unique(part[ITEMS]["fold"])) == 40
    for n in (0, 79):
        assert protocol.images[int(part[ITEMS]["second"][n])].split()[0] in (b"85.0", b"80.0")


def test_results_are_kept_and_compared(bins: Path, tmp_path: Path) -> None:
    protocol = rfw(str(bins), low_res=[112, 14], counts="any")
    results = protocol.measure(see(protocol), ASKED)
    assert [part for part in results if part.startswith("bias")] == ["bias", "bias_14"]
    save_results(tmp_path / "kept", {"rfw": results})
    again = load_results(tmp_path / "kept")
    gain = compare(again, again, 50)["rfw"]["bias"]["accuracy"]
    assert (gain["value"], gain["lo"], gain["hi"]) == (0, 0, 0)


def test_no_errors_and_no_resamples(tmp_path: Path) -> None:
    for group in GROUPS:
        write_angles(tmp_path / f"{group}_test.bin", RIGHT, [True, False] * 10)
    protocol = rfw(str(tmp_path), counts="any")
    part = protocol.measure(see(protocol), Asked(far=(0.1,), resamples=0))["bias"]
    assert part["gap"] == {"value": 0.0, "lo": None, "hi": None, "better": "lower"}
    assert "skewed_error_ratio" not in part and part["fnmr@0.1_Asian"]["lo"] is None


def test_files_counts_and_failures(release: Path) -> None:
    with pytest.raises(ValueError, match=r"African_pairs.txt holds 10 genuine pairs of African where 3,000"):
        rfw(str(release))
    (release / "test/data/Asian/m.00/m.00_0002.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"Asian/m.00/m.00_0002.jpg"):
        rfw(str(release / "test"), counts="any")
    missed = rfw(str(release), failures="miss", counts="any")
    results = missed.measure(see(missed), ASKED)
    assert [results[g]["failed"] for g in GROUPS] == [0, 1, 0, 0]
    items = results["bias"][ITEMS]
    assert items["second"][20] == -1 and items["score"][20] == -2 and "never accepted" in missed.rules.failures
    (release / "test/txts/Indian/Indian_pairs.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"Indian_pairs.txt \(1 of 4 groups"):
        rfw(str(release), counts="any")
    with pytest.raises(FileNotFoundError, match=r"4 of 4 groups"):
        rfw(str(release / "test/data"))
    write_angles(release / "Asian_test.bin", RIGHT, [True, False] * 10)
    with pytest.raises(FileNotFoundError, match=r"African_test.bin \(3 of 4"):
        rfw(str(release), counts="any")


def test_shared_thresholds_are_resampled_as_plain_draws_are() -> None:
    generator = np.random.default_rng(0)
    genuine = {name: np.round(generator.normal(1.5 + g / 3, 1, 120), 1) for g, name in enumerate("abc")}
    impostors = {name: np.round(generator.normal(g / 2, 1, 100 + 50 * g), 1) for g, name in enumerate("abc")}
    found = error_rates(genuine, impostors, 0.1, Asked(resamples=4000))
    plain = {"fmr": [], "fnmr": []}
    for draw in range(1500):
        rng = np.random.default_rng(draw)
        strangers, mates = ({n: rng.choice(s, len(s)) for n, s in each.items()} for each in (impostors, genuine))
        if draw == 0:
            strangers, mates = impostors, genuine
        limit = -np.sort(-np.concatenate(list(strangers.values())))[45]  # 45 of 450 may pass
        plain["fmr"].append([(s > limit).mean() for s in strangers.values()])
        plain["fnmr"].append([(s <= limit).mean() for s in mates.values()])
    for figure, each in (("fmr", found.fmr), ("fnmr", found.fnmr)):
        rows = np.array(plain[figure])
        assert [one["value"] for one in each.values()] == pytest.approx(rows[0].tolist())
        lo, hi = np.quantile(rows[1:], [0.025, 0.975], axis=0)
        np.testing.assert_allclose([one["lo"] for one in each.values()], lo, atol=0.012)
        np.testing.assert_allclose([one["hi"] for one in each.values()], hi, atol=0.012)
    assert found.far <= 0.1
    everything = error_rates(genuine, impostors, 1.0, Asked(resamples=20))
    assert everything.limit == -np.inf and all(one["value"] == 0 for one in everything.fnmr.values())
