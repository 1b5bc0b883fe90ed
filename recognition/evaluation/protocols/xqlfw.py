"""XQLFW: LFW's pictures at differing qualities (Knoche, Hörmann and Rigoll, FG 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from recognition.evaluation.compared import PAIR_RULES
from recognition.evaluation.listed import check_counts
from recognition.evaluation.protocol import ITEMS, Asked, Looked, View
from recognition.evaluation.protocols import PROTOCOLS
from recognition.evaluation.protocols._listed_pairs import ListedPairs, listed_pairs
from recognition.evaluation.protocols._official import by_rule
from recognition.evaluation.protocols._pair_list import read_pair_list
from recognition.types import IMAGE_SIZE

FOLDS, PAIRS = 10, 3000  # pairs of each kind, in all
PICTURES = "xqlfw_aligned_112"
RULES = replace(
    PAIR_RULES,
    folds=f"the list's ten; {PAIR_RULES.folds}; accuracy_official: 1 - cosine < threshold, the first best of 0, 0.001, "
    "... 1.999 on the other folds, as the benchmark's own program has it",
)


@PROTOCOLS.register("xqlfw")
def xqlfw(
    data: str,
    pairs: str = "",
    pictures: str = "",
    failures: str = "error",
    counts: str = "published",
    resampled: str = "pairs",
) -> OfficialToo:
    """XQLFW: 6,000 pairs of unlike quality in 10 folds, also by the benchmark's own rule (accuracy_official).

    data: the folder. pairs: the list; "" = data/xqlfw_pairs.txt. pictures: the folder of Name/Name_0001.jpg, or what
    tools/align.py made of it; "" = data/xqlfw_aligned_112 where it is there, else data.
    failures: "error", "miss" or "exclude": of pictures that are not there. counts: "published" or "any".
    resampled: what intervals draw: "pairs" or "people".
    """
    file = Path(pairs or Path(data) / "xqlfw_pairs.txt")
    found = read_pair_list(file, "names", folds=FOLDS)
    genuine = int(found.same.sum())
    wanted = {"genuine pairs": genuine, "impostor pairs": len(found) - genuine}
    check_counts({what: (got, PAIRS, str(file)) for what, got in wanted.items()}, counts)
    aligned = Path(data) / PICTURES
    folder = Path(pictures) if pictures else aligned if aligned.is_dir() else Path(data)
    return OfficialToo(listed_pairs(found, folder, [(IMAGE_SIZE, IMAGE_SIZE)], failures, RULES, resampled), "xqlfw")


@dataclass(frozen=True)
class OfficialToo:
    """Pairs with a further accuracy by the rule of a benchmark's own program."""

    pairs: ListedPairs
    rule: str  # of verify_scores

    @property
    def rules(self):
        """As the pairs state them."""
        return self.pairs.rules

    @property
    def images(self):
        """Those of the pairs."""
        return self.pairs.images

    @property
    def views(self) -> Mapping[str, View]:
        """Those of the pairs."""
        return self.pairs.views

    def measure(self, looked: Mapping[str, Looked], asked: Asked) -> dict[str, dict]:
        """Verification, with accuracy_official, and correct_official among the items."""
        results = {}
        for name, part in self.pairs.measure(looked, asked).items():
            accuracy, found = by_rule(part, self.rule, asked)
            items = {**part[ITEMS], "correct_official": found["correct"]}
            results[name] = {**part, "accuracy_official": accuracy, ITEMS: items}
        return results
