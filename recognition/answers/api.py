"""The door for programs: a trained model, whatever it lies in, and what it says about pictures.

from lrface import LRFace

model = LRFace.load("runs/demo")
embeddings = model.embed(images)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from recognition.answers import gallery as galleries
from recognition.answers.engines import Engine
from recognition.answers.gallery import Gallery, identified
from recognition.answers.looking import BATCH, look
from recognition.answers.opening import Scorer, open_engine
from recognition.answers.pictures import Picture, gather
from recognition.answers.results import Answers, Candidate, Identified, Search, Verified
from recognition.answers.thresholds import Thresholds
from recognition.answers.writing import check_place

__all__ = ["Answers", "Candidate", "Gallery", "Identified", "LRFace", "Search", "Verified"]

RARE = 1e-3  # false matches for a stranger, of which notes say what threshold they take


class LRFace:
    """A trained model that answers about pictures of aligned faces.

    Pictures: paths, folders, .rec files, encoded bytes, uint8 arrays (H, W, 3) or (N, H, W, 3), uint8 tensors
    (B, 3, H, W), PIL images, or lists of these, mixed. Arrays and tensors are RGB unless colour="bgr" (what OpenCV
    reads). They are aligned faces, 112 px; other sizes are resized. Where they are not aligned give points (N, 5, 2),
    eyes, nose and mouth in pixels of each picture, or align a folder by tools/align.py.
    Threads may share a model. Nothing in a model's files is run.
    """

    def __init__(self, engine: Engine) -> None:
        """engine: of open_engine; load() is the usual way."""
        self._engine = engine

    @classmethod
    def load(
        cls,
        path: str | Path,
        base: str | Path | None = None,
        *,
        device: str = "auto",
        scorer: Scorer | None = None,
        card: str | Path | None = None,
        any_base: bool = False,
    ) -> LRFace:
        """Open a run, one of its checkpoints, an adapter's folder (or its tensors) with its base's weights, weights of
        a plain backbone with a card, or an ONNX file of tools/export_onnx.py.

        device: "auto" (CUDA where there is one), "cpu" or "cuda". scorer: a name, or name and arguments; what gates an
            adapter loaded with its base in place of what its card says; for a model that scores nothing itself, what
            `quality` is told by. card: what thresholds are taken from, in place of the model's own card: a card, a run,
            or the results.json of an evaluation. any_base: take an adapter whose card does not tell its base.
        FileNotFoundError, and ValueError for what is damaged or does not belong together.
        """
        return cls(open_engine(path, base, device=device, scorer=scorer, card=card, any_base=any_base))

    def __repr__(self) -> str:
        return f"LRFace({self.source!r}, embeddings of {self.size} numbers)"

    @property
    def source(self) -> str:
        """What it was loaded from."""
        return self._engine.source

    @property
    def size(self) -> int:
        """D, the length of an embedding."""
        return self._engine.size

    @property
    def thresholds(self) -> Thresholds:
        """The thresholds that its card tells, by set/part and false accept rate."""
        return self._engine.thresholds

    def space(self, flip: str = "none") -> dict[str, object]:
        """What tells whether two embeddings can be compared: hash of the model, preprocessing, flip."""
        return {"model": self._engine.identity, "preprocessing": dict(self._engine.preprocessing), "flip": flip}

    def embed(self, images: object, *, errors: str = "raise", **options: object) -> np.ndarray:
        """Embeddings (N, D) float32 of N pictures, rows of length one.

        errors: "raise" a ValueError that names the first picture without an answer, or give "nan" rows for such.
        options: those of look().
        """
        if errors not in ("raise", "nan"):
            raise ValueError(f"errors is '{errors}'; it must be raise or nan")
        answers = self.look(images, **options)
        if answers.errors and errors == "raise":
            row = min(answers.errors)
            raise ValueError(
                f"{len(answers.errors)} of {len(answers)} pictures could not be embedded, the first is "
                f"{answers.names[row]}: {answers.errors[row]}; look(images) answers for the others"
            )
        return answers.embedding

    def look(
        self,
        images: object,
        *,
        colour: str = "rgb",
        points: ArrayLike | None = None,
        scores: ArrayLike | None = None,
        flip: str = "none",
        normalise: bool = True,
        batch_size: int = BATCH,
        progress: bool = False,
    ) -> Answers:
        """Embedding, its norm, quality and gate of every picture; what cannot be read is told one by one.

        colour: "rgb" or "bgr", of arrays and tensors. points: (N, 5, 2) in pixels, by which pictures are aligned.
        scores: (N,) or (N, k) raw quality, in place of the scorer's. flip: "sum" adds the mirrored face's embedding,
        before the length is brought to one. normalise: False leaves embeddings as long as they are. progress: a bar on
        a terminal.
        ValueError for arguments that cannot be used.
        """
        return look(
            self._engine,
            gather(images, colour),
            points=points,
            scores=scores,
            flip=flip,
            normalise=normalise,
            batch_size=batch_size,
            progress=progress,
        )

    def verify(
        self,
        a: object,
        b: object,
        far: float = 1e-3,
        *,
        operating: str = "",
        threshold: float | None = None,
        colour: str = "rgb",
        flip: str = "none",
    ) -> Verified:
        """Are two pictures of one person? The threshold is that of the model's card at a false accept rate.

        a, b: one picture each. far, operating, threshold: as Thresholds.choose. Without any threshold in the card
        `same` is None, and `chosen.note` says why.
        ValueError where a picture cannot be read, and as Thresholds.choose.
        """
        found = self.verify_pairs([(a, b)], far, operating=operating, threshold=threshold, colour=colour, flip=flip)[0]
        if found.error:
            raise ValueError(found.error)
        return found

    def verify_pairs(
        self,
        pairs: Sequence[tuple[object, object]],
        far: float = 1e-3,
        *,
        operating: str = "",
        threshold: float | None = None,
        colour: str = "rgb",
        flip: str = "none",
        batch_size: int = BATCH,
        progress: bool = False,
    ) -> list[Verified]:
        """verify() for many pairs; a path in several pairs is embedded once, what cannot be read is told in `error`."""
        chosen = self.thresholds.choose(far, operating, threshold, flip)
        pictures: list[Picture] = []
        place: dict[str, int] = {}
        sides = []
        for pair in pairs:
            here = []
            for one in pair:
                key = str(one) if isinstance(one, str | Path) else ""
                if not key or key not in place:
                    place[key] = len(pictures)
                    pictures.append(_single(one, colour, len(pictures)))
                here.append(place[key])
            sides.append(here)
        answers = self._look(pictures, flip, batch_size, progress)
        found = []
        for first, second in sides:
            names, wrong = (answers.names[first], answers.names[second]), ""
            for row in (first, second):
                wrong = wrong or (f"{answers.names[row]}: {answers.errors[row]}" if row in answers.errors else "")
            similarity = None if wrong else float(answers.embedding[first] @ answers.embedding[second])
            same = None if similarity is None or chosen.threshold is None else similarity >= chosen.threshold
            abouts = answers.about(first), answers.about(second)
            found.append(Verified(names, similarity, same, chosen, *abouts, wrong))
        return found

    def gallery(
        self,
        images: object,
        labels: str | Path | Mapping[str, str] | None = None,
        index: str | Path | None = None,
        *,
        half: bool = False,
        prune: bool = False,
        colour: str = "rgb",
        flip: str = "none",
        batch_size: int = BATCH,
        progress: bool = False,
    ) -> Gallery:
        """Faces of people to search among.

        images: a folder whose sub-folders are people, or any pictures. labels: a CSV of name,person, or a dict; None =
        by folder or file name (anna/1.jpg, anna_1.jpg). index: a .npz file that keeps the gallery: where it is there
        already, only new and changed files are embedded. half: keep it as float16. prune: take faces out of the index
        that are not among these pictures any more; it is refused otherwise.
        ValueError for an index that another model made, and where no picture can be used; OSError where there is no
        such folder, and, before anything is embedded, where the index cannot be written.
        """
        galleries.check_given(images, index)
        pictures, space = gather(images, colour), self.space(flip)
        before = None
        if index is not None and Path(index).is_file():
            before = Gallery.load(index)
            before.check_space(space, str(index))
            if not prune:
                before.check_kept((picture.name for picture in pictures), str(index))

        def embed(rows: np.ndarray) -> Answers:
            if index is not None:
                check_place(index)
            return self._look([pictures[row] for row in rows], flip, batch_size, progress)

        made = galleries.build(pictures, galleries.people_of(pictures, labels), embed, space, before)
        if index is not None and (before is None or made.computed or made.entries != before.entries):
            made.save(index, half)
        return made

    def identify(
        self,
        probes: object,
        gallery: Gallery | str | Path | object,
        k: int = 5,
        far: float = 1e-3,
        *,
        operating: str = "",
        threshold: float | None = None,
        fuse: str = "max",
        search: str = "auto",
        colour: str = "rgb",
        flip: str = "none",
        batch_size: int = BATCH,
        progress: bool = False,
    ) -> Search:
        """Who of a gallery is on each picture: the k most alike people.

        gallery: of gallery(), an index file (.npz), or pictures as for gallery(). fuse: "max" or "mean" of a person's
        faces. search: "exact", "flat" or "hnsw" (faiss), or "auto". far, operating, threshold: as verify(); the false
        accept rate is that of one comparison, and a search makes one for each face.
        ValueError as of these.
        """
        chosen = self.thresholds.choose(far, operating, threshold, flip)
        if isinstance(gallery, str | Path) and Path(gallery).suffix == ".npz":
            index, gallery = gallery, Gallery.load(gallery)
            gallery.check_space(self.space(flip), str(index))
        elif isinstance(gallery, Gallery):
            gallery.check_space(self.space(flip), "the gallery")
        else:
            gallery = self.gallery(gallery, colour=colour, flip=flip, batch_size=batch_size, progress=progress)
        answers = self._look(gather(probes, colour), flip, batch_size, progress)
        found = identified(answers, gallery, chosen.threshold, k, fuse, search)
        people = len(gallery.people()[0])
        compared = len(gallery) if fuse == "max" else people
        asked = chosen.far is not None and chosen.threshold is not None
        held = self.thresholds.held(chosen.operating) if asked else []
        notes = answers.notes + ([_open_set(chosen.far, compared, held)] if asked else [])
        return Search(found, chosen, people, len(gallery), notes)

    def _look(
        self, pictures: Sequence[Picture], flip: str = "none", batch_size: int = BATCH, progress: bool = False
    ) -> Answers:
        return look(self._engine, pictures, flip=flip, batch_size=batch_size, progress=progress)


def _single(given: object, colour: str, number: int) -> Picture:
    if isinstance(given, str | Path):
        return Picture(str(given), Path(given))  # a folder is one that cannot be read, whatever is in it
    found = gather(given, colour)
    if len(found) != 1:
        raise ValueError(
            f"verify compares two pictures, and one side holds {len(found)}: name one picture on each side"
        )
    return replace(found[0], name=f"image {number}")


def _open_set(far: float, compared: int, held: Sequence[float]) -> str:
    """What a false accept rate means in a search. held: those that the card has a threshold at, the largest first."""
    note = (
        f"each probe is compared with {compared:,} of the gallery: at FAR {far:g} for one comparison, expect "
        f"{compared * far:.3g} false matches for a stranger"
    )
    wanted = RARE / compared  # of the first order, as the expectation above
    if far <= wanted:
        return note
    note += f"; one such in a thousand strangers takes a threshold at FAR {wanted:.1g}"
    if low := next((one for one in held if one <= wanted * 1.001), None):
        return f"{note}, and the card has one at FAR {low:g}"
    lowest = f"; the card's lowest is at FAR {held[-1]:g}" if held else ""
    return f"{note}, which {1 / wanted:,.0f} pairs of strangers can tell, and no fewer{lowest}"
