"""What evaluation/quality.py measured, as files: tables in Markdown, curves as a picture, numbers and arrays."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recognition.evaluation.quality import CONTROL, ITEMS
from recognition.evaluation.report import figure_of, write_figure
from recognition.files import replacing, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_quality(folder: str | Path, results: dict[str, dict], missing: Mapping[str, str]) -> Path:
    """Write edc.json, edc_items.npz (scores per pair and image), edc.png and edc.md. Returns edc.md's path.

    missing: by label, why a scorer could not be made.
    """
    folder = Path(folder)
    plain = {name: {k: v for k, v in found.items() if k != ITEMS} for name, found in results.items()}
    arrays = {f"{name}/{key}": array for name, found in results.items() for key, array in found[ITEMS].items()}
    items = io.BytesIO()
    np.savez_compressed(items, **arrays)
    text = json.dumps({"sets": plain, "missing": dict(missing)}, indent=1, allow_nan=False)
    with replacing(folder / "edc.json") as measures, replacing(folder / "edc_items.npz") as items_file:
        measures.write_text(text + "\n")
        items_file.write_bytes(items.getbuffer())
    write_figure(folder / "edc.png", quality_figure(results))
    path = folder / "edc.md"
    write_atomically(path, quality_report(results, missing) + "\n![EDC](edc.png)\n")
    return path


def quality_report(results: dict[str, dict], missing: Mapping[str, str]) -> str:
    """All of it as Markdown: a table a FAR, the ladder, the cost, and what could not be made and why."""
    lines = ["# Quality scores: error against discard", ""]
    for name, found in results.items():
        lines += [f"## {name}", "", _described(found), "", *_tables(found), *_ladder_table(found), ""]
    if missing:
        lines += ["## Not made here", "", *(f"- `{label}`: {reason}" for label, reason in missing.items()), ""]
    return "\n".join(lines)


def quality_figure(results: dict[str, dict]) -> Figure:
    """FNMR over the share of pairs discarded: a row of axes for each set and smallest side, a column for each FAR."""
    rows = [
        (f"{name} from {least} px", part) for name, found in results.items() for least, part in found["from"].items()
    ]
    columns = max(len(part["far"]) for _, part in rows)
    figure = figure_of(3.6 * columns + 2.0, 3.0 * len(rows))
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, (name, part) in zip(axes, rows, strict=True):
        for ax, (far, at) in zip(row, part["far"].items(), strict=False):
            share = 100 * np.array(at["share"])
            for place, (label, one) in enumerate(at["scorers"].items()):
                style = f"C{place % 10}{('-', '--')[place // 10 % 2]}"
                style = {"oracle": "k-", "constant": "k--", CONTROL: "k:"}.get(label, style)
                ax.plot(share, 100 * np.array(one["curve"]), style, label=label, linewidth=1.0)
            ax.plot(share, 100 * np.array(at["ideal"]["curve"]), color="0.6", linewidth=2.5, zorder=0, label="ideal")
            ax.set(title=f"{name}, FAR {far}", xlabel="genuine pairs discarded, %", ylabel="FNMR of the others, %")
            ax.grid(alpha=0.3)
    axes[0, -1].legend(fontsize=6, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return figure


def _described(found: dict) -> str:
    edc = found["edc"]
    extra = "".join(f", {key} {edc[key]}" for key in ("blur", "noise", "jpeg") if edc[key])
    return (
        f"{found['images']} images, {edc['share']:.0%} of them reduced to {edc['sides'][0]} .. {edc['sides'][1]} px "
        f"(log-uniform, each its own side{extra}), the rest as stored. Matcher: {found['matcher']:.1f} ms per image."
    )


def _tables(found: dict) -> list[str]:
    lines = []
    for least, part in found["from"].items():
        which = f"pairs without an image below {least} px" if lines else "all pairs"
        lines += [f"### {which[0].upper()}{which[1:]}", ""]
        lines += [f"{part['genuine']} genuine and {part['pairs'] - part['genuine']} impostor pairs.", ""]
        for far, at in part["far"].items():
            lines += [*_table(far, at), ""]
    return lines


def _table(far: str, at: dict) -> list[str]:
    others = list(dict.fromkeys(other for one in at["scorers"].values() for other in one["less"]))
    share = f"{100 * at['share'][-1]:g}"
    heads = ["scorer", f"pAUC 0-{share} %", "relative", *(f"less `{other}`, points" for other in others)]
    fnmr = at["fnmr"]
    rows = [
        f"**FAR {far}** (reached: {at['far']:.4g}): FNMR {_percent(fnmr)} % with nothing discarded; "
        f"ideal pAUC {100 * at['ideal']['pauc']:.1f}.",
        "",
        f"| {' | '.join(heads)} |",
        f"|{'---|' * len(heads)}",
    ]
    for label, one in sorted(at["scorers"].items(), key=lambda each: each[1]["pauc"]["value"]):
        cells = [_percent(one["pauc"]), _plain(one["relative"])]
        cells += [_points(one["less"].get(other)) for other in others]
        rows.append(f"| {label} | {' | '.join(cells)} |")
    return rows


def _ladder_table(found: dict) -> list[str]:
    sides = list(found["ladder"])
    labels = list(found["cost"])
    heads = ["scorer", *(f"{side} px" for side in sides), "ms per image"]
    rows = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for label in labels:
        rungs = [f"{found['ladder'][side][label]:.4g}" for side in sides]
        rows.append(f"| {' | '.join([label, *rungs, format(found['cost'][label], '.2f')])} |")
    return ["Median score by resolution, and processor time (CUDA: time) of one thread:", "", *rows]


def _percent(measure: dict) -> str:
    value = f"{100 * measure['value']:.1f}"
    return value if measure["lo"] is None else f"{value} [{100 * measure['lo']:.1f}, {100 * measure['hi']:.1f}]"


def _plain(measure: dict) -> str:
    if measure["value"] is None:
        return "-"
    value = f"{measure['value']:.2f}"
    return value if measure["lo"] is None else f"{value} [{measure['lo']:.2f}, {measure['hi']:.2f}]"


def _points(measure: dict | None) -> str:
    if measure is None or measure["value"] is None:
        return ""
    value = f"{100 * measure['value']:+.1f}"
    if measure["lo"] is None:
        return value
    star = "*" if measure["lo"] > 0 or measure["hi"] < 0 else ""
    return f"{value} [{100 * measure['lo']:+.1f}, {100 * measure['hi']:+.1f}]{star}"
