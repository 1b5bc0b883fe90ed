"""The head of the page, its figures in short, and what was gained and forgotten on every set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recognition.evaluation import gains as paired
from recognition.evaluation.protocol import ITEMS
from recognition.page.bins import resamples_for
from recognition.page.charts import Axis, Dot, Row, interval_chart
from recognition.page.markup import Markup, code, details, element, join, note, table
from recognition.page.numbers import date, percent, points, short, side_words, verdict
from recognition.page.runs import Run, Shown, base_of, measures_of, part_of, parts_of, sets_of

LOWER = ("eer", "fnmr", "fmr", "pauc", "relative_pauc", "accuracy_std", "milliseconds", "ms", "gap")

Gains = dict[str, dict[str, dict]]


def head(runs: Sequence[Run]) -> Markup:
    """Name, one sentence, date and versions of each run."""
    title = "Report of " + (f"the run {runs[0].name}" if len(runs) == 1 else f"{len(runs)} runs")
    lead = None
    if len(runs) > 1:
        lead = element("p", "Side by side; differences are from the first, ", element("strong", runs[0].name), ".")
    return element("header", element("h1", title), lead, *(_introduced(run, len(runs) > 1) for run in runs))


def gains_of(series: Sequence[Shown]) -> tuple[list[tuple[Shown, Shown, Gains]], list[str]]:
    """(base, adapted, differences) of every trained model that has a base here, and what cannot be compared and why."""
    found, problems = [], []
    for one in series:
        if one.style == 0:
            continue
        base = base_of(one, series)
        if base is None:
            again = code(f"python tools/evaluate.py {one.run.path} --base")
            problems.append(join([f"{one.run.name}: its base was not evaluated; ", again, " does it."]))
            continue
        gained, why = differences(base, one)
        found.append((base, one, gained))
        problems += [f"{one.run.name} and its base, {text}" for text in why]
    return found, problems


def differences(before: Shown, after: Shown) -> tuple[Gains, list[str]]:
    """Paired differences by set, part and measure; and a sentence for each part that cannot be paired."""
    found: Gains = {}
    problems = []
    for name in (n for n in before.results if n in after.results):
        if why := paired.unlike_data(*(one.run.about.get(name, {}) for one in (before, after))):
            problems.append(f"{name}: not of the same data ({why}).")
            continue
        for part in (p for p in before.results[name] if p in after.results[name]):
            old, new = part_of(before, name, part), part_of(after, name, part)
            if not old.get(ITEMS) and not new.get(ITEMS):
                continue  # figures made of other parts, such as gaps between groups
            if why := paired.unlike(old, new):
                problems.append(f"{name} {side_words(part)}: not of the same items ({why}).")
                continue
            size = max(len(array) for array in old[ITEMS].values())
            found.setdefault(name, {})[part] = paired.gains(old, new, resamples_for(size))
    return found, problems


def in_short(series: Sequence[Shown], gains: Sequence[tuple[Shown, Shown, Gains]]) -> Markup:
    """A box: each set's first figure, base against adapted, and the differences at one glance."""
    parts_shown: list[object] = [element("h2", "In short", id="short")]
    if not series:
        parts_shown.append(note("There are no results yet; the note above says how to get them."))
        return element("section", *parts_shown, class_="box", aria_labelledby="short")
    parts_shown += [element("p", _verdict(*one)) for one in gains]
    tiles = [_tile(series, name) for name in sets_of(series)]
    parts_shown.append(element("ul", *(tile for tile in tiles if tile is not None), class_="tiles"))
    charts = [chart for name in sets_of(series) if (chart := _forest(name, gains)) is not None]
    if charts:
        parts_shown.append(element("div", *charts, class_="charts"))
    return element("section", *parts_shown, class_="box", aria_labelledby="short")


def forgetting(series: Sequence[Shown], gains: Sequence[tuple[Shown, Shown, Gains]], problems: Sequence[str]) -> Markup:
    """Base against adapted on every set, part and measure; and every run against the first one."""
    blocks: list[object] = [element("h2", "Gained and forgotten", id="forgetting")]
    if not any(one.style for one in series):
        blocks.append(note("There are no results of a trained model yet, so there is nothing to compare."))
        return element("section", *blocks, aria_labelledby="forgetting")
    blocks += [
        element(
            "p",
            "Per cent with 95 % bootstrap intervals; differences in points, paired on the same pairs or probes. "
            "A difference is called better or worse where its interval excludes zero.",
        ),
        *(note(problem) for problem in problems),
    ]
    for base, one, found in gains:
        blocks.append(element("h3", f"{one.run.name} against its base"))
        folders = base.run.path / "report" / "before", one.run.path / "report" / "after"
        blocks.append(_by_chance(base, one, found, folders))
        blocks.append(_difference_table(base, one, found, ("base", "adapted"), f"{one.run.name} against its base"))
    first = next((one for one in series if one.style), None)
    for other in (one for one in series if one.style and one is not first):
        title = f"{other.run.name} against {first.run.name}"
        blocks.append(element("h3", title))
        found, why = differences(first, other)
        blocks += [note(text) for text in why]
        blocks.append(_by_chance(first, other, found, (first.run.path, other.run.path)))
        blocks.append(_difference_table(first, other, found, (first.run.name, other.run.name), title))
    if not gains and first is not None:
        blocks.append(_difference_table(first, first, {}, (first.name, ""), first.run.name))
    return element("section", *blocks, aria_labelledby="forgetting")


def _by_chance(before: Shown, after: Shown, gains: Gains, folders: tuple[Path, Path]) -> Markup | None:
    """How many differences were looked at, and how many of the marked ones may be chance."""
    words = [
        verdict(gain, less_is_better(key, part_of(after, name, part)[key]))
        for name, parts in gains.items()
        for part, measures in parts.items()
        for key, gain in measures.items()
    ]
    looked_at, marked = sum(map(bool, words)), words.count("better") + words.count("worse")
    if not looked_at:
        return None
    return element(
        "p",
        f"{looked_at} differences were looked at, and {marked} of them are marked; at 5 % about {0.05 * looked_at:.1f} "
        "would be by chance alone, were there no difference at all. ",
        code(f"python tools/compare_runs.py {folders[0]} {folders[1]}"),
        " tells p-values adjusted for their number (Holm).",
    )


def _difference_table(before: Shown, after: Shown, gains: Gains, names: tuple[str, str], label: str) -> Markup:
    alone = before is after
    heads = ["part", "measure", names[0]] + ([] if alone else [names[1], "difference", "verdict"])
    tables = []
    for name in sets_of([before, after]):
        rows, marks = [], []
        for part in parts_of([before, after], name):
            old, new = (measures_of(part_of(one, name, part)) for one in (before, after))
            for key in dict.fromkeys([*old, *new]):
                if before.style and not (key in old and key in new):
                    continue  # two runs are compared on what both were evaluated on
                gain = gains.get(name, {}).get(part, {}).get(key)
                said = verdict(gain, less_is_better(key, new.get(key) or old[key]))
                row: list[object] = [side_words(part), key, percent(old.get(key))]
                if not alone:
                    row += [percent(new.get(key)), points(gain), said]
                rows.append(row)
                marks.append(said if said in ("better", "worse") else "")
        if rows:
            tables.append(_marked(table(heads, rows, caption=name, marks=marks, label=f"{label}: {name}")))
    return join(tables or [note("There is no figure that both were evaluated by.")])


def _marked(text: Markup) -> Markup:
    """The verdict's cells get their class, for the colour; the word says it too."""
    for word in ("better", "worse"):
        text = Markup(text.replace(f"<td>{word}</td>", f'<td class="verdict">{word}</td>'))
    return text


def less_is_better(key: str, measure: dict) -> bool:
    """True for errors, times and gaps: those that say so, and those known by name."""
    return measure.get("better") == "lower" or key.startswith(LOWER) or key.endswith("_gap")


def _introduced(run: Run, several: bool) -> Markup:
    told = run.provenance
    times = [line["time"] for line in run.lines if isinstance(line.get("time"), int | float)]
    versions = [f"LRFace {told['lrface']}" if "lrface" in told else None]
    commit = str(told.get("commit", ""))
    versions += [commit if " " in commit else f"commit {commit}" if commit else None]  # or why there is none
    skip = ("lrface", "commit", "records")
    versions += [f"{key} {value}" for key, value in told.items() if isinstance(value, str) and key not in skip]
    days = f"Trained {date(min(times))} to {date(max(times))}. " if times else ""
    listed = ", ".join(v for v in versions if v)
    told_versions = element("p", days, f"{listed}." if listed else "No versions are told.", class_="soft")
    name = join([element("strong", run.name), ": "]) if several else None
    return join(
        [
            element("p", name, _sentence(run)),
            details(f"Date and versions of {run.name}", told_versions) if several else told_versions,
            *(note(text) for text in run.notes),
        ]
    )


def _sentence(run: Run) -> Markup:
    config, size = run.config, run.summary
    base, records = config.backbone.get("weights", ""), config.data.records
    records = [records] if isinstance(records, str) else records
    words: list[object] = ["A ", code(config.backbone.name)]
    words += [" started from ", code(base)] if base else [" trained from random weights"]
    words += [", with the adapter ", code(_called(config.adapter)), " trained" if base else ""]
    words += [" on ", join((code(one) for one in records), ", "), " with the margin ", code(_called(config.margin))]
    if config.objectives:
        words += [" and ", join((code(_called(one)) for one in config.objectives), ", ")]
    if size:
        minutes = size.get("train_seconds", 0) / 60
        share = 100 * size["trainable_parameters"] / max(1, size["parameters"])
        words += [
            f": {short(size['updates'])} updates in {minutes:.1f} minutes; {size['trainable_parameters']:,} of "
            f"{size['parameters']:,} parameters ({share:.1f} %) were trained"
        ]
    return join([*words, "."])


def _called(section: dict) -> str:
    """A plugin with what was chosen for it: lora rank=16."""
    own = {k: v for k, v in section.items() if k not in ("name", "weights")}
    return " ".join([section["name"], *(f"{key}={value}" for key, value in own.items())])


def _verdict(base: Shown, one: Shown, found: Gains) -> Markup:
    gains = [(name, part, measure) for name, sides in found.items() for part, measure in sides.items() if measure]
    if not gains:
        return join([element("strong", one.run.name), ": no set was evaluated before and after in the same way."])
    words = [
        verdict(gain, less_is_better(key, part_of(one, name, part)[key]))
        for name, part, measure in gains
        for key, gain in [next(iter(measure.items()))]
    ]
    better, worse = words.count("better"), words.count("worse")
    lost = [f"{name} {side_words(part)}" for (name, part, _), word in zip(gains, words, strict=True) if word == "worse"]
    what = ", ".join(dict.fromkeys(next(iter(measure)) for _, _, measure in gains))
    return join(
        [
            element("strong", one.run.name),
            f" against its base, by {what}: better on {better} of {len(gains)} parts, worse on {worse}"
            f"{' (' + ', '.join(lost) + ')' if lost else ''}, not told apart on {len(gains) - better - worse}.",
        ]
    )


def _tile(series: Sequence[Shown], name: str) -> Markup | None:
    part = next(iter(parts_of(series, name)), None)
    if part is None:
        return None
    lines, key = [], None
    for one in series:
        found = measures_of(part_of(one, name, part))
        key = key or next(iter(found), None)
        lines.append((one, found.get(key)))
    if not any(found for _, found in lines):
        return None
    return element(
        "li",
        element("span", f"{name}, {side_words(part)}, {key}, %"),
        *(
            element(
                "p",
                element("span", f"{one.name} "),
                element("b", value),
                element("span", f" {interval}", class_="whole"),
            )
            for one, found in lines
            for value, _, interval in [percent(found).partition(" ")]
        ),
    )


def _forest(name: str, gains: Sequence[tuple[Shown, Shown, Gains]]) -> Markup | None:
    rows, key = [], ""
    for part in dict.fromkeys(part for _, _, found in gains for part in found.get(name, {})):
        dots = []
        for _, one, found in gains:
            measures = found.get(name, {}).get(part, {})
            if measures:
                key = next(iter(measures))
                gain = measures[key]
                ends = [None if gain[end] is None else 100 * gain[end] for end in ("lo", "hi")]
                dots.append(Dot(one.name, one.style, 100 * gain["value"], *ends))
        rows.append(Row(side_words(part), dots))
    if not rows:
        return None
    return interval_chart(f"{name}: {key}, gained over the base", rows, Axis("points"), zero=True)
