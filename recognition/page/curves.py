"""ROC, DET and CMC of every set and part, and error over discard where a run has measured it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from recognition.page.charts import Axis, Line, line_chart
from recognition.page.markup import Markup, code, element, note
from recognition.page.numbers import side_words
from recognition.page.runs import Run, Shown, impostors_of, items_of, measures_of, part_of, parts_of, sets_of

ROC, OPEN_SET = "roc", "open_set"
DRAWN_APART = (ROC, OPEN_SET, "items", "thresholds", "about")
RANKS = 100  # of a CMC, at most


def curves(series: Sequence[Shown], runs: Sequence[Run]) -> Markup:
    """The section with all curves of results."""
    blocks: list[object] = [element("h2", "Curves", id="curves")]
    places = [(name, part) for name in sets_of(series) for part in parts_of(series, name)]
    for title, told, make in (
        ("ROC", "True accepts over false accepts; bars are 95 % intervals. Shaded: less than one impostor.", roc_chart),
        ("DET", "What the ROC hides near its top: false rejects, logarithmic too.", det_chart),
        ("CMC", "Share of probes whose mate is among the first so many of the gallery.", cmc_chart),
    ):
        charts = [chart for place in places if (chart := make(series, *place)) is not None]
        blocks.append(element("h3", title))
        if charts:
            blocks += [element("p", told), element("div", *charts, class_="charts")]
        else:
            what = "identification" if title == "CMC" else "verification"
            blocks.append(note(f"No set of {what} was evaluated."))
    opened = [chart for place in places if (chart := open_set_chart(series, *place)) is not None]
    if opened:
        told = "Watch lists: share of listed people found, over the share of others taken for one of them."
        blocks += [element("h3", "TPIR over FPIR"), element("p", told), element("div", *opened, class_="charts")]
    blocks += [element("h3", "Error over discard"), *_discard(series, runs)]
    others = [chart for place in places for chart in _others(series, *place)]
    if others:
        blocks += [element("h3", "Other curves"), element("div", *others, class_="charts")]
    return element("section", *blocks, aria_labelledby="curves")


def roc_chart(series: Sequence[Shown], name: str, part: str) -> Markup | None:
    """TAR over FAR; None where the part has none."""
    lines = [
        Line(one.name, one.style, roc["far"], roc["tar"], step=True, bars=_bars(part_of(one, name, part)))
        for one in series
        if (roc := _roc(one, name, part))
    ]
    if not lines:
        return None
    steps = [line.x[0] for line in lines]
    least = 10.0 ** math.floor(math.log10(min(steps)))
    x = Axis("false accept rate", log=True, least=least, most=1.0)
    y = Axis("true accept rate", least=0.0, most=1.0, shares=True)
    return line_chart(f"{name}, {side_words(part)}", lines, x, y, unknown=min(steps))


def det_chart(series: Sequence[Shown], name: str, part: str) -> Markup | None:
    """FNMR over FAR, both logarithmic; None where the part has no ROC, or no error at any rate."""
    lines, floor = [], 1.0
    for one in series:
        roc = _roc(one, name, part)
        if not roc:
            continue
        missed = [max(0.0, 1 - tar) for tar in roc["tar"]]
        floor = min([floor, *(m for m in missed if m > 0)])
        lines.append(Line(one.name, one.style, roc["far"], missed, step=True))
    if not lines or floor == 1.0:
        return None
    least = 10.0 ** math.floor(math.log10(min(line.x[0] for line in lines)))
    x = Axis("false accept rate", log=True, least=least, most=1.0)
    y = Axis("false reject rate", log=True, least=floor / 1.5, most=1.0)
    return line_chart(f"{name}, {side_words(part)}", lines, x, y, unknown=min(line.x[0] for line in lines))


def cmc_chart(series: Sequence[Shown], name: str, part: str) -> Markup | None:
    """Share found by rank; None where the part's items hold no positions."""
    lines = []
    for one in series:
        position = items_of(one, name, part).get("position")
        if position is None:
            continue
        last = int(min(RANKS, part_of(one, name, part).get("gallery", RANKS)))
        ranks = np.arange(1, max(2, last) + 1)
        share = np.searchsorted(np.sort(position), ranks, side="right") / len(position)
        bars = [
            (float(key.removeprefix("rank-")), m["value"], m["lo"], m["hi"])
            for key, m in measures_of(part_of(one, name, part)).items()
            if key.startswith("rank-") and m.get("lo") is not None and float(key.removeprefix("rank-")) <= last
        ]
        lines.append(Line(one.name, one.style, ranks.tolist(), share.tolist(), step=True, bars=bars))
    if not lines:
        return None
    y = Axis("found", least=0.0, most=1.0, shares=True)
    return line_chart(f"{name}, {side_words(part)}", lines, Axis("rank", log=True, least=1.0), y)


def open_set_chart(series: Sequence[Shown], name: str, part: str) -> Markup | None:
    """TPIR over FPIR; None where the part has none."""
    lines, rank = [], ""
    for one in series:
        columns = _columns(part_of(one, name, part).get(OPEN_SET))
        found = next((key for key in columns if key.startswith("tpir")), None)
        if found is None or "fpir" not in columns:
            continue
        rank = found.removeprefix("tpir")
        known = [(x, y) for x, y in zip(columns["fpir"], columns[found], strict=True) if x > 0]
        x, y = zip(*known, strict=True) if known else ((), ())
        bars = [
            (float(key.partition("@")[2]), m["value"], m["lo"], m["hi"])
            for key, m in measures_of(part_of(one, name, part)).items()
            if key.startswith(f"{found}@") and m.get("lo") is not None
        ]
        if known:
            lines.append(Line(one.name, one.style, x, y, step=True, bars=bars))
    if not lines:
        return None
    first = min(line.x[0] for line in lines)
    least = 10.0 ** math.floor(math.log10(first))
    among = f" (rank {rank})" if rank else ""
    x_axis = Axis("false positive identification rate", log=True, least=least, most=1.0)
    y_axis = Axis(f"true positive identification rate{among}", least=0.0, most=1.0, shares=True)
    return line_chart(f"{name}, {side_words(part)}", lines, x_axis, y_axis, unknown=first)


def _discard(series: Sequence[Shown], runs: Sequence[Run]) -> list[Markup]:
    places = [(name, part) for name in sets_of(series) for part in parts_of(series, name)]
    charts = [chart for place in places for chart in _part_discard(series, *place)]
    for run in runs:
        for name, found in run.quality.items():
            for least, part in found["from"].items():
                for far, at in part["far"].items():
                    share = at["share"]
                    lines = [
                        Line(label, number, share, one["curve"])
                        for number, (label, one) in enumerate(_best(at["scorers"]), start=1)
                    ]
                    lines.append(Line("ideal", 0, share, at["ideal"]["curve"]))
                    which = f"{run.name}, " if len(runs) > 1 else ""
                    title = f"{which}{name} from {least} px, FAR {far}"
                    x = Axis("genuine pairs discarded", shares=True)
                    charts.append(line_chart(title, lines, x, Axis("false reject rate", shares=True)))
    if charts:
        told = "Genuine pairs of the lowest quality discarded first; of many scorers the six with the least area."
        return [element("p", told), element("div", *charts, class_="charts")]
    example = code(f"python tools/evaluate.py {runs[0].path} --edc")
    begins = "Not measured: " if runs[0].finished else "Not measured. Once training has come to an end, "
    return [note(begins, example, " compares quality scorers on the model's errors.")]


def _part_discard(series: Sequence[Shown], name: str, part: str) -> list[Markup]:
    """Curves of the protocol edc: a chart for each FAR, all models and qualities in it."""
    keys = dict.fromkeys(key for one in series for key in part_of(one, name, part) if key.startswith("edc@"))
    charts = []
    for far in dict.fromkeys(key.removeprefix("edc@").partition("_")[0] for key in keys):
        lines = []
        for one in series:
            for key in (key for key in keys if key.removeprefix("edc@").partition("_")[0] == far):
                columns = _columns(part_of(one, name, part).get(key))
                if {"share", "fnmr"} <= columns.keys():
                    which = key.partition("_")[2]
                    label = f"{one.name}, {which}" if which else one.name
                    lines.append(Line(label, len(lines) + 1, columns["share"], columns["fnmr"]))
            ideal = _columns(part_of(one, name, part).get(f"edc_ideal@{far}"))
            if {"share", "fnmr"} <= ideal.keys():
                lines.append(Line(f"{one.name}, ideal", len(lines) + 1, ideal["share"], ideal["fnmr"]))
        if lines:
            x = Axis("genuine pairs discarded", shares=True)
            title = f"{name}, {side_words(part)}, FAR {far}"
            charts.append(line_chart(title, lines, x, Axis("false reject rate", shares=True)))
    return charts


def _best(scorers: dict[str, dict]) -> list[tuple[str, dict]]:
    return sorted(scorers.items(), key=lambda each: each[1]["pauc"]["value"])[:6]


def _others(series: Sequence[Shown], name: str, part: str) -> list[Markup]:
    """Curves that a protocol gives beside the ROC: dicts of two lists of one length, x first."""
    keys = dict.fromkeys(key for one in series for key, value in part_of(one, name, part).items() if _is_curve(value))
    charts = []
    for key in (key for key in keys if key not in DRAWN_APART and not key.startswith("edc")):
        lines, axes = [], ("", "")
        for one in series:
            columns = _columns(part_of(one, name, part).get(key))
            if len(columns) >= 2:
                axes = tuple(list(columns)[:2])
                lines.append(Line(one.name, one.style, *(columns[axis] for axis in axes), step=True))
        x = Axis(axes[0], log=axes[0] in ("far", "fpir") and all(v > 0 for line in lines for v in line.x))
        charts.append(line_chart(f"{name}, {side_words(part)}: {key}", lines, x, Axis(axes[1])))
    return charts


def _is_curve(value: object) -> bool:
    return len(_columns(value)) >= 2


def _columns(value: object) -> dict[str, list[float]]:
    """The columns of a curve: lists of as many numbers each; empty for what is none."""
    if not isinstance(value, dict) or "value" in value:
        return {}
    lists = {key: one for key, one in value.items() if isinstance(one, list) and len(one) > 1}
    first = next(iter(lists.values()), [])
    whole = all(len(one) == len(first) and all(isinstance(v, int | float) for v in one) for one in lists.values())
    return lists if whole else {}


def _roc(series: Shown, name: str, part: str) -> dict | None:
    roc = part_of(series, name, part).get(ROC)
    return roc if isinstance(roc, dict) and roc.get("far") and roc.get("tar") else None


def _bars(part: dict) -> list[tuple[float, float, float, float]]:
    found = []
    for key, one in measures_of(part).items():
        if key.startswith("tar@") and one.get("lo") is not None:
            far = float(key.removeprefix("tar@"))
            impostors = impostors_of(part)
            if impostors and far * impostors >= 1:
                found.append((far, one["value"], one["lo"], one["hi"]))
    return found
