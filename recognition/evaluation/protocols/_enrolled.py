"""Templates of people, looked for in galleries of templates: closed set, and open set with strangers among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from recognition.evaluation import identification, intervals, measures
from recognition.evaluation.identification import Search
from recognition.evaluation.listed import MISSED
from recognition.evaluation.openset import open_set, resample_tpir
from recognition.evaluation.protocol import ITEMS, Asked
from recognition.evaluation.protocols._templates import Templates


@dataclass(frozen=True)
class Enrolled:
    """Templates of people: a gallery, or probes."""

    template: np.ndarray  # (n,) int32
    person: np.ndarray  # (n,) int64

    def __add__(self, other: Enrolled) -> Enrolled:
        pairs = zip((self.template, self.person), (other.template, other.person), strict=True)
        return Enrolled(*(np.concatenate(both) for both in pairs))


def identify(
    templates: Templates,
    probes: Enrolled,
    closed: Sequence[Enrolled],
    opened: Sequence[Enrolled],
    asked: Asked,
    ranks: Sequence[int],
    fpir: Sequence[float],
    failures: str = "error",
) -> dict:
    """One part's results: rank-K, tpir1@F, counts, and items.

    closed: galleries for rank-K; a probe is asked for in each that holds its person, and all searches count alike.
    opened: galleries for TPIR at FPIR, the mean over them; none without probes of people who are not in the gallery.
    A template without a picture is never found, or left out with failures="exclude".
    """
    gone = ~templates.present[probes.template]
    if failures == "exclude":
        probes = _only(probes, ~gone)
    found, mated, offset = [], [], 0
    for gallery in closed:
        known = _only(probes, np.isin(probes.person, _enrolled(templates, gallery, failures)))
        if len(known.template):
            search = _search(templates, known, gallery)
            found.append(replace(search, best=search.best + offset))
            mated.append(known)
        offset += len(gallery.template)
    if not mated:
        raise ValueError("no probe has a mate in the gallery, so there is nobody to ask for")
    asked_for = mated[0] if len(mated) == 1 else sum(mated[1:], mated[0])
    names = ("best", "similarity", "position", "mate_similarity")
    whole = Search(*(np.concatenate([getattr(one, name) for one in found]) for name in names))
    shown = {"probe": templates.shown[asked_for.template].astype(np.int64)}
    part = measures.closed_set(whole, asked_for.person, replace(asked, ranks=ranks), shown)
    rates, strangers = _open_sets(templates, probes, opened, asked, fpir, failures)
    gallery_templates = np.concatenate([gallery.template for gallery in closed])
    return {
        **part,
        **rates,
        "gallery": len(gallery_templates),
        "unmated": len(probes.template) - len(np.unique(asked_for.template)),
        "failed": int(gone.sum()) + int((~templates.present[gallery_templates]).sum()),
        ITEMS: {
            **part[ITEMS],
            "gallery": templates.shown[gallery_templates].astype(np.int64),
            **strangers,
        },
    }


def check_mates(
    present: np.ndarray, probes: Enrolled, closed: Sequence[Enrolled], failures: str, where: str = ""
) -> None:
    """ValueError where `identify` would find nobody to ask for. present: (T,) bool, templates with a picture."""
    if failures != "exclude":
        present = np.ones(len(present), bool)
    asked_for = probes.person[present[probes.template]]
    enrolled = [gallery.person[present[gallery.template]] for gallery in closed]
    if not any(np.isin(asked_for, people).any() for people in enrolled):
        left = " that failures='exclude' leaves" if failures == "exclude" else ""
        raise ValueError(f"{where}no probe{left} has a mate in the gallery, so there is nobody to ask for")


def check_asked(
    ranks: Sequence[int], galleries: Sequence[Enrolled], far: Sequence[float], fpir: Sequence[float]
) -> None:
    """ValueError for what cannot be measured, before pictures are embedded: a rank or a rate out of range."""
    for gallery in galleries:
        identification.check_ranks(ranks, len(gallery.template))
    for name, rates in (("far", far), ("fpir", fpir)):
        for rate in rates:
            if not 0 < rate <= 1:
                raise ValueError(f"{name} holds {rate}; a rate lies in (0, 1]")


def _open_sets(
    templates: Templates,
    probes: Enrolled,
    galleries: Sequence[Enrolled],
    asked: Asked,
    fpir: Sequence[float],
    failures: str,
) -> tuple[dict, dict[str, np.ndarray]]:
    """tpir1@F, the mean over galleries in which some probes have a mate and others have none; {} without any.

    And of a single gallery the items that pair two models: what the probes of nobody in it found.
    """
    results, drawn, persons = [], [], []
    for number, gallery in enumerate(galleries):
        inside = np.isin(probes.person, gallery.person)
        mated = inside & np.isin(probes.person, _enrolled(templates, gallery, failures))
        if not mated.any() or inside.all():
            continue
        known, strangers = _only(probes, mated), _only(probes, ~inside)
        search, alike = _search(templates, known, gallery), _search(templates, strangers, gallery).similarity
        people = (known.person, strangers.person)
        persons.append(np.unique(known.person))
        here = replace(asked, resamples=asked.resamples if len(galleries) == 1 else 0, seed=asked.seed + number)
        results.append(open_set(search, alike, fpir, (1,), here, people))
        if asked.resamples and len(galleries) > 1:
            hits = np.where(search.position <= 1, search.mate_similarity, -np.inf)[None]
            drawn.append(resample_tpir(hits, alike, fpir, people, asked.resamples, here.seed)[:, 0])
    if not results:
        return {}, {}
    if len(galleries) == 1:
        shown = templates.shown[strangers.template].astype(np.int64)
        return results[0], {
            "unmated_similarity": alike,
            "unmated_person": strangers.person,
            "unmated_probe": shown,
        }
    mean = {}
    for j, rate in enumerate(fpir):
        key = f"tpir1@{rate:g}"
        value = float(np.mean([one[key]["value"] for one in results]))
        trials = len(np.unique(np.concatenate(persons)))
        lo, hi = intervals.bounds(value, np.mean(drawn, 0)[:, j], trials) if drawn else (None, None)
        mean[key] = {
            "value": value,
            "lo": lo,
            "hi": hi,
            "nearest": float(np.mean([one[key]["nearest"] for one in results])),
        }
        for number, one in enumerate(results, 1):
            mean[key] |= {f"{name}_{number}": one[key][name] for name in ("value", "fpir", "threshold")}
    return mean, {}


def _only(enrolled: Enrolled, kept: np.ndarray) -> Enrolled:
    return Enrolled(enrolled.template[kept], enrolled.person[kept])


def _enrolled(templates: Templates, gallery: Enrolled, failures: str) -> np.ndarray:
    """Who is to be found: everybody in the list, or with "exclude" those with a picture."""
    return gallery.person[templates.present[gallery.template]] if failures == "exclude" else gallery.person


def _search(templates: Templates, probes: Enrolled, gallery: Enrolled) -> Search:
    """What the probes find; those without a picture find nothing, and nobody finds gallery templates without one."""
    stored = np.flatnonzero(templates.present[gallery.template])
    seen = np.flatnonzero(templates.present[probes.template])
    count, last = len(probes.template), len(gallery.template) + 1
    nothing = Search(
        best=np.full(count, -1),
        similarity=np.full(count, MISSED, np.float32),
        position=np.full(count, last),
        mate_similarity=np.full(count, MISSED, np.float32),
    )
    if not len(stored) or not len(seen):
        return nothing
    found = identification.search(
        templates.vectors,
        probes.person[seen],
        torch.from_numpy(templates.vectors[gallery.template[stored]]),
        gallery.person[stored],
        rows=probes.template[seen].astype(np.int64),
    )
    nothing.best[seen], nothing.similarity[seen] = stored[found.best], found.similarity
    nothing.mate_similarity[seen] = found.mate_similarity
    nothing.position[seen] = np.where(found.position > len(stored), last, found.position)
    return nothing
