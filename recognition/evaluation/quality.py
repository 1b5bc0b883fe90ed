"""Are quality scores good ones? Error-versus-discard curves of scorers on pairs at mixed resolutions, and their cost.

Every image gets a resolution of its own; scorer and matcher see the same pixels. The measure is in evaluation/edc.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor, nn

from recognition.data.degrade import Degradation
from recognition.distributed import World
from recognition.evaluation.compared import Compared
from recognition.evaluation.edc import Discarding, discard, pair_quality
from recognition.evaluation.embed import Embedder
from recognition.evaluation.protocol import EvaluationSet
from recognition.evaluation.scorers import cost, look
from recognition.evaluation.sets import settings_with_defaults
from recognition.evaluation.verification import pair_scores
from recognition.registry import nearest
from recognition.types import IMAGE_SIZE

DEFAULTS = {
    "scorers": (),
    "share": 0.9,
    "sides": (7, IMAGE_SIZE),
    "blur": 0.0,
    "noise": 0.0,
    "jpeg": (),
    "seed": 0,
    "least": (14,),
    "most": 0.3,
    "against": ("oracle",),
    "ladder": 64,
}
LADDER = (112, 56, 28, 14, 7)  # pixels
CONTROL = "random"  # a quality drawn for each image: what chance makes of a curve
ITEMS, SCORE = "items", "score/"


def measure_quality(
    model: Embedder,
    scorers: Mapping[str, nn.Module],
    settings: dict,
    world: World,
    sets: Sequence[EvaluationSet],
) -> dict[str, dict]:
    """By set: curves and areas of every scorer at each FAR, the ladder of scores over resolutions, cost per image.

    settings: the section config.evaluation, with its edc. scorers: by label. sets: those of pairs are used, at the
    resolutions that edc draws in place of low_res. All processes call this; the main one returns results, others {}.
    {set: {"images", "edc", "from": {"7": {"pairs", "genuine", "far": {"0.01": {...}}}, ...}, "ladder": {side: {label:
    median}}, "cost": {label: ms}, "matcher": ms}}; see _at_far for a FAR's. "from" has all pairs by the smallest side
    drawn, then for each of edc.least the pairs without a smaller image, with a threshold of their own: where faces too
    small to tell apart are in, they alone set it. "items" holds scores of pairs and images.
    ValueError for settings that cannot be, where no set holds pairs, or one of edc.least leaves too few.
    """
    settings = settings_with_defaults(settings)
    edc = edc_settings(settings)
    drawn = _degradation(edc)
    pairs = [one for one in sets if isinstance(one.protocol, Compared) and one.protocol.pairs is not None]
    if not pairs:
        raise ValueError("evaluation.sets holds no pairs: error-versus-discard curves are of kinds bin, pairs, drawn")
    for name in edc["against"]:
        if name not in (*scorers, CONTROL):
            raise ValueError(f"evaluation.edc.against names '{name}'{nearest(name, [*scorers, CONTROL])}")
    results = {}
    for one in pairs:
        options = {"world": world, "batch_size": settings["batch_size"]}
        seen = look(one.protocol.images, drawn, edc["seed"], scorers, model=model, flip=settings["flip"], **options)
        ladder = _ladder(one.protocol.images, scorers, edc, options)
        if world.is_main:
            matcher, each = cost(scorers, model, one.protocol.images, world.device)
            items = _items(one.protocol, *seen, edc)
            found = measure_items(items, settings)
            results[one.name] = {**found, "ladder": ladder, "matcher": matcher, "cost": each, ITEMS: items}
    return results


def edc_settings(settings: Mapping[str, object]) -> dict:
    """The section evaluation.edc, whole. ValueError for a key that it does not have, or a value that cannot be."""
    given = dict(settings.get("edc") or {})
    for key in given:
        if key not in DEFAULTS:
            raise ValueError(f"unknown setting evaluation.edc.{key}{nearest(key, DEFAULTS)}")
    edc = {**DEFAULTS, **given}
    _degradation(edc)
    if not 0 < edc["most"] < 1:
        raise ValueError(f"evaluation.edc.most is {edc['most']}; the largest share discarded lies between 0 and 1")
    return edc


def _degradation(edc: Mapping[str, object]) -> Degradation:
    try:
        return Degradation(
            share=edc["share"],
            sides=tuple(edc["sides"]),
            blur=edc["blur"],
            noise=edc["noise"],
            jpeg=tuple(edc["jpeg"]) or None,
        )
    except ValueError as error:
        raise ValueError(f"evaluation.edc: {error}") from None


def _ladder(
    images: Sequence[bytes], scorers: Mapping[str, nn.Module], edc: dict, options: dict
) -> dict[str, dict[str, float]]:
    """Median score of some images, from all over the set, reduced to each side of the ladder."""
    if not edc["ladder"] or not scorers:
        return {}
    rows = np.unique(np.linspace(0, len(images) - 1, min(edc["ladder"], len(images))).astype(np.int64))
    rungs = {}
    for side in LADDER:
        reduced = Degradation(share=1.0, sides=(side, side))
        _, scores = look(images, reduced, edc["seed"], scorers, rows=rows, **options)
        rungs[str(side)] = {label: float(np.median(values)) for label, values in scores.items()}
    return rungs


def _items(one: Compared, embeddings: Tensor, scores: Mapping[str, np.ndarray], edc: Mapping) -> dict:
    """Per pair similarity, same, first, second; per image its side in pixels and score/LABEL."""
    count = len(one.images)
    side = _degradation(edc).draw(edc["seed"], np.arange(count)).side
    control = np.random.default_rng(edc["seed"]).random(count, np.float32)
    return {
        "similarity": pair_scores(embeddings[one.gallery], embeddings[one.probe]),
        "same": one.pairs.same,
        "first": one.gallery,
        "second": one.probe,
        "side": np.where(side > 0, side, IMAGE_SIZE),
        **{f"{SCORE}{label}": values for label, values in {**scores, CONTROL: control}.items()},
    }


def measure_items(items: Mapping[str, np.ndarray], settings: dict) -> dict:
    """Curves and areas out of what edc_items.npz holds of a set: "images", "edc" and "from" of measure_quality()."""
    settings = settings_with_defaults(settings)
    edc = edc_settings(settings)
    first, second = items["first"], items["second"]
    quality = {
        key.removeprefix(SCORE): pair_quality(values[first], values[second])
        for key, values in items.items()
        if key.startswith(SCORE)
    }
    smaller = np.minimum(items["side"][first], items["side"][second])
    lowest = min(int(edc["sides"][0]), IMAGE_SIZE)
    found = {}
    for least in (lowest, *(side for side in edc["least"] if side > lowest)):
        kept = smaller >= least
        try:
            found[str(least)] = _of_pairs(items, quality, kept, settings, edc)
        except ValueError as error:
            raise ValueError(f"pairs without an image below {least} px (evaluation.edc.least): {error}") from None
    plain = {key: list(value) if isinstance(value, list | tuple) else value for key, value in edc.items()}
    return {"images": len(items["side"]), "edc": plain, "from": found}


def _of_pairs(items: Mapping, quality: Mapping[str, np.ndarray], kept: np.ndarray, settings: dict, edc: dict) -> dict:
    similarity, same = items["similarity"][kept], items["same"][kept]
    some = {label: values[kept] for label, values in quality.items()}
    options = {"most": edc["most"], "resamples": settings["bootstrap"], "seed": settings["seed"]}
    at = {f"{far:g}": _at_far(discard(similarity, same, some, far=far, **options), edc) for far in settings["far"]}
    return {"pairs": len(same), "genuine": int(same.sum()), "far": at}


def _at_far(found: Discarding, edc: dict) -> dict:
    """As JSON has it: threshold, FAR reached, FNMR of all, the ideal, each scorer's areas, differences and curve."""
    each = {
        label: {
            "pauc": found.measure("pauc", label),
            "relative": found.measure("relative", label),
            "less": {other: found.difference(label, other) for other in edc["against"] if other != label},
            "curve": _rounded(found.curves[label]),
        }
        for label in found.curves
    }
    share = found.share
    return {
        "threshold": found.threshold if np.isfinite(found.threshold) else None,
        "far": found.far,
        "fnmr": found.measure("fnmr"),
        "share": _rounded(share),
        "ideal": {"pauc": float(np.trapezoid(found.ideal, share) / share[-1]), "curve": _rounded(found.ideal)},
        "scorers": each,
    }


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 6) for value in values]
