"""Tables and pictures of evaluation results: report.md, roc.png, and figures for TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from recognition.data.decode import decode
from recognition.data.degrade import low_res
from recognition.evaluation.embed import place_of
from recognition.evaluation.gains import compare
from recognition.files import replacing, write_atomically
from recognition.types import IMAGE_SIZE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 4  # axes in a row of a picture
SPACED = 1.07  # sides of a face from one to the next on a sheet


def table(results_by_model: dict[str, dict], name: str, measure: str) -> str:
    """One measure of one set as a Markdown table: a row per model, a column per part; with its interval.

    In per cent, unless the measure has a unit of its own.
    """
    sides = _sides(results_by_model, name, measure)
    found = [results.get(name, {}).get(side, {}) for results in results_by_model.values() for side in sides]
    unit = next((one[measure]["unit"] for one in found if "unit" in one.get(measure, {})), "%")
    lines = [f"| {measure} {unit}".rstrip() + " | " + " | ".join(sides) + " |", "|---" * (len(sides) + 1) + "|"]
    for model, results in results_by_model.items():
        cells = [_cell(results.get(name, {}).get(side, {}).get(measure)) for side in sides]
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def report(results_by_model: dict[str, dict]) -> str:
    """All sets and measures as Markdown, and each model's paired difference from the first one."""
    if not results_by_model:
        raise ValueError("no results to report")
    parts = ["# Evaluation", "", "Sides in pixels: N = both images, A-B = first or gallery at A, second or probe at B."]
    parts += ["In brackets: 95 % intervals, by pair, and by person for ranks, where a set does not say otherwise.", ""]
    for name in _sets(results_by_model):
        parts += [f"## {name}", "", _size(results_by_model, name), ""]
        for measure in _measures(results_by_model, name):
            parts += [table(results_by_model, name, measure), ""]
    reference, *others = results_by_model
    gains = {model: compare(results_by_model[reference], results_by_model[model]) for model in others}
    if gains:
        parts += [f"# Difference from {reference}", "", "In points, paired on the same pairs or probes.", ""]
        for name in _sets(gains):
            parts += [f"## {name}", ""]
            for measure in _measures(gains, name):
                parts += [table(_signed(gains), name, measure).replace(" % |", " |", 1), ""]
    return "\n".join(parts)


def write_report(folder: str | Path, results_by_model: dict[str, dict]) -> Path:
    """Write report.md, and roc.png where there is verification. Returns report.md's path."""
    folder = Path(folder)
    text = report(results_by_model)
    if any(_sides(results_by_model, name, "roc") for name in _sets(results_by_model)):
        write_figure(folder / "roc.png", roc_figure(results_by_model))
        text += "\n![ROC](roc.png)\n"
    path = folder / "report.md"
    write_atomically(path, text)
    return path


def write_figure(path: str | Path, figure: Figure) -> None:
    """A figure as PNG."""
    with replacing(path) as file:
        figure.savefig(file, dpi=110, format="png")


def figures(results_by_model: dict[str, dict]) -> dict[str, Figure]:
    """Pictures of the results for a log, by tag: "roc/SET" for each verification set."""
    names = [name for name in _sets(results_by_model) if _sides(results_by_model, name, "roc")]
    return {
        f"roc/{name}": roc_figure({m: {name: r[name]} for m, r in results_by_model.items() if name in r})
        for name in names
    }


def roc_figure(results_by_model: dict[str, dict]) -> Figure:
    """TAR over FAR of every model: rows of up to COLUMNS axes for each verification set, one per side."""
    grids = [(name, _sides(results_by_model, name, "roc")) for name in _sets(results_by_model)]
    grids = [(name, sides[c : c + COLUMNS]) for name, sides in grids for c in range(0, len(sides), COLUMNS)]
    if not grids:
        raise ValueError("no verification results, so there is no ROC to draw")
    columns = max(len(sides) for _, sides in grids)
    figure = figure_of(3 * columns + 0.6, 2.8 * len(grids) + 0.4)
    axes = figure.subplots(len(grids), columns, squeeze=False)
    for row, (name, sides) in zip(axes, grids, strict=True):
        for ax in row[len(sides) :]:
            ax.set_axis_off()
        for ax, side in zip(row, sides, strict=False):
            for model, results in results_by_model.items():
                roc = results.get(name, {}).get(side, {}).get("roc")
                if roc is not None:
                    ax.step(roc["far"], roc["tar"], where="post", label=model, linewidth=1.2)
            ax.set(xscale="log", ylim=(0, 1.02), title=f"{name} {side} px", xlabel="FAR", ylabel="TAR")
            ax.grid(alpha=0.3)
    axes[0, 0].legend(fontsize="small")
    return figure


def score_figure(scores: Tensor, gate: Callable[[Tensor], Tensor] | None = None) -> Figure:
    """Histogram of quality scores, and the gate that each score gets, such as by a QualityGate, over it.

    scores: (N,), or (N, k) of a scorer that gives several: a histogram each, and the images' gates as dots.
    """
    scores = scores.detach().float().cpu()
    if not scores.numel():
        raise ValueError("no scores to draw")
    columns = scores.reshape(len(scores), -1).T
    span = torch.linspace(scores.min().item(), scores.max().item(), 200) if len(columns) == 1 else scores
    figure = figure_of(5, 3 * len(columns))
    for column, ax in enumerate(figure.subplots(len(columns), squeeze=False)[:, 0]):
        ax.hist(columns[column].numpy(), bins=40, color="0.7")
        ax.set(xlabel="score (higher = better quality)", ylabel="images")
        if gate is not None:
            with torch.no_grad():
                value = gate(span).float().cpu().numpy()
            over = ax.twinx()
            over.plot(span if span.dim() == 1 else span[:, column], value, "-" if span.dim() == 1 else ".", color="C3")
            over.set(ylim=(-0.02, 1.02), ylabel="gate")
    return figure


def face_figure(images: Sequence[bytes], sides: Sequence[int] = (112, 56, 28, 14, 7)) -> Figure:
    """A sheet: a row per encoded image, a column per resolution, as evaluation shows them to the model."""
    if not len(images) or not len(sides):
        raise ValueError("a sheet needs at least one image and one side")
    decoded = [decode(images[i], IMAGE_SIZE, place_of(images, i)) for i in range(len(images))]
    pixels = torch.from_numpy(np.stack(decoded))
    columns = [(pixels if side == IMAGE_SIZE else low_res(pixels, side)).numpy() for side in sides]
    figure = figure_of(1.1 * len(sides), 1.1 * len(images) + 0.25)
    ax = figure.subplots()  # one for all: axes of their own would take half a second, which training waits for
    for column, side in enumerate(sides):
        left = SPACED * column
        ax.text(left + 0.5, -0.05, f"{side} px", fontsize="small", ha="center", va="bottom")
        for row, picture in enumerate(columns[column]):
            ax.imshow(picture, extent=(left, left + 1, SPACED * row + 1, SPACED * row))
    ax.set(xlim=(0, SPACED * (len(sides) - 1) + 1), ylim=(SPACED * (len(images) - 1) + 1, 0))
    ax.set_axis_off()
    return figure


def figure_of(width: float, height: float) -> Figure:
    """A figure of its own: pyplot's would stay alive in its global list."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # half a second, which most processes never need
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _sets(results_by_model: dict[str, dict]) -> list[str]:
    return list(dict.fromkeys(name for results in results_by_model.values() for name in results))


def _sides(results_by_model: dict[str, dict], name: str, measure: str) -> list[str]:
    found = [results.get(name, {}) for results in results_by_model.values()]
    return list(dict.fromkeys(side for sides in found for side in sides if measure in sides[side]))


def _measures(results_by_model: dict[str, dict], name: str) -> list[str]:
    found = [measures for results in results_by_model.values() for measures in results.get(name, {}).values()]
    return list(
        dict.fromkeys(k for measures in found for k, m in measures.items() if isinstance(m, dict) and "value" in m)
    )


def _size(results_by_model: dict[str, dict], name: str) -> str:
    found = next(m for results in results_by_model.values() for m in results.get(name, {}).values())
    if "pairs" in found and "genuine" in found:
        impostors = found["pairs"] - found["genuine"]
        return f"{found['genuine']} genuine and {impostors} impostor pairs{_steps(impostors)}."
    if {"probes", "people", "gallery"} <= set(found):
        return f"{found['probes']} probes of {found['people']} people among {found['gallery']} gallery images."
    counts = {key: value for key, value in found.items() if isinstance(value, int) and not isinstance(value, bool)}
    return ", ".join(f"{key} {value}" for key, value in counts.items()) + "."


def _steps(impostors: int) -> str:
    return f", so FAR moves in steps of {1 / impostors:.2g}" if impostors else ""


def _signed(gains: dict[str, dict]) -> dict[str, dict]:
    """The same results, whose cells are to be written with their sign."""
    return {
        model: {
            name: {side: {k: _signed_cell(m) for k, m in ms.items()} for side, ms in sides.items()}
            for name, sides in results.items()
        }
        for model, results in gains.items()
    }


def _signed_cell(gain: dict) -> dict:
    """What a gain's own "unit" says is what was drawn, and none of the figure."""
    return {**{end: gain[end] for end in ("value", "lo", "hi")}, "signed": True}


def _cell(measure: dict | None) -> str:
    if measure is None:
        return ""
    sign, scale = "+" if measure.get("signed") else "", 1 if "unit" in measure else 100
    ends = [measure["value"], measure.get("lo"), measure.get("hi")]
    value, *ends = ("" if end is None else f"{scale * end:{sign}.1f}" for end in ends)
    return f"{value} ({ends[0]} to {ends[1]})" if all(ends) else value
