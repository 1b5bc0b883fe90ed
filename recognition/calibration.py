"""The gate fitted to images: scores as training sees them, midpoint and slope by a rule, and what it looks like."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from easydict import EasyDict
from tqdm import tqdm

import adapters
from iqa._calibration import Fit, fit, histogram
from iqa._gate import plain
from recognition.data.augment import normalise
from recognition.data.decode import decode
from recognition.data.order import SampleOrder
from recognition.data.records import Records
from recognition.distributed import World, gather, gather_json
from recognition.evaluation.report import figure_of
from recognition.inputs import build_degradation, build_loader, open_bad_records, some_images
from recognition.quality import Quality
from recognition.types import IMAGE_SIZE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BATCH = 128  # images of the two record sets


@dataclass(frozen=True, slots=True)
class Sample:
    """Scores of some images, and which of the two roles each of them has."""

    scores: np.ndarray  # (N,) float32, or (N, k) of a scorer that gives several
    poor: np.ndarray  # (N,) bool
    names: tuple[str, str] = ("degraded", "as stored")  # of the poor and the good images

    def columns(self) -> list[np.ndarray]:
        """Each score of all images, (N,)."""
        return [*self.scores.reshape(len(self.scores), -1).T]

    def groups(self, values: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """The scores, or values (N,) in their place, by role; a role without an image is left out."""
        values = self.scores if values is None else values
        found = dict(zip(self.names, (values[self.poor], values[~self.poor]), strict=True))
        return {name: group for name, group in found.items() if len(group)}


def of_training(
    config: EasyDict, model: Quality, records: Records, order: SampleOrder, world: World, count: int
) -> Sample:
    """Scores of the first `count` images of training, degraded and mirrored as it will see them; by all processes.

    count: 0 = an epoch, and no more than that. The same on every process, and for any number of them.
    ValueError for bad records where they are errors.
    """
    if count < 0:
        raise ValueError(f"config.gate.sample is {count}; it must be 0 (an epoch of images) or more")
    count = min(count or order.epoch_size, order.epoch_size)
    steps, size = -(-count // order.global_batch), order.global_batch
    loader = build_loader(config, records, order, world, open_bad_records(config, records, None))
    loader.fields = tuple({*loader.fields, "level"})
    parts, levels = [], []
    with (
        closing(loader.batches(0)) as batches,
        tqdm(total=count, unit="image", desc="scoring", disable=_quiet(world), leave=False) as bar,
    ):
        for step in range(steps):
            batch = next(batches)
            parts.append(model.score_batch(batch))
            levels.append(batch.level)
            bar.update(min(size, count - step * size))
    begins = [np.arange(step * size, (step + 1) * size) for step in range(steps)]
    positions = np.concatenate([p[rank :: world.world_size] for rank in range(world.world_size) for p in begins])

    def in_order(of_batches: list[torch.Tensor]) -> np.ndarray:
        everyone = gather(torch.cat(of_batches), [share * steps for share in order.counts()]).cpu().numpy()
        found = np.empty_like(everyone)
        found[positions] = everyone
        return found[:count]

    poor = in_order(levels) > 0  # by degradation or by an augmentation
    if (degradation := build_degradation(config, order)) is not None:
        poor |= degradation.draw(config.run.seed, np.arange(count)).side > 0  # blur or noise alone have no level
    return Sample(in_order(parts), poor)


def of_sets(model: Quality, gallery: Records, probe: Records, world: World, count: int) -> Sample:
    """Scores of at most `count` images of each of two record sets (0 = all), as they are stored."""
    found = [_score_stored(model, records, world, count) for records in (probe, gallery)]
    poor = np.repeat([True, False], [len(scores) for scores in found])
    return Sample(np.concatenate(found), poor, ("probe", "gallery"))


def brings_gate(config: EasyDict) -> bool:
    """Whether config.adapter.weights names an adapter with a gate, which is not fitted anew."""
    start = config.adapter.get("weights")
    return bool(start and adapters.read_folder(start).gate)


def fit_at_start(
    config: EasyDict,
    model: Quality,
    records: Records,
    order: SampleOrder,
    world: World,
    say: Callable[[str], None],
) -> dict[str, object]:
    """Fit the gate where config.gate.fit asks for it, for the model and for the settings alike; by all processes.

    Returns what a run's provenance tells of it; {} where nothing was fitted. A gate that came with
    config.adapter.weights stays what it is.
    """
    if not config.gate.fit or not model.needs_gate:
        return {}
    if brings_gate(config):
        start, gate = config.adapter.weights, model.quality_gate
        config.gate.midpoint, config.gate.slope = plain(gate.midpoint), plain(gate.slope)
        say(f"gate    of {start}, not fitted anew: midpoint {config.gate.midpoint}, slope {config.gate.slope}")
        return {"rule": "none: the gate is that of the adapter which the run started from", "adapter": start}
    sample = of_training(config, model, records, order, world, config.gate.sample)
    found = [fit(column, config.gate.fit, sample.poor) for column in sample.columns()]
    placed = gather_json([numbers(one, model) for one in found])[0]
    for one, (midpoint, slope) in zip(found, placed, strict=True):
        say(
            f"gate    midpoint {midpoint:g}, slope {slope:g}: fitted by rule '{one.rule}' to {one.images} images, "
            f"{int(sample.poor.sum())} of them degraded, whose scores go from {one.low:.4g} to {one.high:.4g}"
        )
    several = len(found) > 1
    midpoints, slopes = ([*of_all] if several else of_all[0] for of_all in zip(*placed, strict=True))
    model.quality_gate.place(midpoints, slopes)
    config.gate.midpoint, config.gate.slope = midpoints, slopes
    return {
        "rule": found[0].rule,
        "images": found[0].images,
        "degraded": int(sample.poor.sum()),
        "low": [one.low for one in found] if several else found[0].low,
        "high": [one.high for one in found] if several else found[0].high,
        "midpoint": midpoints,
        "slope": slopes,
        "records": records.fingerprint(),
    }


def fitted_by(run: Path) -> dict[str, object]:
    """What fit_at_start() told of a run, out of its provenance; {} where nothing was fitted."""
    path = run / "provenance.json"
    return json.loads(path.read_text()).get("gate", {}) if path.is_file() else {}


def numbers(found: Fit, model: Quality) -> tuple[float, float]:
    """Midpoint and slope for the form of the model's gate."""
    form = model.quality_gate.form
    return found.midpoint, found.slope(form.steepness, form.takes_slope)


@torch.no_grad()
def gates_of(model: Quality, sample: Sample) -> np.ndarray:
    """The model's gate for each score, (N,) float32; the mean over layers of a gate for each layer."""
    device = model.quality_gate.midpoint.device
    gate = model.quality_gate(torch.from_numpy(sample.scores).to(device)).cpu().numpy()
    return gate if gate.ndim == 1 else gate.mean(axis=1)


def describe_scores(sample: Sample) -> list[str]:
    """Histogram of the scores and their median, by role."""
    groups = sample.groups()
    medians = ", ".join(f"{name} {np.median(group):.4g}" for name, group in groups.items())
    return [*histogram(groups), f"median score: {medians}"]


def describe_gates(sample: Sample, gates: np.ndarray) -> list[str]:
    """By role: the gate on average, and how many gates are 0 or 1."""
    return [
        f"{name}: gate {group.mean():.3f} on average; {(group <= 0).mean():.0%} of the images at 0 or below, "
        f"{(group >= 1).mean():.0%} at 1 or above"
        for name, group in sample.groups(gates).items()
    ]


def gate_histogram(sample: Sample, gates: np.ndarray) -> list[str]:
    """Histogram of the gates by role."""
    return histogram(sample.groups(gates), 10, (min(0.0, float(gates.min())), max(1.0, float(gates.max()))))


def draw(sample: Sample, gates: np.ndarray) -> Figure:
    """Two histograms by role: of the scores, with the gate over them, and of the gates."""
    figure = figure_of(9, 3.4)
    left, right = figure.subplots(1, 2)
    for ax, values in ((left, sample.scores), (right, gates)):
        groups = sample.groups(values)
        ax.hist([*groups.values()], bins=30, label=[*groups], histtype="stepfilled", alpha=0.5)
        ax.set(ylabel="images")
        ax.legend(fontsize="small")
    left.set(xlabel="score (higher = better quality)")
    right.set(xlabel="gate")
    over, order = left.twinx(), np.argsort(sample.scores)
    over.plot(sample.scores[order], gates[order], color="C3")
    over.set(ylabel="gate")
    return figure


def _score_stored(model: Quality, records: Records, world: World, count: int) -> np.ndarray:
    images = some_images(records, count or len(records))
    points = images.landmarks() if model.scorer is not None and model.scorer.needs == "landmarks" else None
    parts = []
    with tqdm(total=len(images), unit="image", desc="scoring", disable=_quiet(world), leave=False) as bar:
        for begin in range(0, len(images), BATCH):
            places = range(begin, min(begin + BATCH, len(images)))
            pixels = np.stack([decode(images[i], IMAGE_SIZE, images.where(i)) for i in places])
            image = normalise(torch.from_numpy(pixels).to(world.device))
            here = None if points is None else torch.from_numpy(points[begin : begin + len(places)]).to(world.device)
            parts.append(model.score(image, level=image.new_zeros(len(image)), landmarks=here))
            bar.update(len(places))
    return torch.cat(parts).cpu().numpy()


def _quiet(world: World) -> bool:
    return not (world.is_main and sys.stderr.isatty())
