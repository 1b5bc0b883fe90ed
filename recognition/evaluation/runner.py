"""Evaluation of a model on sets and low resolutions, with intervals."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence

from iqa import GateRange
from recognition.distributed import World
from recognition.evaluation.embed import FLIPS, Embedder, look_at
from recognition.evaluation.protocol import EvaluationSet, Looked
from recognition.evaluation.sets import asked, open_sets, settings_with_defaults
from recognition.registry import nearest


def evaluate(
    model: Embedder,
    settings: dict,
    world: World,
    sets: Sequence[EvaluationSet] | None = None,
    shown: Callable[[EvaluationSet, Mapping[str, Looked]], None] | None = None,
) -> dict[str, dict[str, dict]]:
    """Results of every set at every low resolution: {set: {"112": {...}, "112-14": {...}}}, the same on all processes.

    settings: the section config.evaluation. sets: those that open_sets(settings) gave, to open them once only.
    shown: is shown what the model made of each set's images before they are measured.
    A measure is {"value", "lo", "hi"}, a share with its 95 % bootstrap interval: by pair, or by person for rank-K (null
    where bootstrap is 0). Verification has accuracy, tar@F (also far and threshold), auc, eer, accuracy_std, threshold,
    pairs, genuine, roc; identification has rank-K, probes, gallery, people. "items" holds arrays per pair or probe,
    from which paired differences are computed.
    """
    settings = settings_with_defaults(settings)
    sets = open_sets(settings) if sets is None else sets
    if not sets:
        raise ValueError("evaluation.sets is empty: name at least one set, a dict of name, kind and files")
    gates = GateRange()
    results = {one.name: _evaluate_set(model, one, settings, world, gates, shown) for one in sets}
    if world.is_main and (warning := gates.warning()):
        warnings.warn(warning, stacklevel=2)
    return results


def scalars(results: dict) -> dict[str, float]:
    """Flat names for a log: {"lfw/112-14/accuracy": 0.76, ...}."""
    flat = {}
    for name, sides in results.items():
        for side, measures in sides.items():
            for key, measure in measures.items():
                if isinstance(measure, dict) and measure.get("value") is not None:
                    flat[f"{name}/{side}/{key}"] = measure["value"]
    return flat


def headline(results: dict, figure: str = "") -> float:
    """The one number by which checkpoints are compared: a flat name of scalars(), or the mean of the first shares.

    A figure of which less is better counts as negative; one with a unit is named, or does not count.
    ValueError with the nearest names for one that is not among the results, and where there is none to choose.
    """
    flat = scalars(results)
    if figure and figure not in flat:
        raise ValueError(f"config.evaluation.best: there is no figure '{figure}'{nearest(figure, flat)}")
    firsts: dict[str, float] = {}
    for tag, value in flat.items():
        part, _, key = tag.rpartition("/")
        name, _, side = part.partition("/")
        measure = results[name][side][key]
        if tag == figure or (not figure and "unit" not in measure):
            firsts.setdefault(part, -value if measure.get("better") == "lower" else value)
    if not firsts:
        raise ValueError("config.evaluation.best: no part of the results has a share to compare; name a figure")
    return sum(firsts.values()) / len(firsts)


def _evaluate_set(
    model: Embedder,
    one: EvaluationSet,
    settings: dict,
    world: World,
    gates: GateRange,
    shown: Callable[[EvaluationSet, Mapping[str, Looked]], None] | None,
) -> dict[str, dict]:
    options = {"batch_size": settings["batch_size"], "flip": FLIPS[int(settings["flip"])], "gates": gates}
    views = one.protocol.views.items()
    looked = {key: look_at(model, one.protocol.images, view, world=world, **options) for key, view in views}
    if shown is not None:
        shown(one, looked)
    return one.protocol.measure(looked, asked(settings))
