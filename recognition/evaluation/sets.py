"""What is evaluated: settings checked and files opened, before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recognition.data.pairs import PairSet, RecordImages, draw_pairs, read_bin, read_pairs
from recognition.data.records import Records
from recognition.evaluation.identification import DISTRACTOR
from recognition.registry import nearest
from recognition.types import IMAGE_SIZE

DEFAULTS = {
    "sets": (),
    "low_res": (IMAGE_SIZE,),
    "far": (1e-2, 1e-3),
    "ranks": (1, 5, 20),
    "flip": False,
    "batch_size": 128,
    "bootstrap": 1000,
    "seed": 0,
}
OTHERS = ("every", "best", "at_start", "edc")  # keys of the same section that trainer and quality protocol read
# by kind: keys that a set must have, and those it may have
KEYS = {
    "bin": (("path",), ("folds",)),
    "pairs": (("records", "pairs"), ("folds", "classes")),
    "drawn": (("records", "count"), ("folds", "classes", "seed", "hold_out")),
    "identification": (("records",), ("distractors", "classes", "hold_out")),
}


@dataclass(frozen=True)
class EvaluationSet:
    """Images, and which of them stand on the gallery side and on the probe side of each comparison."""

    name: str
    images: Sequence[bytes]
    gallery: np.ndarray  # (P,) or (G,) int64, positions in images: seen at the first of two sides
    probe: np.ndarray  # (P,) or (Q,) int64: seen at the second
    sides: tuple[tuple[int, int], ...]  # pixels (gallery, probe), one comparison each
    pairs: PairSet | None = None  # None = identification
    folds: int | np.ndarray = 10
    gallery_labels: np.ndarray | None = None  # (G,), identification only
    probe_labels: np.ndarray | None = None  # (Q,)


def settings_with_defaults(settings: dict) -> dict:
    """The evaluation settings, whole. ValueError for a key that evaluation does not know."""
    for key in settings:
        if key not in DEFAULTS and key not in OTHERS:
            raise ValueError(f"unknown setting evaluation.{key}{nearest(key, DEFAULTS)}")
    for key, kind, what in (("far", int | float, "numbers"), ("ranks", int, "whole numbers")):
        wrong = [value for value in settings.get(key, ()) if not isinstance(value, kind) or isinstance(value, bool)]
        if wrong:
            raise ValueError(f"evaluation.{key} holds {wrong[0]!r}; it is a list of {what}")
    return {**DEFAULTS, **settings}


def open_sets(settings: dict) -> list[EvaluationSet]:
    """Open every set of evaluation.sets, in order.

    A set is a dict of name, kind, its files, and optionally low_res in place of evaluation.low_res:
    bin: path; folds (10). pairs: records, pairs (a csv); folds where the csv has none; classes.
    drawn: records, count pairs drawn by seed (0) with people of their own in each of folds (10); hold_out.
    identification: records, distractors. The image with the lowest (shard, key) of each class of `records` is its
    gallery image, beside all of `distractors`; its other images are the probes. A class of one image is gallery only.
    classes: "offset" or "shared", for several shards. hold_out: keep only the classes divisible by it, those that
    training with data.hold_out leaves out.
    ValueError or FileNotFoundError names the set and what is wrong with it.
    """
    settings = settings_with_defaults(settings)
    opened: list[EvaluationSet] = []
    for chosen in settings["sets"]:
        one = _open(dict(chosen), settings["low_res"])
        if one.name in [other.name for other in opened]:
            raise ValueError(f"evaluation.sets holds two sets named '{one.name}': each needs a name of its own")
        opened.append(one)
    return opened


def side_name(gallery: int, probe: int) -> str:
    """112 for 112-against-112, 112-14 for a gallery at 112 and probes at 14 pixels."""
    return str(gallery) if gallery == probe else f"{gallery}-{probe}"


def _open(chosen: dict, low_res: Sequence[object]) -> EvaluationSet:
    name, kind = chosen.pop("name", ""), chosen.pop("kind", "")
    if not name or "/" in name:
        raise ValueError(f"evaluation.sets: a set is named '{name}'; it needs a name, without a slash")
    if kind not in KEYS:
        raise ValueError(f"evaluation set '{name}': unknown kind '{kind}'{nearest(kind, KEYS)}")
    sides = _sides(name, chosen.pop("low_res", low_res))
    must, may = KEYS[kind]
    for key in chosen:
        if key not in (*must, *may):
            raise ValueError(f"evaluation set '{name}': unknown key '{key}'{nearest(key, (*must, *may, 'low_res'))}")
    missing = [key for key in must if not chosen.get(key)]
    if missing:
        raise ValueError(f"evaluation set '{name}' of kind {kind} lacks {', '.join(missing)}")
    for key in ("path", "pairs"):
        if key in chosen and not Path(chosen[key]).is_file():
            raise FileNotFoundError(f"evaluation set '{name}': there is no file {chosen[key]}")
    try:
        return _identification(name, sides, chosen) if kind == "identification" else _pairs(name, kind, sides, chosen)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"evaluation set '{name}': {error}") from None
    except ValueError as error:
        raise ValueError(f"evaluation set '{name}': {error}") from None


def _sides(name: str, low_res: Sequence[object]) -> tuple[tuple[int, int], ...]:
    sides = []
    if isinstance(low_res, int):
        raise ValueError(f"evaluation set '{name}': low_res is {low_res}; it is a list of sides, such as [{low_res}]")
    for entry in low_res:
        both = tuple(entry) if isinstance(entry, list | tuple) else (entry, entry)
        if len(both) != 2 or not all(isinstance(n, int) and 1 <= n <= IMAGE_SIZE for n in both):
            raise ValueError(
                f"evaluation set '{name}': low_res holds {entry!r}; it must be a side in 1 .. {IMAGE_SIZE} pixels, or "
                "[gallery side, probe side]"
            )
        if both not in sides:
            sides.append(both)
    if not sides:
        raise ValueError(f"evaluation set '{name}': low_res is empty; [{IMAGE_SIZE}] evaluates the images as they are")
    return tuple(sides)


def _pairs(name: str, kind: str, sides: tuple[tuple[int, int], ...], chosen: dict) -> EvaluationSet:
    folds: int | np.ndarray = chosen.get("folds", 10)
    if kind == "bin":
        pairs = read_bin(chosen["path"])
    else:
        records = _records(chosen)
        if kind == "pairs":
            pairs = read_pairs(records, chosen["pairs"])
        else:
            pairs = draw_pairs(records, chosen["count"], chosen.get("seed", 0), folds=int(folds))
    if pairs.fold is not None and (kind == "drawn" or "folds" not in chosen):
        folds = pairs.fold
    return EvaluationSet(name, pairs.images, pairs.first, pairs.second, sides, pairs, folds)


def _identification(name: str, sides: tuple[tuple[int, int], ...], chosen: dict) -> EvaluationSet:
    records = _records(chosen)
    order = np.lexsort((records.key, records.shard, records.labels))
    labels = records.labels[order]
    lowest = np.append(True, labels[1:] != labels[:-1])
    if len(labels) == 0 or lowest.all():
        raise ValueError("no class holds two images, so there is nobody to ask for")
    parts, gallery_labels = [(records, order)], labels[lowest]
    gallery = np.flatnonzero(lowest)
    if chosen.get("distractors"):
        others = Records(chosen["distractors"], classes=chosen.get("classes", "offset"))
        parts.append((others, np.arange(len(others))))
        gallery = np.append(gallery, len(order) + np.arange(len(others)))
        gallery_labels = np.append(gallery_labels, np.full(len(others), DISTRACTOR))
    return EvaluationSet(
        name,
        RecordImages(*parts),
        gallery,
        np.flatnonzero(~lowest),
        sides,
        gallery_labels=gallery_labels,
        probe_labels=labels[~lowest],
    )


def _records(chosen: dict) -> Records:
    hold_out = chosen.get("hold_out", 0)
    return Records(chosen["records"], classes=chosen.get("classes", "offset"), hold_out=hold_out, held_out=hold_out > 0)
