"""Midpoint and slope from the scores of images: named rules, and histograms as text."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

TAIL = 0.1  # share of the images at gate 0, and at gate 1, by the rule "quantiles"
DIGITS = 6  # of what is fitted, so that a recipe can say it
BAR = 24  # characters of the longest bar


@dataclass(frozen=True, slots=True)
class Fit:
    """A gate for the images whose scores were given, whatever its form: it rises from `low` to `high`."""

    rule: str
    low: float  # score at which the straight line is 0
    high: float  # score at which it is 1
    images: int

    @property
    def midpoint(self) -> float:
        """Score at which the gate is 0.5."""
        return rounded((self.low + self.high) / 2)

    def slope(self, steepness: float = 1.0, takes_slope: bool = True) -> float:
        """The slope that a form of this steepness needs to rise by 1 / (high - low) at the midpoint."""
        return rounded(1 / (self.high - self.low) / steepness) if takes_slope else 1.0


def roles(scores: np.ndarray, poor: np.ndarray) -> tuple[float, float]:
    """Medians of two roles: the poor images (degraded, probes) at gate 0, the good ones at 1.

    poor: (N,) bool. ValueError where one role is missing, or the good ones do not score higher.
    """
    count = int(poor.sum())
    if count in (0, len(poor)):
        raise ValueError(
            f"rule 'roles' needs good and poor images: {count} of these {len(poor)} are degraded; set "
            "degradation.share between 0 and 1, give --gallery and --probe, or take the rule otsu or quantiles"
        )
    low, high = float(np.median(scores[poor])), float(np.median(scores[~poor]))
    if not low < high:
        raise ValueError(
            f"rule 'roles': the median score of the good images is {high:.4g} and of the poor ones {low:.4g}: this "
            "scorer does not tell them apart; take another one"
        )
    return low, high


def otsu(scores: np.ndarray, poor: np.ndarray | None = None) -> tuple[float, float]:
    """Means of the two groups into which one threshold cuts the scores with the largest variance between them.

    Otsu 1979, on the scores themselves instead of a histogram. For scores of two heaps, whose roles nobody knows.
    """
    ordered = np.sort(scores)
    below = np.arange(1, len(ordered))
    sums = np.cumsum(ordered)[:-1]
    means = sums / below, (ordered.sum() - sums) / (len(ordered) - below)
    between = below * (len(ordered) - below) * (means[1] - means[0]) ** 2
    cut = int(np.where(np.diff(ordered) > 0, between, -1).argmax())  # equal scores are not parted
    return float(means[0][cut]), float(means[1][cut])


def quantiles(scores: np.ndarray, poor: np.ndarray | None = None) -> tuple[float, float]:
    """The scores that a tenth of the images do not reach, and exceed."""
    low, high = np.quantile(scores, [TAIL, 1 - TAIL])
    return float(low), float(high)


RULES = {"roles": roles, "otsu": otsu, "quantiles": quantiles}


def fit(scores: np.ndarray, rule: str, poor: np.ndarray | None = None) -> Fit:
    """The gate for these scores (N,) by a rule of RULES. poor: (N,) bool, for "roles".

    ValueError for an unknown rule, for scores that are not finite, and for those that leave nothing to fit.
    """
    if rule not in RULES:
        raise ValueError(f"config.gate.fit is '{rule}'; it must be one of {', '.join(RULES)}")
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 1 or not len(scores) or not np.isfinite(scores).all():
        raise ValueError(
            f"a gate is fitted to one finite score per image; got {scores.shape}, "
            f"{int((~np.isfinite(scores)).sum())} of them not finite"
        )
    if scores.min() == scores.max():
        raise ValueError(
            f"all {len(scores)} images have the score {scores[0]:.4g}, so no gate can tell them apart: take another "
            "scorer, or a set midpoint and slope"
        )
    low, high = RULES[rule](scores, np.zeros(len(scores), bool) if poor is None else np.asarray(poor, bool))
    if not low < high:
        raise ValueError(
            f"rule '{rule}' finds {low:.4g} as low and {high:.4g} as high score of {len(scores)} images: nearly all "
            "score alike; take another rule or scorer"
        )
    return Fit(rule, low, high, len(scores))


def histogram(values: dict[str, np.ndarray], bins: int = 20, span: tuple[float, float] | None = None) -> list[str]:
    """Lines of text: bars for each named group of values side by side, each group's longest bar as long.

    span: lowest and highest edge; None = from the lowest to the highest value.
    """
    everything = np.concatenate([*values.values()])
    edges = np.histogram_bin_edges(everything, bins, span)
    counts = {name: np.histogram(group, edges)[0] for name, group in values.items()}
    head = "".join(f"{f'{name} ({len(values[name])})':<{BAR + 9}}" for name in counts)
    lines = [f"{'':>19}  {head}".rstrip()]
    for i, (low, high) in enumerate(pairwise(edges)):
        cells = (
            f"{'#' * int(np.ceil(found[i] / max(1, found.max()) * BAR)):<{BAR}} {found[i] or '':<8}"
            for found in counts.values()
        )
        lines.append(f"{low:>9.4g} {high:>9.4g}  {''.join(cells)}".rstrip())
    return lines


def rounded(value: float) -> float:
    """To as many digits as a recipe would say."""
    return float(f"{value:.{DIGITS}g}")
