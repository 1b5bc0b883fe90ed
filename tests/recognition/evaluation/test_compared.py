"""Pairs and probes at several resolutions: items for pictures, and thresholds from all pairs of strangers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recognition.data.pairs import PairSet
from recognition.evaluation import compared
from recognition.evaluation.compared import Compared, sides
from recognition.evaluation.measures import quality_of
from recognition.evaluation.protocol import Asked, Looked, Protocol

ASKED = Asked(far=(0.5,), ranks=(1,), resamples=30)


def a_set(people: np.ndarray | None, low_res: list) -> Compared:
    """Twelve images of four people: six pairs, three of them genuine, in two folds."""
    images = [bytes([i]) for i in range(12)]
    first, second = np.array([0, 3, 6, 1, 4, 7]), np.array([1, 4, 7, 5, 8, 11])
    same = np.array([True, True, True, False, False, False])
    pairs = PairSet("toy", images, first, second, same)
    return Compared(images, first, second, sides(low_res), pairs, np.array([0, 1, 0, 0, 1, 1]), people=people)


def seen(one: Compared, seed: int = 0) -> dict[str, Looked]:
    """Random embeddings for every view, with a quality and a gate that tell image and side."""
    generator = np.random.default_rng(seed)
    found = {}
    for key, view in one.views.items():
        embedding = torch.from_numpy(generator.normal(size=(len(view.rows), 6)).astype(np.float32))
        tells = (100 * view.side + view.rows).astype(np.float32)
        found[key] = Looked(embedding, tells, tells / 1e5)
    return found


def test_it_is_a_protocol_and_embeds_nothing_in_vain() -> None:
    one = a_set(None, [112, [112, 14]])
    assert isinstance(one, Protocol)
    assert {key: view.rows.tolist() for key, view in one.views.items()} == {
        "112": [0, 1, 3, 4, 5, 6, 7, 8, 11],
        "14": [1, 4, 5, 7, 8, 11],
    }


def test_items_tell_image_quality_and_gate_of_both_sides() -> None:
    one = a_set(None, [[112, 14]])
    part = one.measure(seen(one), ASKED)["112-14"]
    items = part["items"]
    assert items["first"].tolist() == [0, 3, 6, 1, 4, 7] and items["second"].tolist() == [1, 4, 7, 5, 8, 11]
    np.testing.assert_array_equal(items["quality_1"], 11200 + items["first"])
    np.testing.assert_array_equal(items["quality_2"], 1400 + items["second"])
    np.testing.assert_allclose(items["gate_2"], (1400 + items["second"]) / 1e5, rtol=1e-6)
    assert "thresholds" not in part  # who is on the images is not known


def test_quality_of_a_failure_is_not_a_number() -> None:
    looked = Looked(torch.eye(3), np.array([5, 6, 7], np.float32), np.array([0.5, 0.6, 0.7], np.float32))
    found = quality_of(looked, np.array([2, -1, 0]), "_1")
    np.testing.assert_array_equal(found["quality_1"], np.float32([7, np.nan, 5]))
    np.testing.assert_array_equal(found["gate_1"], np.float32([0.7, np.nan, 0.5]))
    several = Looked(torch.eye(3), np.ones((3, 2), np.float32))
    assert quality_of(several, np.array([0])) == {}


@pytest.mark.parametrize("low_res", [[112], [[112, 14]]])
def test_thresholds_come_from_all_pairs_of_strangers(low_res: list) -> None:
    people = np.repeat([5, 6, 7, 8], 3)
    one = a_set(people, low_res)
    looked = seen(one)
    part = one.measure(looked, ASKED)[compared.side_name(*one.sides[0])]
    gallery, probe = (str(side) for side in one.sides[0])
    vectors = {key: look.embedding.double().numpy() for key, look in looked.items()}
    unit = {key: v / np.linalg.norm(v, axis=1, keepdims=True) for key, v in vectors.items()}
    strangers = []
    for i, a in enumerate(one.views[probe].rows):
        for j, b in enumerate(one.views[gallery].rows):
            if people[a] != people[b] and (gallery != probe or i < j):
                strangers.append(float(unit[probe][i] @ unit[gallery][j]))
    strangers = np.sort(strangers)[::-1]
    table = part["thresholds"]
    assert set(table) == {"0.1", "0.01", "0.001", "0.0001", "1e-05", "1e-06"}
    allowed = int(0.1 * len(strangers))
    assert table["0.1"]["impostors"] == len(strangers) and allowed >= 2
    threshold = table["0.1"]["threshold"]["value"]
    assert threshold == pytest.approx(strangers[allowed - 1], abs=1e-6)  # similarities are float32
    assert table["0.1"]["threshold"]["lo"] <= threshold <= table["0.1"]["threshold"]["hi"]
    assert table["1e-06"]["threshold"]["value"] is None and "1,000,000 impostor pairs" in table["1e-06"]["reason"]
    assert ("tar" in table["0.1"]) == (gallery == probe)


def test_many_images_get_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compared, "MOST_FOR_THRESHOLDS", 5)
    one = a_set(np.repeat([5, 6, 7, 8], 3), [112])
    assert one.measure(seen(one), ASKED)["112"]["thresholds"] == {}


def test_pairs_are_scored_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    one = a_set(None, [112])
    whole = one.measure(seen(one), ASKED)["112"]["items"]["score"]
    monkeypatch.setattr(compared, "BLOCK", 4)
    np.testing.assert_array_equal(one.measure(seen(one), ASKED)["112"]["items"]["score"], whole)
