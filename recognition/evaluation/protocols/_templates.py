"""What template benchmarks share: pictures that become templates, and pairs of templates that are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy

from recognition.evaluation import intervals
from recognition.evaluation.listed import MISSED, rule_of
from recognition.evaluation.protocol import ITEMS, Asked, Looked, View
from recognition.evaluation.templates import Ranked, pool, score_rows

INTERVALS = "; AUC and EER are told no interval, as pairs share templates"


@dataclass(frozen=True)
class Shots:
    """The pictures that templates are made of, an entry for each picture in each template."""

    template: np.ndarray  # (n,) int32 in 0 .. templates - 1
    medium: np.ndarray  # (n,) integers: frames of one video share theirs; one counts within its template
    image: np.ndarray  # (n,) int64 positions in the protocol's images; -1 = a failure
    templates: int  # how many there are, whether they have a picture or not
    weight: np.ndarray | None = None  # (n,) float32, of each picture in its template

    @property
    def present(self) -> np.ndarray:
        """(templates,) bool: those with a picture."""
        present = np.zeros(self.templates, bool)
        present[self.template[self.image >= 0]] = True
        return present

    def view(self, flip: str | None) -> View:
        """All pictures that are there, each once."""
        return View(np.unique(self.image[self.image >= 0]), flip=flip)

    def pooled(self, looked: Looked, view: View, keep_norm: bool) -> Templates:
        """The templates from the embeddings of a view that `view` gave."""
        there = np.flatnonzero(self.image >= 0)
        image, template = self.image[there], self.template[there]
        weight = None if self.weight is None else self.weight[there]
        rows, vectors = pool(
            looked.embedding,
            template,
            self.medium[there],
            rows=np.searchsorted(view.rows, image),
            keep_norm=keep_norm,
            detector_score=weight,
        )
        whole = np.zeros((self.templates, vectors.shape[1]), np.float32)
        whole[rows] = vectors
        shown = np.full(self.templates, -1, np.int32)
        order = slice(None, None, -1) if weight is None else np.argsort(weight, kind="stable")
        shown[template[order]] = image[order]  # the last one stays: the first picture, or the one of most weight
        return Templates(whole, self.present, shown)


@dataclass(frozen=True)
class Templates:
    """Embeddings of templates."""

    vectors: np.ndarray  # (T, D) float32 of length one; zero where no picture is there
    present: np.ndarray  # (T,) bool
    shown: np.ndarray  # (T,) int32, the picture that stands for it in reports; -1 without one


@dataclass(frozen=True)
class TemplatePairs:
    """Pairs of templates to compare: arrays (P,) that are small, as there may be 15.7 million."""

    first: np.ndarray  # int32 templates
    second: np.ndarray
    same: np.ndarray  # bool
    person: np.ndarray  # (T,) integers: whose template it is, or of which group of templates that pairs say are one's

    def people(self) -> tuple[np.ndarray, np.ndarray]:
        """The person on either side, (P,) each."""
        kind = np.int16 if len(self.person) and self.person.max() < 2**15 else np.int32
        person = self.person.astype(kind)
        return person[self.first], person[self.second]


def people_of_pairs(first: np.ndarray, second: np.ndarray, same: np.ndarray, templates: int) -> np.ndarray:
    """(templates,) int32: templates are one person's where genuine pairs connect them."""
    ones = np.ones(int(same.sum()), bool)
    links = scipy.sparse.coo_matrix((ones, (first[same], second[same])), (templates, templates))
    return scipy.sparse.csgraph.connected_components(links, directed=False)[1].astype(np.int32)


def verification(
    templates: Templates, pairs: TemplatePairs, asked: Asked, far: Sequence[float], failures: str = "error"
) -> dict:
    """One part's results: tar@F at the rates of `far` and those asked for, auc, eer, counts, the ROC, and items.

    A tar@F is the TAR at the largest FAR that is not above F, from a threshold on, beside the one at the nearest FAR.
    Its interval draws people. A pair that lacks a template is left out with failures="exclude", else never accepted.
    """
    failed = ~(templates.present[pairs.first] & templates.present[pairs.second])
    if failures == "exclude" and failed.any():
        kept = ~failed
        pairs = replace(pairs, first=pairs.first[kept], second=pairs.second[kept], same=pairs.same[kept])
    scores = score_rows(templates.vectors, pairs.first, pairs.second)
    if failures != "exclude":
        scores[failed] = MISSED
    rates = tuple(dict.fromkeys(float(f) for f in (*far, *asked.far)))
    ranked = Ranked(scores, pairs.same)
    at = [ranked.at(rate) for rate in rates]
    whole = {"auc": {"value": ranked.auc()}, "eer": {"value": ranked.eer()}}
    roc = ranked.roc()
    del ranked  # as large as the scores, and the bootstrap is where memory is short
    people = pairs.people()
    known = len(np.unique(people[0][pairs.same]))
    compared = np.zeros(len(pairs.person), bool)  # templates, of which there are few; a person of every pair is slower
    compared[pairs.first] = compared[pairs.second] = True
    drawn = [np.empty(0)] * len(rates)
    if asked.resamples:
        bootstrap = {"resamples": asked.resamples, "seed": asked.seed}
        drawn = list(intervals.resample_tar_by_group(scores, pairs.same, *people, rates, **bootstrap))
    return {
        **{f"tar@{rate:g}": _tar(*each, known) for rate, *each in zip(rates, at, drawn, strict=True)},
        **whole,
        "pairs": len(scores),
        "genuine": int(pairs.same.sum()),
        "people": len(np.unique(pairs.person[compared])),
        "failed": int(failed.sum()),
        "roc": roc,
        ITEMS: {
            "score": scores,
            "same": pairs.same,
            "first": templates.shown[pairs.first],
            "second": templates.shown[pairs.second],
            "person_1": people[0],
            "person_2": people[1],
        },
    }


def _tar(at: dict[str, float], drawn: np.ndarray, people: int) -> dict[str, float | None]:
    """A tar@F from what Ranked.at says, and its resampled values, if any."""
    value = at["conservative"]
    lo, hi = intervals.bounds(value, drawn, people) if len(drawn) else (None, None)
    near = {key: at[key] for key in ("nearest", "nearest_far")}
    return {"value": value, "lo": lo, "hi": hi, "far": at["conservative_far"], "threshold": at["threshold"], **near}


def check_kinds(same: np.ndarray, where: str, failures: str = "error") -> None:
    """ValueError where the pairs that are left are all genuine, or all impostors. same: (P,) of those."""
    if same.all() or not same.any():
        left = " that failures='exclude' leaves" if failures == "exclude" else ""
        raise ValueError(f"{where} holds {int(same.sum())} genuine pairs of {len(same)}{left}: both kinds are needed")


def failure_rule(failures: str) -> str:
    """The phrase for Rules.failures of templates."""
    return rule_of(
        failures,
        "a missing picture is left out of its template; a template without any is never accepted, so that an impostor "
        "pair with it counts as right, and never found",
        "a missing picture is left out of its template; templates without any are left out of all figures",
    )
