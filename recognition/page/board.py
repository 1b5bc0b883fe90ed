"""The page's plots for TensorBoard, and its embedding projector."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from google.protobuf import text_format
from numpy.typing import ArrayLike
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from torch import Tensor

from recognition.data.decode import decode
from recognition.data.degrade import low_res
from recognition.distributed import World
from recognition.evaluation.embed import FLIPS, look_at, place_of
from recognition.evaluation.protocol import EvaluationSet, Looked
from recognition.evaluation.report import COLUMNS, figure_of
from recognition.evaluation.report import figures as roc_figures
from recognition.evaluation.sets import open_sets
from recognition.files import replacing, write_atomically
from recognition.page.bins import by_quality, items_of, told
from recognition.page.numbers import side_words
from recognition.page.runs import WHENS, Run
from recognition.runs import load_run
from recognition.types import IMAGE_SIZE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Results = Mapping[str, Mapping[str, dict]]

Draw = Callable[["Axes | None", str, dict], bool]  # None: only tell whether there is something to draw

CONFIG = "projector_config.pbtxt"
FACES = 200  # of each resolution in the projector, at most
THUMBNAIL, LARGEST_SPRITE = 48, 8192  # pixels; the projector takes no larger picture


def figures(results_by_model: Mapping[str, Results]) -> dict[str, Figure]:
    """Pictures of results by tag: roc/SET, det/SET, cmc/SET, similarity/SET and quality/SET, where a set has them.

    results_by_model: such as {"before": ..., "after": ...}.
    """
    models = {model: results for model, results in results_by_model.items() if results}
    found = dict(roc_figures(models))
    for name in dict.fromkeys(name for results in models.values() for name in results):
        parts = list(dict.fromkeys(part for results in models.values() for part in results.get(name, {})))
        for kind, draw in (("det", _det), ("cmc", _cmc), ("similarity", _similarity)):
            figure = _grid(models, name, parts, draw)
            if figure is not None:
                found[f"{kind}/{name}"] = figure
        figure = _quality(models, name, parts)
        if figure is not None:
            found[f"quality/{name}"] = figure
    return found


@dataclass(frozen=True)
class Faces:
    """Some faces of an evaluation set in the resolutions that show most, and what the model made of them."""

    name: str  # of the set
    images: Sequence[bytes]  # of its protocol
    people: np.ndarray | None  # (N,) of all its images, where known
    seen: list[tuple[int, np.ndarray, Tensor]]  # side in pixels, positions in images (n,), embeddings (n, D) on the CPU


def chosen(one: EvaluationSet, looked: Mapping[str, Looked]) -> Faces:
    """Up to FACES faces of the first view, and as many of the one with the lowest resolution."""
    seen = []
    for key, rows in _views_shown(one).items():
        view = one.protocol.views[key]
        seen.append((view.side, view.rows[rows], looked[key].embedding[torch.from_numpy(rows)].float().cpu()))
    return Faces(one.name, one.protocol.images, getattr(one.protocol, "people", None), seen)


def _views_shown(one: EvaluationSet) -> dict[str, np.ndarray]:
    """Positions in the rows of the views that the projector shows."""
    views = one.protocol.views
    keys = dict.fromkeys([next(iter(views)), min(views, key=lambda key: views[key].side)])
    return {key: np.unique(np.linspace(0, len(views[key].rows) - 1, FACES).astype(np.int64)) for key in keys}


def add_to_logs(run: Run, world: World, *, faces: bool = True) -> list[str]:
    """Add the plots and the projector to RUN/logs. faces: also thumbnails. Returns what was written, in words.

    ValueError for a run without results.
    """
    from torch.utils.tensorboard import SummaryWriter

    results = {when: run.results[when] for when in WHENS if when in run.results}
    if not results:
        raise ValueError(f"{run.path} holds no results to draw; `python tools/evaluate.py {run.path}` makes some")
    logs, update = run.path / "logs", int(run.summary.get("updates", 0))
    drawn = figures(results)
    with SummaryWriter(logs) as writer:
        for tag, figure in drawn.items():
            writer.add_figure(f"report/{tag}", figure, update)
    said = [f"{len(drawn)} plots of update {update} are in {logs}"]
    if not run.config.evaluation.sets:
        return [*said, "the embedding projector has nothing to show: evaluation.sets is empty"]
    try:
        one = open_sets(run.config.evaluation)[0]
        model = load_run(run.path).to(world.device)
    except (OSError, ValueError) as error:
        return [*said, f"the embedding projector has nothing to show: {error}"]
    seen, flip = [], FLIPS[int(run.config.evaluation.get("flip", False))]
    for key, rows in _views_shown(one).items():
        view = one.protocol.views[key]
        some = replace(view, rows=view.rows[rows], timed=0)
        found = look_at(model, one.protocol.images, some, world=world, flip=flip).embedding
        seen.append((view.side, some.rows, found.cpu()))
    known = Faces(one.name, one.protocol.images, getattr(one.protocol, "people", None), seen)
    return [*said, project(logs, known, thumbnails=faces)]


def project(logs: str | Path, faces: Faces, *, thumbnails: bool = True) -> str:
    """Show faces in the projector. Returns what was written, in words; PictureError for one that does not decode."""
    labels, shown = [], []
    for side, rows, _ in faces.seen:
        for row in rows.tolist():
            who = {} if faces.people is None else {"person": int(faces.people[row])}
            labels.append({"image": row, **who, "side": f"{side} px"})
        if thumbnails:
            pixels = [decode(faces.images[row], IMAGE_SIZE, place_of(faces.images, row)) for row in rows.tolist()]
            shown.append(_seen(np.stack(pixels), side))
    sprites = np.concatenate(shown) if shown else None
    write_projector(logs, torch.cat([found for *_, found in faces.seen]), labels, sprites, faces.name)
    sides = " and ".join(str(side) for side, *_ in faces.seen)
    return f"the projector shows {len(labels)} faces of {faces.name} at {sides} px"


def write_projector(
    log_folder: str | Path,
    embeddings: ArrayLike | Tensor,
    labels: Sequence[Mapping[str, object]],
    sprites: np.ndarray | None,
    tag: str,
) -> Path:
    """Write what TensorBoard's embedding projector reads: tensors, labels, thumbnails, and its configuration.

    embeddings: (N, D). labels: N dicts of the same columns. sprites: (N, S, S, 3) uint8 RGB, or None for points only;
    they are made smaller where the projector would not take them. tag: their name; another tag is another choice there.
    Returns the configuration's path. ValueError where the counts differ.
    """
    rows = np.ascontiguousarray(torch.as_tensor(embeddings).detach().cpu().numpy(), "<f4")
    if rows.ndim != 2 or len(rows) != len(labels) or (sprites is not None and len(sprites) != len(rows)):
        raise ValueError(
            f"{rows.shape} embeddings, {len(labels)} labels and {'no' if sprites is None else len(sprites)} sprites: "
            "wanted (N, D) and N of each"
        )
    folder = Path(log_folder)
    under = Path("projector") / "".join(c if c.isalnum() or c in "-_" else "_" for c in tag)
    write_atomically(folder / under / "tensors.bytes", rows.tobytes())
    write_atomically(folder / under / "metadata.tsv", _tsv(labels))
    config = _config(folder / CONFIG)
    kept = [one for one in config.embeddings if one.tensor_name != tag]
    del config.embeddings[:]
    config.embeddings.extend(kept)
    one = config.embeddings.add(tensor_name=tag, tensor_path=str(under / "tensors.bytes"))
    one.tensor_shape.extend(rows.shape)
    one.metadata_path = str(under / "metadata.tsv")
    if sprites is not None:
        one.sprite.image_path = str(under / "sprite.png")
        side = _write_sprite(folder / one.sprite.image_path, sprites)
        one.sprite.single_image_dim.extend([side, side])
    write_atomically(folder / CONFIG, text_format.MessageToString(config))
    return folder / CONFIG


def _config(path: Path) -> ProjectorConfig:
    if not path.is_file():
        return ProjectorConfig()
    try:
        return text_format.Parse(path.read_text(), ProjectorConfig())
    except text_format.ParseError as error:
        raise ValueError(f"{path} is no configuration of the projector ({error}); remove it") from None


def _tsv(labels: Sequence[Mapping[str, object]]) -> str:
    if len(labels) and len(labels[0]) == 1:  # the projector takes a single column without its name
        return "".join(f"{_cell(next(iter(one.values())))}\n" for one in labels)
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, escapechar="\\")
    writer.writerow([_cell(key) for key in labels[0]] if len(labels) else [])
    writer.writerows([_cell(value) for value in one.values()] for one in labels)
    return text.getvalue()


def _cell(value: object) -> str:
    return " ".join(str(value).split())


def _write_sprite(path: Path, sprites: np.ndarray) -> int:
    """A square sheet of thumbnails, row by row; returns the side of one in pixels."""
    across = max(1, math.ceil(math.sqrt(len(sprites))))
    side = min(THUMBNAIL, sprites.shape[1], LARGEST_SPRITE // across)
    sheet = np.zeros((across * side, across * side, 3), np.uint8)
    for number, picture in enumerate(sprites):
        top, left = number // across * side, number % across * side
        sheet[top : top + side, left : left + side] = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
    with replacing(path) as file:
        file.write_bytes(cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))[1].tobytes())
    return side


def _seen(pixels: np.ndarray, side: int) -> np.ndarray:
    return pixels if side == IMAGE_SIZE else low_res(torch.from_numpy(pixels), side).numpy()


def _grid(models: Mapping[str, Results], name: str, parts: Sequence[str], draw: Draw) -> Figure | None:
    """Axes for each part that `draw` finds something in; None where there is none."""
    shown = [part for part in parts if any(draw(None, "", r.get(name, {}).get(part, {})) for r in models.values())]
    if not shown:
        return None
    columns, rows = min(COLUMNS, len(shown)), math.ceil(len(shown) / COLUMNS)
    figure = figure_of(3 * columns + 0.6, 2.8 * rows + 0.4)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[len(shown) :]:
        ax.set_axis_off()
    for ax, part in zip(axes, shown, strict=False):
        for model, results in models.items():
            draw(ax, model, results.get(name, {}).get(part, {}))
        ax.set_title(f"{name}, {side_words(part)}")
        ax.grid(alpha=0.3)
    axes[0].legend(fontsize="small")
    return figure


def _det(ax: Axes | None, model: str, part: dict) -> bool:
    roc = part.get("roc")
    if ax is not None and roc:
        missed = 1 - np.asarray(roc["tar"])
        ax.step(roc["far"], np.where(missed > 0, missed, np.nan), where="post", label=model, linewidth=1.2)
        ax.set(xscale="log", xlabel="FAR", ylabel="FNMR")
        if missed.max() > 0:  # a model that misses nothing has no place on a logarithmic axis
            ax.set_yscale("log")
    return bool(roc)


def _cmc(ax: Axes | None, model: str, part: dict) -> bool:
    position = part.get("items", {}).get("position")
    if ax is not None and position is not None:
        ranks = np.arange(1, min(100, part.get("gallery", 100)) + 1)
        share = np.searchsorted(np.sort(position), ranks, side="right") / len(position)
        ax.step(ranks, share, where="post", label=model, linewidth=1.2)
        ax.set(xscale="log", ylim=(0, 1.02), xlabel="rank", ylabel="found")
    return position is not None


def _similarity(ax: Axes | None, model: str, part: dict) -> bool:
    items = part.get("items", {})
    has = {"score", "same"} <= items.keys()
    if ax is not None and has:
        same, bins = np.asarray(items["same"], bool), np.linspace(-0.4, 1, 57)
        colour = f"C{len(ax.patches) // 2 % 10}"  # an outline for each kind of pair
        for kind, style, which in (("genuine", "-", same), ("impostor", "--", ~same)):
            weight = np.full(int(which.sum()), 1 / max(1, which.sum()))
            ax.hist(
                np.clip(np.asarray(items["score"])[which], -0.4, 1),
                bins,
                weights=weight,
                histtype="step",
                linestyle=style,
                color=colour,
                label=f"{model}, {kind}",
            )
        ax.set(xlabel="similarity", ylabel="share of pairs")
    return has


def _quality(models: Mapping[str, Results], name: str, parts: Sequence[str]) -> Figure | None:
    ruler = next((results for results in models.values() if told(results, name, parts)), None)
    if ruler is None:
        return None
    found = {model: bins for model, r in models.items() if (bins := by_quality(r, ruler, name, parts))}
    if not found:
        return None
    figure = figure_of(5, 3.2)
    ax = figure.subplots()
    for model, bins in found.items():
        value = np.array([one.value for one in bins])
        ends = np.array([[one.value - one.lo, one.hi - one.value] for one in bins]).T
        ax.errorbar(range(len(bins)), value, np.maximum(ends, 0), fmt="o-", capsize=3, label=model)
    bins = next(iter(found.values()))
    ax.set_xticks(range(len(bins)), [f"{one.least:.2g} to {one.most:.2g}" for one in bins], fontsize="small")
    positions = any("position" in items_of(ruler, name, part) for part in parts)
    what = told(ruler, name, parts)
    ax.set(ylim=(0, 1.02), xlabel=f"{what}, in fifths", ylabel="rank-1" if positions else "accuracy", title=name)
    ax.grid(alpha=0.3)
    ax.legend(fontsize="small")
    return figure
