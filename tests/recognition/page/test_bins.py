from __future__ import annotations

import numpy as np

from recognition.page.bins import by_quality, told

QUALITY = np.arange(100.0)


def results(correct: np.ndarray, *, quality: bool = True, **more: np.ndarray) -> dict:
    seen = {"quality_1": QUALITY, "quality_2": QUALITY[::-1] * 0 + 200} if quality else {}
    return {"set": {"112": {"items": {"correct": correct, "same": correct >= 0, **seen, **more}}, "gaps": {}}}


def test_fifths_of_the_worse_image() -> None:
    correct = np.arange(100) % 20 < np.repeat([4, 8, 12, 16, 20], 20)  # 20, 40, ... 100 % right in the fifths
    found = by_quality(results(correct), results(correct), "set", ["112", "gaps"])
    assert [one.value for one in found] == [0.2, 0.4, 0.6, 0.8, 1.0] and [one.count for one in found] == [20] * 5
    assert found[0].lo < 0.2 < found[0].hi and found[-1].lo == found[-1].hi == 1.0


def test_another_models_quality_is_a_ruler_for_the_same_items_only() -> None:
    correct = QUALITY >= 20
    base = results(correct, quality=False)
    assert told(base, "set", ["112"]) == "" and told(results(correct), "set", ["112", "gaps"]) == "quality"
    assert [one.value for one in by_quality(base, results(correct), "set", ["112"])] == [0, 1, 1, 1, 1]
    other = results(correct[:50], quality=False)
    assert by_quality(other, results(correct), "set", ["112"]) == []


def test_pictures_without_a_face_have_no_quality() -> None:
    seen = QUALITY.copy()
    seen[:50] = np.nan
    found = by_quality(*[results(QUALITY >= 0, quality_1=seen)] * 2, "set", ["112"])
    assert [one.count for one in found] == [10] * 5


def test_people_are_drawn_whole() -> None:
    position, person = np.tile([1, 9], 50), np.repeat(np.arange(5), 20)
    items = {"position": position, "person": person, "gate": QUALITY / 100}
    found = by_quality(*[{"set": {"112": {"items": items}}}] * 2, "set", ["112"])
    assert told({"set": {"112": {"items": items}}}, "set", ["112"]) == "gate"
    assert all(one.value == one.lo == one.hi == 0.5 for one in found)  # each person is half right
