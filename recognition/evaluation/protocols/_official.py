"""Accuracy by the rule of a benchmark's own program, from the scores of a part that is measured already."""

from __future__ import annotations

import numpy as np

from recognition.evaluation.measures import accuracy_of
from recognition.evaluation.protocol import ITEMS, Asked
from recognition.evaluation.verification import verify_scores


def by_rule(part: dict, rule: str, asked: Asked) -> tuple[dict, dict]:
    """The accuracy with its interval, and what verify_scores says by that rule.

    part: as measures.verification has it.
    """
    items = part[ITEMS]
    found = verify_scores(items["score"], items["same"], items["fold"], far=(), rule=rule)
    items = {**items, "correct": found["correct"]}
    return accuracy_of(found["accuracy"], items, asked, part.get("resampled", "pairs")), found


def standard_error(per_fold: np.ndarray) -> float:
    """Of the mean over F folds: their standard deviation (F - 1) by the root of F."""
    return float(np.std(per_fold, ddof=1) / np.sqrt(len(per_fold)))
