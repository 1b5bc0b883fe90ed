"""Record files of one's own: listed pairs, drawn pairs, and closed-set identification with distractors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recognition.data.pairs import PairSet, RecordImages, draw_pairs, read_pairs
from recognition.data.records import Records
from recognition.evaluation.compared import GALLERY_RULES, PAIR_RULES, Compared, sides, stated
from recognition.evaluation.identification import DISTRACTOR
from recognition.evaluation.protocols import PROTOCOLS

Sides = Sequence[int | Sequence[int]]


@PROTOCOLS.register("pairs")
def listed_pairs(
    records: str | Sequence[str],
    pairs: str,
    folds: int = 0,
    classes: str = "offset",
    low_res: Sides = (112,),
    resampled: str = "pairs",
) -> Compared:
    """Pairs of records by key, from a table with the columns key_1, key_2, same and, where known, fold.

    records: record file, prefix or folder, or several. pairs: the table, as recognition.data.pairs.read_pairs has it.
    folds: contiguous ones in place of the table's; 0 = the table's, or 10 where it has none.
    classes: "offset" or "shared", for several shards. low_res: resolutions, N or [gallery, probe] pixels.
    resampled: what intervals draw: "pairs", or "people", by the records' labels.
    """
    if not Path(pairs).is_file():
        raise FileNotFoundError(f"there is no file {pairs}")
    found = read_pairs(Records(records, classes=classes), pairs)
    return _of_pairs(found, folds or (10 if found.fold is None else found.fold), low_res, resampled)


@PROTOCOLS.register("drawn")
def drawn_pairs(
    records: str | Sequence[str],
    count: int,
    folds: int = 10,
    classes: str = "offset",
    seed: int = 0,
    hold_out: int = 0,
    low_res: Sides = (112,),
    resampled: str = "pairs",
) -> Compared:
    """Pairs drawn from records by a seed, with people of their own in each fold.

    count: pairs in all. hold_out: keep only the classes divisible by it, those that training with data.hold_out leaves
    out; 0 = all. resampled and the others: as of `pairs`.
    """
    found = draw_pairs(_records(records, classes, hold_out), count, seed, folds=folds)
    return _of_pairs(found, found.fold, low_res, resampled)


@PROTOCOLS.register("identification")
def identification(
    records: str | Sequence[str],
    distractors: str | Sequence[str] = "",
    classes: str = "offset",
    hold_out: int = 0,
    low_res: Sides = (112,),
) -> Compared:
    """Closed-set identification: the image with the lowest (shard, key) of each class is its gallery image.

    Its other images are the probes; a class of one image is gallery only. distractors: records of nobody who is asked
    for, all of them in the gallery. hold_out, classes, low_res: as of `drawn`.
    """
    found = _records(records, classes, hold_out)
    order = np.lexsort((found.key, found.shard, found.labels))
    labels = found.labels[order]
    lowest = np.append(True, labels[1:] != labels[:-1])
    if len(labels) == 0 or lowest.all():
        raise ValueError("no class holds two images, so there is nobody to ask for")
    parts, gallery_labels = [(found, order)], labels[lowest]
    gallery = np.flatnonzero(lowest)
    if distractors:
        others = Records(distractors, classes=classes)
        parts.append((others, np.arange(len(others))))
        gallery = np.append(gallery, len(order) + np.arange(len(others)))
        gallery_labels = np.append(gallery_labels, np.full(len(others), DISTRACTOR))
    return Compared(
        RecordImages(*parts),
        gallery,
        np.flatnonzero(~lowest),
        sides(low_res),
        gallery_labels=gallery_labels,
        probe_labels=labels[~lowest],
        rules=GALLERY_RULES,
    )


def _of_pairs(pairs: PairSet, folds: int | np.ndarray, low_res: Sides, resampled: str) -> Compared:
    return Compared(
        pairs.images,
        pairs.first,
        pairs.second,
        sides(low_res),
        pairs,
        folds,
        rules=stated(PAIR_RULES, resampled),
        people=pairs.images.labels(),
        resampled=resampled,
    )


def _records(records: str | Sequence[str], classes: str, hold_out: int) -> Records:
    return Records(records, classes=classes, hold_out=hold_out, held_out=hold_out > 0)
