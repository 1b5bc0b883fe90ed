"""Thresholds at false accept rates with their intervals, and the rules by which everything was counted."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from recognition.evaluation.protocol import ITEMS
from recognition.evaluation.results import flip_words
from recognition.evaluation.sets import open_sets
from recognition.evaluation.verification import curve
from recognition.page.markup import Markup, br, element, join, note, table
from recognition.page.numbers import NONE, percent, power, short, side_words, sides_of
from recognition.page.runs import THRESHOLD, Run, Shown, impostors_of, part_of, parts_of, sets_of

FARS = tuple(10.0**-n for n in range(1, 7))
FEW = 10  # impostors above a threshold, below which it is a guess
FEW_WORDS = f"* rests on fewer than {FEW} impostor pairs; value and interval may be far off"
NO_TAR = (
    "no true accept rate: all images were compared across two resolutions, where an image may stand on both sides and "
    "is no other image of its person"
)


def thresholds(series: Sequence[Shown]) -> Markup:
    """The section of thresholds: a table for each model and set, a column for each FAR."""
    blocks: list[object] = [
        element("h2", "Thresholds", id="thresholds"),
        element(
            "p",
            "A pair is accepted where its similarity is at least the threshold, which is the lowest whose false accept "
            "rate is at most the one asked for. In brackets 95 % intervals; below each the true accept rate. A rate F "
            "needs 1/F impostor pairs at least, and ten times as many to be told well. Where a set tells who is on a "
            "picture, all strangers among its pictures were compared, otherwise the impostors among its pairs.",
        ),
    ]
    trained = [one for one in series if one.style] or list(series)
    for one in trained:
        tables = [made for name in sets_of([one]) if (made := _of_set(one, name)) is not None]
        if tables and len(trained) > 1:
            blocks.append(element("h3", one.run.name))
        blocks += tables
    if len(blocks) == 2:
        blocks.append(note("No set of pairs was evaluated, so there is no threshold to tell."))
    return element("section", *blocks, aria_labelledby="thresholds")


def rules(series: Sequence[Shown]) -> Markup:
    """The section on how each set is counted."""
    blocks: list[object] = [element("h2", "Rules of the protocols", id="rules")]
    for name in sets_of(series):
        one = next(one for one in series if name in one.results)
        protocol, told = _rules(one, name)
        blocks.append(element("h3", f"{name}: {protocol}" if protocol else name))
        rows = [[key, words] for key, words in told.items() if isinstance(words, str) and words]
        if rows:
            blocks.append(element("div", table(["rule", "what holds"], rows, label=f"rules of {name}"), class_="words"))
        else:
            blocks.append(note("Its rules are not told: the results hold none, and the set's files are not here."))
    if len(blocks) == 1:
        blocks.append(note("No set was evaluated."))
    return element("section", *blocks, aria_labelledby="rules")


def _of_set(one: Shown, name: str) -> Markup | None:
    rows, footnotes = [], {}
    for part in parts_of([one], name):
        found = part_of(one, name, part)
        told = {**_from_items(found), **_from_tar(found), **_told(found)}
        if "pairs" not in found and not told:
            continue
        impostors = impostors_of(found)
        cells: list[object] = []
        for far in FARS:
            entry = next((entry for at, entry in told.items() if abs(at / far - 1) < 1e-6), None)
            text, footnote = _cell(entry, far, impostors)
            cells.append(text)
            if footnote:
                footnotes.setdefault(footnote, []).append(f"{side_words(part)} at {power(far)}")
        sides = sides_of(part) or ("", 0, 0)
        untold = any("tar" not in entry and _value(entry) is not None for entry in _told(found).values())
        if untold and sides[1] != sides[2]:
            footnotes.setdefault(NO_TAR, []).append(side_words(part))
        rows.append([side_words(part), _strangers(told, impostors), *cells])
    if not rows:
        return None
    heads = ["part", "strangers", *(f"FAR {power(far)}" for far in FARS)]
    told_why = [
        element("li", f"{reason}: {', '.join(places) if len(places) <= 4 else f'{len(places)} cells'}")
        for reason, places in footnotes.items()
    ]
    whole = table(heads, rows, caption=name, label=f"thresholds of {one.name} on {name}")
    return join([element("div", whole, class_="tight"), element("ul", *told_why, class_="soft") if told_why else None])


def _told(part: Mapping) -> dict[float, Mapping]:
    """Thresholds with their intervals, as measures threshold@F, or by their rate under "thresholds"."""
    listed = part.get("thresholds")
    found = dict(listed) if isinstance(listed, Mapping) else {}
    for key, one in part.items():
        if key.startswith(THRESHOLD) and isinstance(one, Mapping):
            tar = {"value": one.get("tar"), "lo": one.get("tar_lo"), "hi": one.get("tar_hi")}
            found[key.removeprefix(THRESHOLD)] = {"threshold": one, "tar": tar, "reason": one.get("reason")}
    return {float(far): entry for far, entry in found.items() if isinstance(entry, Mapping)}


def _from_items(part: Mapping) -> dict[float, Mapping]:
    """Out of the pairs' scores, for rates that were not asked for; without intervals."""
    items = part.get(ITEMS, {})
    if not {"score", "same"} <= items.keys() or np.all(items["same"]) or not np.any(items["same"]):
        return {}
    rates = [far for far in FARS if far * np.sum(~np.asarray(items["same"], bool)) >= 1]
    found = curve(np.asarray(items["score"], np.float64), np.asarray(items["same"], bool), rates)["tar"]
    return {far: {"threshold": {"value": at["threshold"]}, "tar": {"value": at["tar"]}} for far, at in found.items()}


def _from_tar(part: Mapping) -> dict[float, Mapping]:
    """What older results tell: thresholds of the rates asked for, without intervals."""
    return {
        float(key.removeprefix("tar@")): {"threshold": {"value": one["threshold"]}, "far": one["far"], "tar": one}
        for key, one in part.items()
        if key.startswith("tar@") and isinstance(one, Mapping) and "threshold" in one
    }


def _cell(entry: Mapping | None, far: float, impostors: int) -> tuple[object, str]:
    """The cell, and its footnote: why it is empty, or how little it rests on."""
    impostors = (entry or {}).get("impostors", impostors)
    few = f"cannot be told with {short(impostors)} impostor pairs" if impostors and far * impostors < 1 else ""
    if entry is None:
        return NONE, few or "not asked for (evaluation.far)"
    if few or _value(entry) is None:
        return NONE, few or str(entry.get("reason") or "not told by the results")
    measure, footnote = entry["threshold"], ""
    value = f"{measure['value']:.3f}"
    if measure.get("lo") is not None and measure.get("hi") is not None:
        value += f" [{measure['lo']:.3f}, {measure['hi']:.3f}]"
    if impostors and far * impostors < FEW:
        value, footnote = f"{value} *", FEW_WORDS
    tar = entry.get("tar")
    if not isinstance(tar, Mapping) or tar.get("value") is None:
        return value, footnote
    return join([value, br(), element("span", f"TAR {percent(tar)}", class_="soft")]), footnote


def _value(entry: Mapping) -> float | None:
    measure = entry.get("threshold")
    return measure.get("value") if isinstance(measure, Mapping) else None


def _strangers(told: Mapping[float, Mapping], impostors: int) -> str:
    """How many pairs of strangers the thresholds rest on; some may rest on all of the set's, others on its pairs."""
    counts = [entry.get("impostors", impostors) for entry in told.values() if _value(entry) is not None]
    return " or ".join(short(n) for n in sorted({*counts} or {impostors}, reverse=True) if n) or NONE


def _rules(one: Shown, name: str) -> tuple[str, dict]:
    """The protocol's name and its rules: out of the results, or of the set's files."""
    about = one.run.about.get(name, {})
    if isinstance(about.get("rules"), Mapping):
        return str(about.get("protocol", "")), _with_flip(dict(about["rules"]), one.run)
    return _from_files(one.run, name)


def _from_files(run: Run, name: str) -> tuple[str, dict]:
    chosen = [one for one in run.config.evaluation.sets if one.get("name") == name]
    try:
        opened = open_sets({**run.config.evaluation, "sets": chosen[:1]}) if chosen else []
    except (OSError, ValueError):
        opened = []
    if not opened:
        return str(chosen[0].get("kind", "")) if chosen else "", {}
    told = dataclasses.asdict(opened[0].protocol.rules)
    return opened[0].kind, _with_flip(told, run)


def _with_flip(rules: dict, run: Run) -> dict:
    """What older results leave to the run's settings."""
    return {**rules, "flip": rules.get("flip") or flip_words(run.config.evaluation)}
