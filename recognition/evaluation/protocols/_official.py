"""Accuracy by the rule of a benchmark's own program, from the scores of a part that is measured already."""

from __future__ import annotations

import numpy as np

from recognition.evaluation.intervals import resample_mean
from recognition.evaluation.measures import by_fold, measure
from recognition.evaluation.protocol import ITEMS, Asked
from recognition.evaluation.verification import verify_scores


def by_rule(part: dict, rule: str, asked: Asked) -> tuple[dict, dict]:
    """The accuracy with its interval, and what verify_scores says by that rule.

    part: as measures.verification has it.
    """
    items = part[ITEMS]
    found = verify_scores(items["score"], items["same"], items["fold"], far=(), rule=rule)
    right = by_fold({"correct": found["correct"], "fold": items["fold"]})
    return measure(found["accuracy"], resample_mean, right, asked=asked), found


def standard_error(per_fold: np.ndarray) -> float:
    """Of the mean over F folds: their standard deviation (F - 1) by the root of F."""
    return float(np.std(per_fold, ddof=1) / np.sqrt(len(per_fold)))
