"""LFW with both faces of a pair at low resolutions, in this project's form and in EPFL's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import cv2

from recognition.data.decode import decode
from recognition.data.encoded import PictureError
from recognition.data.lazy import LazyImages
from recognition.data.pairs import PairSet, read_bin
from recognition.evaluation.compared import Compared
from recognition.evaluation.compared import sides as both_sides
from recognition.evaluation.embed import place_of
from recognition.evaluation.listed import check_counts
from recognition.evaluation.protocol import ITEMS, Asked, Looked, Rules, View
from recognition.evaluation.protocols import PROTOCOLS
from recognition.evaluation.protocols._joined import Joined
from recognition.evaluation.protocols._listed_pairs import listed_pairs
from recognition.evaluation.protocols._official import by_rule, standard_error
from recognition.evaluation.protocols._pair_list import PATTERN, read_pair_list
from recognition.types import IMAGE_SIZE

FORMS = ("ours", "epfl")
PAIRS = 3000  # of each kind
REDUCED = "both faces of a pair at the pixels that name the part"
EPFL_FOLDS = (
    "the list's ten; each fold is judged by that of 1,000 thresholds, equally spaced over the scores of the others, "
    "which has the largest TAR - FAR there; standard_error: of the mean over folds"
)


@PROTOCOLS.register("lfw_low_res")
def lfw_low_res(
    data: str = "",
    bin: str = "",
    pairs: str = "",
    pattern: str = PATTERN,
    form: str = "ours",
    sides: Sequence[int] = (7, 14, 28, 56, IMAGE_SIZE),
    folds: int = 10,
    failures: str = "error",
    counts: str = "published",
    resampled: str = "pairs",
) -> Compared | LowRes:
    """LFW's 6,000 pairs with both faces at 7, 14, 28, 56 and 112 pixels, in this project's form or in EPFL's.

    data: the folder of pictures, or what tools/align.py made of it, with pairs: the list, "" = data/pairs.txt, and
    pattern as of the kind pairs_txt. In its place, as data or as bin: an InsightFace .bin.
    form: "ours" - reduced by area and brought back bicubic, the exact threshold; "epfl" - bilinear both ways, the
    threshold out of 1,000 with the largest TAR - FAR, and the standard error of the mean over folds.
    sides: pixels, a part each. folds: contiguous ones, of a .bin. failures: "error", "miss" or "exclude".
    counts: "published" or "any". resampled: what intervals draw: "pairs", or "people" of a list.
    """
    if form not in FORMS:
        raise ValueError(f"form is '{form}'; it must be one of {', '.join(FORMS)}")
    wanted = _sides(sides)
    found = _pairs(data, bin, pairs, pattern, wanted, folds, failures, counts, resampled)
    if form == "ours":
        return replace(found, rules=replace(found.rules, gallery=f"none: {REDUCED}, by area and back bicubic"))
    tie = f"for the accuracy a pair passes where score > threshold; for the rest: {found.rules.tie}"
    rules = replace(found.rules, gallery=f"none: {REDUCED}, bilinear both ways", folds=EPFL_FOLDS, tie=tie)
    return LowRes(found, rules)


class Reduced(LazyImages):
    """Encoded images brought to side x side pixels and back to 112 by OpenCV's bilinear interpolation, without loss."""

    def __init__(self, images: Sequence[bytes], side: int) -> None:
        self.images, self.side = images, side

    def __len__(self) -> int:
        return len(self.images)

    def image(self, i: int) -> bytes:
        """Image i, encoded."""
        if self.side == IMAGE_SIZE:
            return self.images[i]
        try:
            picture = decode(self.images[i], IMAGE_SIZE, self.where(i))
        except PictureError as error:
            raise ValueError(f"{self.where(i)}: {error.problem}") from None  # its advice is for records
        for size in (self.side, IMAGE_SIZE):
            picture = cv2.resize(picture, (size, size), interpolation=cv2.INTER_LINEAR)
        # BMP: a twentieth of PNG's time, and nobody keeps it
        return cv2.imencode(".bmp", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()

    def where(self, i: int) -> str:
        """Image i as messages name it."""
        return place_of(self.images, i)


class LowRes:
    """Pairs in EPFL's form: reduced before they are embedded, judged by EPFL's threshold.

    Accuracy, its threshold and what of the items says which pairs are right are by that rule; the others are not.
    """

    def __init__(self, pairs: Compared, rules: Rules) -> None:
        """pairs: with a side for each part."""
        self.rules = rules
        full = ((IMAGE_SIZE, IMAGE_SIZE),)
        self._joined = Joined(
            {str(side): replace(pairs, images=Reduced(pairs.images, side), sides=full) for side, _ in pairs.sides},
            rules,
        )

    @property
    def images(self) -> Sequence[bytes]:
        """Every image once for each side."""
        return self._joined.images

    @property
    def views(self) -> Mapping[str, View]:
        """One, of all sides."""
        return self._joined.views

    def measure(self, looked: Mapping[str, Looked], asked: Asked) -> dict[str, dict]:
        """Verification by side."""
        results = {}
        for side, part in self._joined.measure(looked, asked).items():
            accuracy, found = by_rule(part, "epfl", asked)
            results[side] = {
                **part,
                "accuracy": accuracy,
                "accuracy_std": found["accuracy_std"],
                "standard_error": standard_error(found["accuracy_per_fold"]),
                "threshold": float(found["threshold_per_fold"].mean()),
                ITEMS: {**part[ITEMS], "correct": found["correct"]},
            }
        return results


def _sides(chosen: Sequence[int]) -> tuple[tuple[int, int], ...]:
    wrong = [side for side in chosen if not isinstance(side, int)]
    if wrong:
        raise ValueError(f"sides holds {wrong[0]!r}; both faces of a pair have one side, in pixels")
    return both_sides(chosen)


def _pairs(
    data: str,
    bin: str,
    pairs: str,
    pattern: str,
    wanted: tuple[tuple[int, int], ...],
    folds: int,
    failures: str,
    counts: str,
    resampled: str,
) -> Compared:
    if not bin and Path(data).is_file():
        data, bin = "", data
    if bool(data) == bool(bin):
        raise ValueError("give either bin, an InsightFace .bin, or data, a folder of pictures with a list of pairs")
    file = Path(bin or pairs or Path(data) / "pairs.txt")
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    found = read_bin(file) if bin else read_pair_list(file, pattern=pattern)
    genuine = int(found.same.sum())
    check_counts(
        {"genuine pairs": (genuine, PAIRS, str(file)), "impostor pairs": (len(found) - genuine, PAIRS, str(file))},
        counts,
    )
    if isinstance(found, PairSet):
        return Compared(found.images, found.first, found.second, wanted, found, folds, resampled=resampled)
    return listed_pairs(found, data, wanted, failures, resampled=resampled)
