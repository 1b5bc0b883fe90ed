"""Histograms of similarity, gate and quality, and accuracy over quality and resolution."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recognition.page.bins import FEWEST, by_quality, told
from recognition.page.charts import Axis, Dot, Line, Row, histogram_line, interval_chart, line_chart
from recognition.page.markup import Markup, code, details, element, note
from recognition.page.numbers import short, side_words, sides_of
from recognition.page.runs import Shown, items_of, measures_of, part_of, parts_of, sets_of

BARS = 40


def scores(series: Sequence[Shown]) -> Markup:
    """The section on scores, gates and qualities."""
    blocks: list[object] = [element("h2", "Scores, gates and quality", id="scores")]
    blocks += [element("h3", "Similarity of genuine and impostor pairs"), *_similarities(series)]
    blocks += [element("h3", "Gate and quality of the images"), *_seen(series)]
    blocks += [element("h3", "Accuracy by quality"), *_by_quality(series)]
    charts = [chart for name in sets_of(series) if (chart := by_part_chart(series, name)) is not None]
    if charts:
        blocks += [element("h3", "Accuracy by part"), element("div", *charts, class_="charts")]
    return element("section", *blocks, aria_labelledby="scores")


def by_part_chart(series: Sequence[Shown], name: str) -> Markup | None:
    """The first measure of each part with its interval, base and runs beside each other."""
    rows, key = [], None
    for part in parts_of(series, name):
        dots = []
        for one in series:
            found = measures_of(part_of(one, name, part))
            key = key or next(iter(found), None)
            if key in found and "unit" not in found[key]:
                measure = found[key]
                dots.append(Dot(one.name, one.style, measure["value"], measure.get("lo"), measure.get("hi")))
        if dots:
            rows.append(Row(side_words(part), dots))
    return interval_chart(f"{name}: {key} by part", rows, Axis(str(key), shares=True)) if rows else None


def _similarities(series: Sequence[Shown]) -> list[Markup]:
    places = [
        (name, part)
        for name in sets_of(series)
        for part in parts_of(series, name)
        if any({"score", "same"} <= items_of(one, name, part).keys() for one in series)
    ]
    if not places:
        return [note("No set of pairs was evaluated.")]
    blocks = []
    for one in series:
        charts = [_similarity(one, name, part) for name, part in places if "score" in items_of(one, name, part)]
        if charts:
            blocks.append(details(one.name, element("div", *charts, class_="charts"), opened=one is series[-1]))
    return blocks


def _similarity(one: Shown, name: str, part: str) -> Markup:
    items = items_of(one, name, part)
    score, same = np.asarray(items["score"], np.float64), np.asarray(items["same"], bool)
    cosines = score[score >= -1.0]  # below stand pairs that could not be compared; they fall into the first bar
    least, most = float(cosines.min(initial=-0.4)), float(cosines.max(initial=1.0))
    edges = np.linspace(least, most, BARS + 1)
    lines = [
        histogram_line("impostor", 2, score[~same], edges),
        histogram_line("genuine", 1, score[same], edges),
    ]
    y = Axis("share of pairs", least=0.0, shares=True)
    counts = f"{short(int(same.sum()))} genuine, {short(int((~same).sum()))} impostor pairs."
    x = Axis("similarity (cosine)", least=least, most=most)
    return line_chart(f"{name}, {side_words(part)}", lines, x, y, remark=counts)


def _seen(series: Sequence[Shown]) -> list[Markup]:
    charts = []
    trained = [one for one in series if one.style] or list(series)
    for one in trained:  # of a base its run's own gate and scorer would be shown again
        for name in sets_of([one]):
            for what in ("gate", "quality"):
                by_side = _by_side(one, name, what)
                if by_side:
                    which = "" if len(trained) == 1 else f"{one.name}, "
                    charts.append(_seen_chart(f"{which}{name}: {what}", what, by_side))
    if charts:
        return [
            element("p", "By the resolution at which an image was shown; every image once for each part it is in."),
            element("div", *charts, class_="charts"),
        ]
    return _untold(series, "the gate and quality of its images", sets_of(series))


def _untold(series: Sequence[Shown], what: str, names: Sequence[str]) -> list[Markup]:
    """Why no results tell it on these sets, and what helps where something does. Bases are as their runs are."""
    trained = [one for one in series if one.style]
    if not trained:
        return [note("There are no results of a trained model yet.")]
    gated = [one for one in trained if one.run.gated]
    if not gated:
        models = f"{trained[0].name} has" if len(trained) == 1 else "These models have"
        return [note(f"{models} neither a gate nor a quality scorer, so nothing tells {what}.")]
    notes = []
    for one in gated:
        older = [name for name in names if name in one.results and "rules" not in one.run.about.get(name, {})]
        if older:
            again = code(f"python tools/evaluate.py {one.run.path}")
            told = f"The results of {one.name} do not tell {what}: an older evaluation wrote them. "
            notes.append(note(told, again, " evaluates again and keeps it."))
    kept = [name for name in names if any("rules" in one.run.about.get(name, {}) for one in gated)]
    if not notes and kept:
        notes.append(note(f"The protocols of {', '.join(kept)} keep no gate or quality of single images."))
    return notes or [note("No set was evaluated.")]


def _by_side(one: Shown, name: str, what: str) -> dict[str, np.ndarray]:
    """Values by resolution; a part that is no resolution stands for itself."""
    found: dict[str, np.ndarray] = {}
    for part in parts_of([one], name):
        items = items_of(one, name, part)
        told_sides = sides_of(part)
        sides = [f"{side} px" for side in told_sides[1:]] if told_sides else [part]
        for key, side in ((f"{what}_1", sides[0]), (f"{what}_2", sides[-1]), (what, sides[-1])):
            if key in items and np.ndim(items[key]) == 1:
                values = np.asarray(items[key], np.float64)
                found[side] = np.append(found.get(side, np.empty(0)), values[np.isfinite(values)])
    order = sorted(found, key=lambda side: -int(side[:-3]) if side.endswith(" px") else 0)
    return {side: found[side] for side in order if len(found[side])}


def _seen_chart(title: str, what: str, by_side: dict[str, np.ndarray]) -> Markup:
    everything = np.concatenate(list(by_side.values()))
    low, high = (0.0, 1.0) if what == "gate" else np.quantile(everything, [0.001, 0.999])
    edges = np.linspace(low, high if high > low else low + 1, BARS + 1)
    lines: list[Line] = [
        histogram_line(side, number, values, edges, area=False)
        for number, (side, values) in enumerate(by_side.items(), start=1)
    ]
    label = "gate (1 = high quality)" if what == "gate" else "quality score (higher = better)"
    return line_chart(title, lines, Axis(label), Axis("share of images", least=0.0, shares=True))


def _by_quality(series: Sequence[Shown]) -> list[Markup]:
    charts, problems, small = [], [], []
    for name in sets_of(series):
        parts = parts_of(series, name)
        ruler = next((one for one in series if told(one.results, name, parts)), None)
        if ruler is None:
            problems.append(name)
            continue
        chart = quality_chart(series, ruler, name)
        if chart is not None:
            charts.append(chart)
        else:
            small.append(note(f"{name}: fewer than {FEWEST} pairs or probes in a fifth, too few to tell."))
    blocks: list[Markup] = []
    if charts:
        blocks.append(
            element(
                "p",
                "Pairs by the quality of their worse image, probes by their own, in fifths over all parts of the set: "
                "from the worst fifth down to the best. Intervals draw whole pairs, or people.",
            )
        )
        blocks.append(element("div", *charts, class_="charts"))
    blocks += small
    if problems:
        blocks += _untold(series, f"image quality on {', '.join(problems)}", problems)
        if any(by_part_chart(series, name) is not None for name in problems):
            blocks.append(note("By resolution instead: below."))
    return blocks or [note("There are no results yet.")]


def quality_chart(series: Sequence[Shown], ruler: Shown, name: str) -> Markup | None:
    """Accuracy, or rank-1, in fifths of quality, all models by the same ruler; None where they have other items."""
    parts = parts_of(series, name)
    found = {one.name: (one, bins) for one in series if (bins := by_quality(one.results, ruler.results, name, parts))}
    if not found:
        return None
    first = next(iter(found.values()))[1]
    what = told(ruler.results, name, parts)
    rows = []
    for number, place in enumerate(first):
        dots = [
            Dot(one.name, one.style, bins[number].value, bins[number].lo, bins[number].hi)
            for one, bins in found.values()
            if number < len(bins)
        ]
        rows.append(Row(f"{place.least:.3g} to {place.most:.3g}", dots))
    probes = any("position" in items_of(ruler, name, part) for part in parts)
    kind, each = ("rank-1", "probes") if probes else ("accuracy", "pairs")
    remark = f"About {short(first[0].count)} {each} in each fifth; {what} by {ruler.name}."
    return interval_chart(f"{name}: {kind} by {what}", rows, Axis(kind, shares=True), remark=remark)
