"""Paired differences of two models: the right unit for each figure, the right items, p-values that allow for many."""

from __future__ import annotations

import numpy as np
import pytest

from recognition.evaluation import delong, intervals, measures
from recognition.evaluation.gains import compare, gains, holm, unlike, unlike_data, untold
from recognition.evaluation.identification import Search
from recognition.evaluation.openset import open_set, resample_tpir
from recognition.evaluation.protocol import Asked

ASKED = Asked(far=(0.1,), ranks=(1, 2), resamples=0)


def pairs(seed: int, items: dict[str, np.ndarray] | None = None) -> dict:
    same = np.arange(200) % 2 == 0
    scores = np.random.default_rng(seed).normal(size=200) + 1.5 * same
    return measures.verification(scores, same, ASKED, 5, {"first": np.arange(200), **(items or {})})


def probes(seed: int) -> dict:
    generator = np.random.default_rng(seed)
    position, person = generator.integers(1, 5, 60), np.arange(60) // 3
    precision = 1 / position
    return {
        **{f"rank-{k}": {"value": float((position <= k).mean())} for k in (1, 2)},
        "map": {"value": float(precision.mean())},
        "items": {"position": position, "person": person, "precision": precision},
    }


def test_pairs_are_compared_pair_by_pair() -> None:
    old, new = pairs(0), pairs(1)
    found = gains(old, new, resamples=400, seed=3)
    assert set(found) == {"accuracy", "tar@0.1", "auc", "eer"} and {one["unit"] for one in found.values()} == {"pair"}
    for key, gain in found.items():
        assert gain["value"] == pytest.approx(new[key]["value"] - old[key]["value"]) and gain["lo"] < gain["hi"]
    accuracy = intervals.difference(*(measures.by_fold(one["items"]) for one in (old, new)), resamples=400, seed=3)
    assert {k: found["accuracy"][k] for k in accuracy} == pytest.approx(accuracy)
    scores, same = [one["items"]["score"] for one in (old, new)], old["items"]["same"]
    drawn = intervals.difference_of_tar(*scores, same, 0.1, resamples=400, seed=3)
    assert (found["tar@0.1"]["lo"], found["tar@0.1"]["hi"]) == intervals.interval(drawn)
    assert found["auc"] == {**delong.difference(*scores, same), "unit": "pair"}
    assert set(gains(old, new, 10, only="tar@")) == {"tar@0.1"}


def test_pairs_of_known_people_are_compared_by_person() -> None:
    people = {"person_1": np.arange(200) // 8, "person_2": np.where(np.arange(200) % 2 == 0, np.arange(200) // 8, 30)}
    old, new = pairs(0, people), pairs(1, people)
    found = gains(old, new, resamples=200)["tar@0.1"]
    both = [
        intervals.resample_tar_by_group(
            one["items"]["score"], one["items"]["same"], *people.values(), 0.1, resamples=200
        )
        for one in (old, new)
    ]
    assert found["unit"] == "person" and (found["lo"], found["hi"]) == intervals.interval(both[1] - both[0])


def test_probes_are_compared_by_person() -> None:
    old, new = probes(0), probes(1)
    found = gains(old, new, resamples=300)
    assert set(found) == {"rank-1", "rank-2", "map"} and {one["unit"] for one in found.values()} == {"person"}
    hits = [one["items"]["position"] <= 2 for one in (old, new)]
    wanted = intervals.difference(*hits, groups=old["items"]["person"], resamples=300)
    assert {k: found["rank-2"][k] for k in wanted} == pytest.approx(wanted)


def test_watch_lists_are_compared_by_people_of_either_kind() -> None:
    generator = np.random.default_rng(0)
    both, drawn = [], []
    strangers = np.arange(80) // 2
    for _ in range(2):
        position, alike = generator.integers(1, 3, 60), generator.random(60).astype(np.float32)
        unmated = generator.random(80).astype(np.float32)
        person = np.arange(60) // 3
        found = open_set(Search(position, alike, position, alike), unmated, (0.2,), (1,), ASKED, (person, strangers))
        items = {"position": position, "mate_similarity": alike, "person": person}
        both.append({**found, "items": {**items, "unmated_similarity": unmated, "unmated_person": strangers}})
        hits = np.where(position <= 1, alike, -np.inf)[None]
        drawn.append(resample_tpir(hits, unmated, [0.2], (person, strangers), 100, 0)[:, 0, 0])
    gain = gains(*both, resamples=100)["tpir1@0.2"]
    assert gain["value"] == pytest.approx(both[1]["tpir1@0.2"]["value"] - both[0]["tpir1@0.2"]["value"])
    assert (gain["lo"], gain["hi"]) == intervals.interval(drawn[1] - drawn[0])


def test_lower_is_better_only_in_sign() -> None:
    old, new = ({**one, "fnmr@0.1": {"value": 1 - one["tar@0.1"]["value"]}} for one in (pairs(0), pairs(1)))
    found = gains(old, new, resamples=100)
    assert found["fnmr@0.1"]["value"] == pytest.approx(-found["tar@0.1"]["value"])
    assert (found["fnmr@0.1"]["lo"], found["fnmr@0.1"]["hi"]) == (-found["tar@0.1"]["hi"], -found["tar@0.1"]["lo"])


def test_p_values_are_uniform_where_nothing_differs() -> None:
    generator = np.random.default_rng(0)
    wrongly = 0
    for _ in range(200):
        position = generator.integers(1, 3, (2, 60))
        both = [
            {"rank-1": {"value": float((p <= 1).mean())}, "items": {"position": p, "person": np.arange(60)}}
            for p in position
        ]
        gain = gains(*both, resamples=200)["rank-1"]
        wrongly += gain["p"] < 0.05
    assert 0.01 <= wrongly / 200 <= 0.1
    same = gains(pairs(0), pairs(0), resamples=100)
    assert all(gain["value"] == gain["lo"] == gain["hi"] == 0 and gain["p"] == 1 for gain in same.values())


def test_figures_that_items_do_not_give_are_left_out() -> None:
    old, new = pairs(0), pairs(1)
    for one, shift in ((old, 0.0), (new, 0.1)):
        one["accuracy"] = {"value": one["accuracy"]["value"] + shift}  # such as the mean over other parts
        one["std"] = {"value": 0.1}
        one["tar@0.001"] = {"value": None}
    assert set(gains(old, new, 10)) == {"tar@0.1", "auc", "eer"}
    assert gains({"rank-1": {"value": 1.0}, "items": {}}, {"rank-1": {"value": 1.0}, "items": {}}, 10) == {}


def test_other_items_cannot_be_paired() -> None:
    old, new = pairs(0), pairs(1)
    assert unlike(old, new) == ""
    new["items"]["first"] = new["items"]["first"][::-1]
    assert unlike(old, new).startswith("'first' differs (the folders may hold other pictures")
    new["items"]["fold"] = new["items"]["fold"][:-1]
    assert unlike(old, new) == "'fold' differs: 200 items against 199"
    with pytest.raises(ValueError, match="lfw/112: the two results are not of the same items"):
        compare({"lfw": {"112": old}}, {"lfw": {"112": new}}, 10)
    assert "without its items" in unlike(old, {"accuracy": {}})
    assert "'score'" in unlike(old, {"items": {"position": np.arange(3)}})
    assert unlike({"auc": {}}, {"auc": {}}).startswith("neither was kept with items")
    assert compare({"lfw": {"112": old}}, {"lfw": {"14": new}, "other": {}}) == {}


BIN = {
    "protocol": "bin",
    "rules": {"flip": "none"},
    "settings": {"path": "/data/lfw.bin", "folds": 10, "low_res": [112]},
    "images": {"count": 12000, "sha256": "aa"},
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"settings": {"path": "/data/agedb_30.bin"}, "images": {"count": 12000, "sha256": "cc"}},
            "the set's path is 'lfw.bin' against 'agedb_30.bin'",
        ),
        ({"settings": {"path": "lfw.bin", "folds": 5}}, "the set's folds is 10 against 5"),
        ({"protocol": "pairs"}, "by the protocol 'bin', the other by 'pairs'"),
        ({"rules": {"flip": "each picture and its mirror image"}}, "mirrored faces: 'none' against 'each"),
        ({"images": {"count": 12000, "sha256": "bb"}}, "the pictures are others: their fingerprints differ"),
        ({"images": {"count": 11999, "sha256": "bb"}}, "the pictures are others: 12000 against 11999"),
        ({"settings": {"path": "elsewhere/lfw.bin", "low_res": [14]}}, ""),  # folds: 10 by default
        ({"settings": {"path": "lfw.bin", "counts": "any"}, "rules": {"flip": ""}}, ""),
        ({"protocol": "gone"}, "'gone'"),
    ],
)
def test_other_data_of_the_same_layout_cannot_be_paired(change: dict, said: str) -> None:
    other = {**BIN, **change}
    why = unlike_data(BIN, other)
    assert said in why and bool(why) == bool(said)
    old, new = {"lfw": {"112": pairs(0)}}, {"lfw": {"112": pairs(1)}}
    if said:
        with pytest.raises(ValueError, match="lfw/112: the two results are not of the same items"):
            compare(old, new, 10, abouts=({"lfw": BIN}, {"lfw": other}))
    else:
        assert compare(old, new, 10, abouts=({"lfw": BIN}, {"lfw": other})) == compare(old, new, 10)


def test_the_same_pictures_may_lie_in_a_folder_of_another_name() -> None:
    elsewhere = {**BIN, "settings": {**BIN["settings"], "path": ["other/name.bin"]}}
    assert unlike_data(BIN, elsewhere) == ""
    older = {key: value for key, value in elsewhere.items() if key != "images"}
    assert "'name.bin'" in unlike_data(BIN, older)
    assert unlike_data(BIN, {**older, "settings": {**BIN["settings"], "path": [BIN["settings"]["path"]]}}) == ""


def test_results_that_tell_less_are_not_refused() -> None:
    for older in ({}, {"protocol": "bin"}, {key: value for key, value in BIN.items() if key != "images"}):
        assert unlike_data(BIN, older) == unlike_data(older, BIN) == ""


def test_why_a_figure_cannot_be_paired(monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = pairs(0), pairs(1)
    for one in (old, new):
        one |= {key: {"value": 0.5} for key in ("std", "rank-1", "threshold@0.1")} | {"tar@0.001": {"value": None}}
    for key, said in (
        ("std", "no paired difference is known"),
        ("rank-1", "no position and person item by item"),
        ("threshold@0.1", "each model's own"),
        ("tar@0.001", "has no value"),
        ("gap", "no such figure"),
        ("auc", ""),
    ):
        assert said in untold(key, old, new) and bool(untold(key, old, new)) == bool(said)
    monkeypatch.setattr(intervals, "LARGE", 199)
    assert "more than 199 pairs" in untold("eer", old, new) and "eer" not in gains(old, new, 10)
    for one in (old, new):  # as of templates: DeLong's variance would be that of independent pairs
        one["items"] |= {"person_1": np.arange(200) // 8, "person_2": np.arange(200) // 8}
    assert set(gains(old, new, 10)) == {"accuracy", "tar@0.1"} and "share people" in untold("auc", old, new)


def test_holm_allows_for_how_many_were_looked_at() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []
