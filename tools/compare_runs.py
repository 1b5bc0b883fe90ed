"""What one run is better at than another: every figure with its interval, and differences on the same faces.

    python tools/compare_runs.py runs/lora runs/dual_lora
    python tools/compare_runs.py runs/base runs/a runs/b --set lfw --measure tar@0.001 --measure accuracy
    python tools/compare_runs.py runs/lora/report/before runs/lora/report/after
    python tools/compare_runs.py runs/lora runs/dual_lora --json > differences.json

Each model is compared with the first one. A difference is paired: both models on the same pairs, people or templates,
drawn together by the bootstrap; for areas under the ROC curve DeLong's test. A * stands where its interval excludes
zero. Where many are looked at, some do by chance: the last column is the p-value adjusted for their number by Holm.
What cannot be paired is listed with the reason.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

RESAMPLES = 2000


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run, or a folder with results.json; two or more")
    parser.add_argument("--when", default="after", choices=("before", "after"), help="which results of a run")
    parser.add_argument("--set", action="append", default=[], metavar="NAME", help="only this set; may be repeated")
    parser.add_argument(
        "--measure", action="append", default=[], metavar="NAME", help="only this measure, as tar@0.001"
    )
    parser.add_argument("--resamples", type=int, default=RESAMPLES, help=f"of the bootstrap (default {RESAMPLES})")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    parser.add_argument("--json", action="store_true", help="print JSON in place of tables")
    arguments = parser.parse_args(argv)
    if len(arguments.runs) < 2:
        parser.error("name two runs at least: the others are compared with the first")
    if arguments.resamples < 1:
        parser.error(f"--resamples {arguments.resamples}: an interval needs resamples, such as {RESAMPLES}")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Prints the comparison. Returns 0, 2 where there is nothing to compare, 130 after Ctrl-C."""
    arguments = parse(argv)
    try:
        found = compared(arguments)
        print(json.dumps(found, indent=1) if arguments.json else as_text(found))
    except (ValueError, FileNotFoundError) as error:
        print(f"compare_runs: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def compared(arguments: argparse.Namespace) -> dict:
    """Values and differences: {"runs", "looked_at", "sets": {set: {part: {measure: {"values", "differences"}}}}, ...}.

    A difference is what recognition.evaluation.gains gives, with "p_holm"; or {"not_paired": reason}.
    """
    from recognition.evaluation.results import load_about, load_results

    folders = {name: folder_of(path, arguments.when) for name, path in _names(arguments.runs).items()}
    results = {name: load_results(folder) for name, folder in folders.items()}
    sets = list(dict.fromkeys(name for found in results.values() for name in found))
    _known(arguments.set, sets, "set")
    measures = list(dict.fromkeys(m for found in results.values() for m in _measures(found)))
    _known(arguments.measure, measures, "measure")
    abouts = {name: load_about(folder) for name, folder in folders.items()}
    about: dict[str, dict] = {}
    for found in abouts.values():
        about = {**found, **{k: v for k, v in about.items() if v}}
    table = {}
    for name in arguments.set or sets:
        parts = dict.fromkeys(part for found in results.values() for part in found.get(name, {}))
        each = {model: found.get(name, {}) for model, found in results.items()}
        told = {model: found.get(name, {}) for model, found in abouts.items()}
        table[name] = {
            part: _part({m: found.get(part) for m, found in each.items()}, told, arguments) for part in parts
        }
    return {
        "runs": {name: str(folder) for name, folder in folders.items()},
        "against": next(iter(folders)),
        "resamples": arguments.resamples,
        "seed": arguments.seed,
        **_adjusted(table),
        "about": {name: about.get(name, {}) for name in table},
        "remarks": _remarks(abouts, results, table),
        "sets": table,
    }


def folder_of(path: str | Path, when: str) -> Path:
    """Where a run keeps its results. FileNotFoundError says where they were looked for."""
    path = Path(path)
    places = [path, path / "report" / when, path / when, path / "evaluation" / when]
    for place in places:
        if (place / "results.json").is_file():
            return place
    looked = ", ".join(str(place) for place in places)
    raise FileNotFoundError(
        f"{path} holds no results.json (looked in {looked}): evaluate it by tools/evaluate.py, or name another --when"
    )


def as_text(found: dict) -> str:
    """A table for each part of each set, what cannot be paired, and how many differences were looked at."""
    first, *others = found["runs"]
    lines = []
    for name, parts in found["sets"].items():
        drawn = found["about"][name].get("rules", {}).get("resampled", "")
        for part, measures in parts.items():
            lines += [f"## {name}, {part}" + (f" (drawn: {drawn})" if drawn else ""), ""]
            heads = [first, *(head for other in others for head in (other, f"{other} - {first}", "p", "p, Holm"))]
            lines += [f"| | {' | '.join(heads)} |", f"|---{'|---' * len(heads)}|"]
            reasons: dict[str, list[str]] = {}
            for measure, row in measures.items():
                cells = [_value(row["values"][first])]
                for other in others:
                    gain = row["differences"][other]
                    cells += [_value(row["values"][other]), *_difference(gain, row["values"])]
                    if "not_paired" in gain:
                        reasons.setdefault(f"{other}: {gain['not_paired']}", []).append(measure)
                lower = any((figure or {}).get("better") == "lower" for figure in row["values"].values())
                lines.append(f"| {measure}{' (lower is better)' if lower else ''} | {' | '.join(cells)} |")
            lines += ["", *(f"not paired: {', '.join(m)} of {why}" for why, m in reasons.items()), ""]
    return "\n".join([*lines, *found["remarks"], *_last_words(found)])


def _last_words(found: dict) -> list[str]:
    outside = sum(bool(gain.get("excludes_zero")) for gain in _gains(found["sets"]))
    told = sum(gain["p_holm"] < 0.05 for gain in _gains(found["sets"]) if gain.get("p_holm") is not None)
    least = 2 / (found["resamples"] + 1)
    return [
        "Shares in per cent, differences in points, with 95 % intervals; * = the interval excludes zero.",
        f"{found['looked_at']} differences were looked at, {outside} have an interval without zero, of which about "
        f"{0.05 * found['looked_at']:.1f} would be expected by chance were there none. After Holm's adjustment for all "
        f"of them {told} have p < 0.05. By the bootstrap of {found['resamples']} resamples no p is below {least:.2g}, "
        f"adjusted {min(1.0, least * max(1, found['looked_at'])):.2g}: look at fewer by --set and --measure, or draw "
        "more.",
    ]


def _remarks(abouts: Mapping[str, dict], results: Mapping[str, dict], sets: Collection[str]) -> list[str]:
    """A sentence for each run whose pictures could not be compared with the first one's."""
    from recognition.evaluation.gains import unlike_data

    first, *others = abouts
    remarks = []
    for other in others:
        old, new = abouts[first], abouts[other]
        unsure = [
            name
            for name in sets
            if name in results[first] and name in results[other]
            if not ("images" in old.get(name, {}) and "images" in new.get(name, {}))
            if not unlike_data(old.get(name, {}), new.get(name, {}))
        ]
        if unsure:
            remarks.append(
                f"{other} and {first} on {', '.join(unsure)}: older results tell no fingerprint of the pictures, so "
                "that they are the same is only known as far as pairs and probes are alike; evaluate again to be sure"
            )
    return remarks


def _part(
    each: Mapping[str, dict | None], abouts: Mapping[str, dict], arguments: argparse.Namespace
) -> dict[str, dict]:
    from recognition.evaluation import gains

    first, *others = each
    names = dict.fromkeys(m for part in each.values() for m in _measures({"": {"": part or {}}}))
    wanted = [m for m in names if not arguments.measure or m in arguments.measure]
    rows = {m: {"values": {n: _figure((p or {}).get(m)) for n, p in each.items()}, "differences": {}} for m in wanted}
    for other in others:
        old, new = each[first], each[other]
        lacks = next((name for name in (first, other) if each[name] is None), None)
        why = f"{lacks} has no such part" if lacks else gains.unlike_data(abouts[first], abouts[other])
        why = why or gains.unlike(old, new)  # type: ignore[arg-type]
        kept = [{k: v for k, v in (p or {}).items() if k in wanted or k == "items"} for p in (old, new)]
        found = {} if why else gains.gains(*kept, arguments.resamples, arguments.seed)
        for measure in wanted:
            untold = "" if why else gains.untold(measure, old, new)  # type: ignore[arg-type]
            gain: dict = {"not_paired": why or untold or "it is no mean over its items"}
            if measure in found:
                lo, hi = found[measure]["lo"], found[measure]["hi"]
                gain = {**found[measure], "excludes_zero": lo is not None and (lo > 0 or hi < 0)}
            rows[measure]["differences"][other] = gain
    return rows


def _adjusted(table: dict) -> dict:
    from recognition.evaluation.gains import holm

    looked_at = [gain for gain in _gains(table) if gain.get("p") is not None]
    for gain, p in zip(looked_at, holm([gain["p"] for gain in looked_at]), strict=True):
        gain["p_holm"] = p
    return {"looked_at": len(looked_at), "adjustment": "holm"}


def _gains(table: dict) -> list[dict]:
    return [
        g
        for parts in table.values()
        for rows in parts.values()
        for row in rows.values()
        for g in row["differences"].values()
    ]


def _names(paths: Sequence[str]) -> dict[str, str]:
    """Each run by its folder's name, or by its whole path where two folders are called alike."""
    short = [Path(path).name for path in paths]
    names = [path if short.count(name) > 1 or not name else name for path, name in zip(paths, short, strict=True)]
    if len(set(names)) < len(names):
        raise ValueError(f"a run is named twice: {', '.join(paths)}")
    return dict(zip(names, paths, strict=True))


def _known(wanted: Sequence[str], there: Sequence[str], what: str) -> None:
    from recognition.registry import nearest

    for name in wanted:
        if name not in there:
            raise ValueError(f"no run has a {what} '{name}'{nearest(name, there)}; there are {', '.join(there)}")


def _measures(found: Mapping[str, Mapping[str, dict]]) -> list[str]:
    parts = [measures for parts in found.values() for measures in parts.values()]
    return [key for part in parts for key, one in part.items() if isinstance(one, dict) and "value" in one]


def _figure(measure: dict | None) -> dict | None:
    return None if measure is None else {key: measure.get(key) for key in ("value", "lo", "hi", "unit", "better")}


def _value(measure: dict | None) -> str:
    if measure is None or measure["value"] is None:
        return "-"
    scale, digits, unit = (1, 4, f" {measure['unit']}") if measure["unit"] else (100, 2, "")
    text = f"{scale * measure['value']:.{digits}g}" if measure["unit"] else f"{scale * measure['value']:.{digits}f}"
    if measure["lo"] is None or measure["hi"] is None:
        return text + unit
    return f"{text} [{scale * measure['lo']:.{digits}f}, {scale * measure['hi']:.{digits}f}]{unit}"


def _difference(gain: dict, values: Mapping[str, dict | None]) -> list[str]:
    """The cells of a difference, its p and the adjusted one."""
    if "not_paired" in gain:
        return ["not paired", "", ""]
    scale = 1 if any(value and value["unit"] for value in values.values()) else 100
    text = f"{scale * gain['value']:+.2f}"
    if gain["lo"] is not None:
        text += f" [{scale * gain['lo']:+.2f}, {scale * gain['hi']:+.2f}]{'*' if gain['excludes_zero'] else ''}"
    return [text, *("" if gain.get(key) is None else f"{gain[key]:.2g}" for key in ("p", "p_holm"))]


if __name__ == "__main__":
    sys.exit(main())
