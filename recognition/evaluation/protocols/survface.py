"""QMUL-SurvFace (Cheng, Zhu, Gong, 2018): native surveillance faces; verification and open-set identification."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from recognition.data.named import NamedImages
from recognition.evaluation import openset, retrieval
from recognition.evaluation.identification import Search, check_ranks
from recognition.evaluation.listed import MISSED, Listed, check_counts, listed_there, names_under, rule_of
from recognition.evaluation.matlab import named_ids, names_of, number_of, read_mat
from recognition.evaluation.measures import closed_set, quality_of
from recognition.evaluation.protocol import ITEMS, Asked, Looked, Rules, View
from recognition.evaluation.protocols import PROTOCOLS
from recognition.evaluation.protocols._listed_pairs import ListedPairs, listed_pairs
from recognition.evaluation.protocols._pair_list import PairList
from recognition.evaluation.unit import unit_float32
from recognition.types import IMAGE_SIZE

VERIFICATION, IDENTIFICATION = "Face_Verification_Test_Set", "Face_Identification_Test_Set"
PICTURES = f"{VERIFICATION}/verification_images"
LIST_FOLDERS = (IDENTIFICATION, "Face_Identification_Evaluation", "")
MATS = {
    "gallery": ("gallery_img_ID_pairs.mat", "gallery"),
    "mated_probe": ("mated_probe_img_ID_pairs.mat", "mated_probe"),
}
PICTURES_LISTED = 10_051
PAIRS, GALLERY, PEOPLE, MATED, UNMATED = 5320, 60294, 3000, 60423, 121736
FAR, FPIR = (0.3, 0.1, 0.01, 0.001), (0.3, 0.2, 0.1, 0.01)  # those that are published
RANKS = (1, 20)
FUSIONS = ("none", "mean")


@dataclass(frozen=True)
class WatchList:
    """The half for open-set identification."""

    gallery: Listed
    gallery_people: np.ndarray
    mated: Listed
    mated_people: np.ndarray
    unmated: Listed
    unmated_people: np.ndarray  # by the number in a file's name
    fused: bool = False  # one entry of the gallery for each person
    failures: str = "error"

    def view(self) -> View:
        """All pictures that are there."""
        rows = np.unique(np.concatenate([listed.rows for listed in (self.gallery, self.mated, self.unmated)]))
        return View(rows[rows >= 0])

    def __post_init__(self) -> None:
        if self.failures == "exclude":
            mated = ~self.mated.failed & np.isin(self.mated_people, self.gallery_people[~self.gallery.failed])
            if not mated.any() or self.unmated.failed.all():
                raise ValueError("failures='exclude' leaves no mated probe, or no unmated one, to ask for")

    def check(self, asked: Asked) -> None:
        """ValueError for a rank that the gallery has not."""
        people = self.gallery_people[~self.gallery.failed]
        check_ranks(asked.ranks, len(np.unique(people)) if self.fused else len(people))

    def measure(self, seen: Looked, asked: Asked) -> dict:
        """tpirK@F, rank-K, counts and items. seen: of `view`."""
        view = self.view().rows
        there = self.gallery.rows[~self.gallery.failed]
        people = self.gallery_people[~self.gallery.failed]
        stored = unit_float32(seen.embedding, np.searchsorted(view, there))
        if self.fused:
            people, first, group = np.unique(people, return_index=True, return_inverse=True)
            there = there[first]  # a picture of each
            sums = stored.new_zeros(len(people), stored.shape[1]).index_add_(
                0, torch.from_numpy(group).to(stored.device), stored
            )
            stored = unit_float32(sums)
        self.check(asked)
        mated = retrieval.search_listed(seen, view, self.mated, self.mated_people, stored, people)
        strangers = retrieval.search_listed(seen, view, self.unmated, None, stored, people)
        counted, alarms = (np.ones(len(listed.rows), bool) for listed in (self.mated, self.unmated))
        if self.failures == "exclude":
            counted = ~self.mated.failed & np.isin(self.mated_people, people)
            alarms = ~self.unmated.failed
        chosen = np.flatnonzero(counted)
        items = {"probe": self.mated.rows, **quality_of(seen, retrieval.positions(view, self.mated.rows))}
        closed = closed_set(mated, self.mated_people, asked, items, chosen)
        fpir = tuple(dict.fromkeys((*FPIR, *asked.far)))
        ranks = tuple(k for k in RANKS if k <= len(stored))
        names = ("best", "similarity", "position", "mate_similarity")
        opened = openset.open_set(
            Search(*(getattr(mated, name)[chosen] for name in names)),
            strangers.similarity[alarms],
            fpir,
            ranks,
            asked,
            (self.mated_people[chosen], self.unmated_people[alarms]),
        )
        kept = closed.pop(ITEMS) | {
            "gallery": there,
            "gallery_person": people,
            "unmated_probe": self.unmated.rows[alarms],
            "unmated_person": self.unmated_people[alarms],
            "unmated_best": strangers.best[alarms],
            "unmated_similarity": strangers.similarity[alarms],
        }
        failed = {"failed": self.mated, "unmated_failed": self.unmated, "gallery_failed": self.gallery}
        return {
            **opened,
            **closed,
            "unmated": int(alarms.sum()),
            "gallery": len(stored),
            **{name: int(listed.failed.sum()) for name, listed in failed.items()},
            ITEMS: kept,
        }


@PROTOCOLS.register("survface")
class SurvFace:
    """QMUL-SurvFace: TAR@FAR of 10,640 pairs, and TPIR20@FPIR of 182,159 probes against 60,294 pictures."""

    def __init__(
        self,
        data: str,
        lists: str = "",
        fusion: str = "none",
        failures: str = "error",
        counts: str = "published",
    ) -> None:
        """data: the set's folder, or what tools/align.py wrote of it, with Face_Verification_Test_Set,
        Face_Identification_Test_Set or both: what is there is measured. lists: the set's folder with the .mat files,
        where data holds none. fusion: "none", each gallery picture stands by itself, and ranks count pictures; "mean",
        those of a person become one, the mean of their unit embeddings, and ranks count people.
        failures: "error", "miss" or "exclude", for pictures that are not there, or without a face. counts: "published",
        or "any" for a part of the set.
        """
        if fusion not in FUSIONS:
            raise ValueError(f"fusion is '{fusion}'; it must be one of {', '.join(FUSIONS)}")
        self.images = pictures = NamedImages(data)
        fused = fusion == "mean"
        folder = Path(lists or data)
        known = {*pictures.names, *pictures.failed}
        self._pairs = self._watch_list = None
        if any(name.startswith(f"{VERIFICATION}/") for name in known):
            self._pairs = _pairs(pictures, folder / VERIFICATION, failures, counts)
        if any(name.startswith(f"{IDENTIFICATION}/") for name in known):
            self._watch_list = _watch_list(pictures, folder, fused, failures, counts)
        if self._pairs is None and self._watch_list is None:
            raise FileNotFoundError(f"{data} holds neither {VERIFICATION} nor {IDENTIFICATION} with pictures in it")
        self.rules = Rules(
            gallery=f"watch list of {'people' if fused else 'pictures'}; all pictures, of 6 x 5 pixels and more, "
            "are resized to 112 x 112 (bilinear)",
            folds="" if self._pairs is None else self._pairs.rules.folds,
            tie="a pair or probe passes where score >= threshold; TAR and TPIR at the lowest threshold whose FAR or "
            f"FPIR is at most the one asked for; {retrieval.TIE}",
            fusion="mean of a person's unit embeddings" if fused else "",
            failures=rule_of(
                failures,
                f"a pair with one scores {MISSED} and never passes, so that an impostor pair counts as right; "
                f"{retrieval.MISS}; an unmated probe raises no alarm",
                f"pairs with one, and {retrieval.EXCLUDE}",
            ),
            resampled="pairs; people, of mated and unmated probes apart",
        )

    @property
    def views(self) -> Mapping[str, View]:
        """A view for each half."""
        found = {}
        if self._pairs is not None:
            found["verification"] = self._pairs.views[str(IMAGE_SIZE)]
        if self._watch_list is not None:
            found["identification"] = self._watch_list.view()
        return found

    def check(self, asked: Asked) -> None:
        """ValueError for a rank that the watch list has not."""
        if self._watch_list is not None:
            self._watch_list.check(asked)

    def measure(self, looked: Mapping[str, Looked], asked: Asked) -> dict[str, dict]:
        """ "verification" and "identification", of the halves that are there."""
        results = {}
        if self._pairs is not None:
            side = str(IMAGE_SIZE)
            wanted = replace(asked, far=tuple(dict.fromkeys((*FAR, *asked.far))))
            results["verification"] = self._pairs.measure({side: looked["verification"]}, wanted)[side]
        if self._watch_list is not None:
            results["identification"] = self._watch_list.measure(looked["identification"], asked)
        return results


def _pairs(pictures: NamedImages, folder: Path, failures: str, counts: str) -> ListedPairs:
    names: list[str] = []
    sizes = {}
    for kind in ("positive", "negative"):
        path = folder / f"{kind}_pairs_names.mat"
        (cells,) = read_mat(path, (f"{kind}_pairs_names",))
        if cells.ndim != 2 or cells.shape[1] != 2:
            raise ValueError(f"{path}: '{kind}_pairs_names' is {cells.shape}; two names a row are wanted")
        names += [f"{PICTURES}/{name}" for name in names_of(cells, path)]
        sizes[f"{kind} pairs"] = (len(cells), PAIRS, str(path))
    sizes["pictures"] = (len(names_under(pictures, PICTURES)), PICTURES_LISTED, f"{pictures.folder}/{PICTURES}")
    check_counts(sizes, counts)
    same = np.repeat([True, False], [sizes[f"{kind} pairs"][0] for kind in ("positive", "negative")])
    # without folds of their own: contiguous ones would hold one kind of pairs each, as the lists are stacked
    return listed_pairs(
        PairList(folder, names[0::2], names[1::2], same), pictures, ((IMAGE_SIZE, IMAGE_SIZE),), failures
    )


def _watch_list(pictures: NamedImages, folder: Path, fused: bool, failures: str, counts: str) -> WatchList:
    found, files = {}, {}
    for part, (file, key) in MATS.items():
        places = [folder / place / file for place in LIST_FOLDERS]
        files[part] = next((path for path in places if path.is_file()), places[0])
        names, people = named_ids(files[part], f"{key}_set", f"{key}_ids")
        found[part] = [f"{IDENTIFICATION}/{part}/{name}" for name in names], people
    unmated = names_under(pictures, f"{IDENTIFICATION}/unmated_probe")
    (gallery, gallery_people), (mated, mated_people) = found["gallery"], found["mated_probe"]
    where = {part: str(path) for part, path in files.items()}
    check_counts(
        {
            "gallery pictures": (listed_there(pictures, gallery, failures), GALLERY, where["gallery"]),
            "people": (len(np.unique(gallery_people)), PEOPLE, where["gallery"]),
            "mated probes": (listed_there(pictures, mated, failures), MATED, where["mated_probe"]),
            "unmated probes": (len(unmated), UNMATED, f"{pictures.folder}/{IDENTIFICATION}/unmated_probe"),
        },
        counts,
    )
    if not unmated:
        raise FileNotFoundError(f"{pictures.folder}/{IDENTIFICATION} holds no pictures in unmated_probe")
    lonely = np.flatnonzero(~np.isin(mated_people, gallery_people))
    if len(lonely):
        raise ValueError(
            f"{len(lonely)} mated probes of {where['mated_probe']} are of people who are not in the gallery, the first "
            f"is {mated[lonely[0]]}: the two lists do not belong together"
        )
    numbers = [number_of(name) for name in unmated]
    people = [-1 - i if number is None else number for i, number in enumerate(numbers)]  # unnamed: each by itself
    return WatchList(
        Listed(pictures, gallery, failures),
        gallery_people,
        Listed(pictures, mated, failures),
        mated_people,
        Listed(pictures, unmated, failures),
        np.array(people),
        fused,
        failures,
    )
