"""Error-versus-discard curves of a model's own quality on pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from recognition.data.pairs import PairSet, read_bin, read_pairs
from recognition.data.records import Records
from recognition.evaluation.compared import PAIR_RULES, Compared, sides
from recognition.evaluation.edc import Discarding, discard, pair_quality
from recognition.evaluation.intervals import bounds
from recognition.evaluation.protocol import ITEMS, Asked, Looked, Rules, View
from recognition.evaluation.protocols import PROTOCOLS

RULES = replace(
    PAIR_RULES,
    tie="the lowest threshold whose FAR over all impostors is at most the one asked for, before anything is discarded; "
    "pairs of equal quality are discarded in no order: the expected curve over all orders of them",
    resampled="pairs, genuine ones and impostors apart",
)
LOWER = {"better": "lower"}
SCORE, NORM = "the model's score", "the embedding's norm"


@PROTOCOLS.register("edc")
def edc(
    bin: str = "",
    records: str = "",
    pairs: str = "",
    folds: int = 10,
    classes: str = "offset",
    low_res: Sequence[int | Sequence[int]] = (112,),
    most: float = 0.3,
) -> ErrorVersusDiscard:
    """Does the model's own quality find the pairs that it gets wrong? FNMR while the worst genuine pairs are discarded.

    bin: an InsightFace .bin; or records, with pairs: a table as of the kind pairs. classes: as of that kind.
    folds: contiguous ones, for the accuracy, where the table has none. low_res: resolutions, N or [gallery, probe]
    pixels. most: largest share of genuine pairs discarded, in (0, 1).
    The quality of a pair is that of its worse face by the model's scorer, or by the embedding's norm where the model
    has none; the part's "quality" says which.
    """
    if bool(bin) == bool(records) or bool(records) != bool(pairs):
        raise ValueError("give either bin, an InsightFace .bin, or both records and pairs, a table of their keys")
    if not 0 < most < 1:
        raise ValueError(f"most is {most}; the largest share discarded lies between 0 and 1")
    file = Path(bin or pairs)
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    found: PairSet = read_bin(file) if bin else read_pairs(Records(records, classes=classes), file)
    of = folds if found.fold is None else found.fold
    return ErrorVersusDiscard(Compared(found.images, found.first, found.second, sides(low_res), found, of), most)


@dataclass(frozen=True)
class ErrorVersusDiscard:
    """Compared pairs with the curves that discarding by quality gives."""

    pairs: Compared
    most: float
    rules: Rules = RULES

    @property
    def images(self) -> Sequence[bytes]:
        """Those of the pairs."""
        return self.pairs.images

    @property
    def views(self) -> Mapping[str, View]:
        """Those of the pairs."""
        return self.pairs.views

    def measure(self, looked: Mapping[str, Looked], asked: Asked) -> dict[str, dict]:
        """Verification by side, and for each FAR F fnmr@F, pauc@F, relative_pauc@F and the curves edc@F and
        edc_ideal@F.

        pauc: mean FNMR while up to `most` is discarded; relative_pauc: 0 for the ideal order, 1 for no gain; absent
        where no pair, or every one, is an error. With several scores, each has its own: pauc@F_1 and so on.
        """
        whole = {key: _with_quality(one) for key, one in looked.items()}
        results = self.pairs.measure({key: replace(one, score=None) for key, one in whole.items()}, asked)
        for (gallery, probe), part in zip(self.pairs.sides, results.values(), strict=True):
            first = self._quality(whole, gallery, self.pairs.gallery)
            second = self._quality(whole, probe, self.pairs.probe)
            quality = {str(k + 1): pair_quality(first[:, k], second[:, k]) for k in range(first.shape[1])}
            items = part[ITEMS]
            for far in asked.far:
                options = {"most": self.most, "resamples": asked.resamples, "seed": asked.seed}
                found = discard(items["score"], items["same"], quality, far=far, **options)
                part |= _figures(found, far, int(items["same"].sum()))
            part["quality"] = NORM if next(iter(looked.values())).score is None else SCORE
            seen = {"quality_1": first[:, 0], "quality_2": second[:, 0]} if first.shape[1] == 1 else {}
            part[ITEMS] = {**items, **seen}
        return results

    def _quality(self, looked: Mapping[str, Looked], side: int, rows: np.ndarray) -> np.ndarray:
        """(P, k) of the images in these rows at one resolution."""
        return looked[str(side)].score[np.searchsorted(self.views[str(side)].rows, rows)]


def _with_quality(looked: Looked) -> Looked:
    """With a score (n, k) whatever the model has."""
    if looked.score is None:
        return replace(looked, score=looked.embedding.norm(dim=1, keepdim=True).cpu().numpy())
    return replace(looked, score=looked.score.reshape(len(looked.score), -1))


def _figures(found: Discarding, far: float, genuine: int) -> dict:
    fnmr = found.measure("fnmr")
    if fnmr["value"] in (0, 1) and fnmr["lo"] is not None:
        fnmr["lo"], fnmr["hi"] = bounds(float(fnmr["value"]), np.empty(0), genuine)
    figures = {f"fnmr@{far:g}": {**fnmr, **LOWER, "far": found.far}}
    curves = {f"edc_ideal@{far:g}": {"share": _plain(found.share), "fnmr": _plain(found.ideal)}}
    for name, values in found.curves.items():
        ending = f"_{name}" if len(found.curves) > 1 else ""
        figures[f"pauc@{far:g}{ending}"] = {**found.measure("pauc", name), **LOWER}
        relative = found.measure("relative", name)
        if relative["value"] is not None:
            figures[f"relative_pauc@{far:g}{ending}"] = {**relative, **LOWER, "unit": "ratio"}
        curves[f"edc@{far:g}{ending}"] = {"share": _plain(found.share), "fnmr": _plain(values)}
    if np.isfinite(found.threshold):
        figures[f"fnmr@{far:g}"]["threshold"] = found.threshold
    return {**figures, **curves}


def _plain(values: np.ndarray) -> list[float]:
    return [round(float(value), 6) for value in values]
