"""The pictures that a model gets most wrong, as it saw them, inside the page."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from recognition.data.decode import decode
from recognition.data.degrade import low_res
from recognition.evaluation.embed import place_of
from recognition.evaluation.protocol import EvaluationSet
from recognition.evaluation.sets import open_sets
from recognition.page.markup import Markup, code, details, element, note
from recognition.page.numbers import short, side_words, sides_of
from recognition.page.runs import Run, Shown, items_of, part_of, parts_of, sets_of
from recognition.types import IMAGE_SIZE

QUALITY = 82  # of the JPEGs


def pictures(series: Sequence[Shown], count: int) -> Markup:
    """The section of pictures: `count` of each kind for each part; none where count is 0."""
    blocks: list[object] = [element("h2", "Hardest pairs and worst retrievals", id="pictures")]
    if not count:
        blocks.append(note("This page was asked to hold no pictures of faces (--no-pictures)."))
        return element("section", *blocks, aria_labelledby="pictures")
    blocks.append(
        element(
            "p",
            "As the model saw them: reduced to the side that is named, and brought back. Similarity is the cosine.",
        )
    )
    trained = [one for one in series if one.style] or list(series)
    if not trained:
        blocks.append(note("There are no results yet."))
    for one in trained:
        if len(trained) > 1:
            blocks.append(element("h3", one.run.name))
        for name in sets_of([one]):
            blocks += _of_set(one, name, count, "h4" if len(trained) > 1 else "h3")
    return element("section", *blocks, aria_labelledby="pictures")


@dataclass(frozen=True)
class Face:
    """A picture to be shown. row: its position in the set's images, -1 where no face was found."""

    row: int
    side: int
    said: str  # under it, and to whom cannot see it


def _of_set(one: Shown, name: str, count: int, heading: str) -> list[Markup]:
    title = element(heading, name)
    kinds = {part: _kind(items_of(one, name, part)) for part in parts_of([one], name)}
    if not any(kinds.values()):
        if not any(key in items_of(one, name, part) for part in kinds for key in ("score", "position")):
            return [title, note("This set compares neither pairs nor probes picture by picture.")]
        wanted = "first and second, or probe, the positions of the pictures"
        return [
            title,
            note(
                f"The results of {one.run.name} lack the items {wanted}: an older evaluation wrote them. ",
                code(f"python tools/evaluate.py {one.run.path}"),
                " evaluates again and keeps them.",
            ),
        ]
    opened = _open(one.run, name)
    if isinstance(opened, str):
        return [title, note(f"The pictures of this set cannot be shown: {opened}.")]
    blocks = [title]
    first = True
    for part, kind in kinds.items():
        items = items_of(one, name, part)
        if kind and max(int(np.max(items[key])) for key in kind) >= len(opened.protocol.images):
            blocks.append(note(f"{part}: the set's files hold fewer pictures than when it was evaluated."))
        elif kind:
            make = _pairs if "first" in kind else _probes
            blocks.append(details(side_words(part), *make(one, name, part, opened, count), opened=first))
            first = False
    return blocks


def _kind(items: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    if {"first", "second", "score", "same"} <= items.keys():
        return ("first", "second")
    return ("probe",) if {"probe", "position"} <= items.keys() else ()


def _open(run: Run, name: str) -> EvaluationSet | str:
    """The set, or why it cannot be opened."""
    chosen = [one for one in run.config.evaluation.sets if one.get("name") == name]
    if not chosen:
        return f"the run's settings hold no evaluation set '{name}'"
    try:
        return open_sets({**run.config.evaluation, "sets": chosen[:1]})[0]
    except (OSError, ValueError) as error:
        return str(error).rstrip(".")


def _pairs(one: Shown, name: str, part: str, opened: EvaluationSet, count: int) -> list[Markup]:
    items, found = items_of(one, name, part), part_of(one, name, part)
    score, same = np.asarray(items["score"]), np.asarray(items["same"], bool)
    order = np.argsort(score, kind="stable")
    lowest, highest = order[same[order]][:count], order[~same[order]][::-1][:count]
    threshold = found.get("threshold")
    words = f", mean threshold {threshold:.3f}" if isinstance(threshold, float) else ""
    sides = _sides(part)
    blocks = []
    for title, rows in (("One person, least alike", lowest), ("Two people, most alike", highest)):
        shown = []
        for i in rows:
            judged = "" if "correct" not in items else "right" if items["correct"][i] else "wrong"
            faces = [
                Face(int(items[key][i]), side, f"{which}, {side} px{_seen(items, i, ending)}")
                for key, which, ending, side in (
                    ("first", "first", "_1", sides[0]),
                    ("second", "second", "_2", sides[1]),
                )
            ]
            shown.append(
                _entry(f"similarity {_signed(score[i])}{words}{f': judged {judged}' if judged else ''}", faces, opened)
            )
        blocks += [element("p", element("strong", title)), element("ul", *shown, class_="pairs")]
    return blocks


def _probes(one: Shown, name: str, part: str, opened: EvaluationSet, count: int) -> list[Markup]:
    items = items_of(one, name, part)
    position, gallery = np.asarray(items["position"]), part_of(one, name, part).get("gallery")
    rows = [i for i in np.argsort(-position, kind="stable")[:count] if position[i] > 1]
    if not rows:
        return [note("Every probe's mate was found first.")]
    sides, shown = _sides(part), []
    mates = _mates(items, opened)
    gallery_rows = items.get("gallery") if "best" in items else None  # best counts in the gallery
    for i in rows:
        faces = [Face(int(items["probe"][i]), sides[1], f"probe, {sides[1]} px{_seen(items, i, '')}")]
        if gallery_rows is not None and items["best"][i] >= 0:
            alike = f", similarity {_signed(items['similarity'][i])}" if "similarity" in items else ""
            faces.append(Face(int(gallery_rows[items["best"][i]]), sides[0], f"most alike, another person{alike}"))
        if (mate := mates(i)) is not None:
            alike = f", similarity {_signed(items['mate_similarity'][i])}" if "mate_similarity" in items else ""
            faces.append(Face(mate, sides[0], f"the mate{alike}"))
        of = f" of {short(int(gallery))}" if gallery else ""
        place = f"mate found at place {short(int(position[i]))}{of}"
        shown.append(_entry(place, faces, opened))
    blocks = [element("ul", *shown, class_="pairs three")]
    if "best" not in items:
        blocks.append(
            note("Who stood before the mate is not shown: the results lack the item best, the most alike stranger.")
        )
    return blocks


def _mates(items: Mapping[str, np.ndarray], opened: EvaluationSet) -> Callable[[int], int | None]:
    """For a probe: the position of its first mate's picture, where items and protocol tell it."""
    labels, stored = (getattr(opened.protocol, key, None) for key in ("gallery_labels", "gallery"))
    if hasattr(stored, "failed"):
        labels = labels[~stored.failed]
    gallery = items.get("gallery")
    if labels is None or gallery is None or len(labels) != len(gallery) or "person" not in items:
        return lambda i: None

    def mate(i: int) -> int | None:
        own = np.flatnonzero(labels == items["person"][i])
        return int(gallery[own[0]]) if len(own) else None

    return mate


def _signed(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")


def _seen(items: Mapping[str, np.ndarray], i: int, ending: str) -> str:
    words = ""
    for what in ("gate", "quality"):
        values = items.get(f"{what}{ending}")
        if values is not None and np.ndim(values) == 1 and np.isfinite(values[i]):
            words += f", {what} {values[i]:.2f}"
    return words


def _sides(part: str) -> tuple[int, int]:
    told = sides_of(part)
    return told[1:] if told else (IMAGE_SIZE, IMAGE_SIZE)


def _entry(said: str, faces: Sequence[Face], opened: EvaluationSet) -> Markup:
    figures = [element("figure", _picture(face, opened), element("figcaption", face.said)) for face in faces]
    return element("li", element("p", said), element("div", *figures, class_="faces"))


def _picture(face: Face, opened: EvaluationSet) -> Markup:
    images = opened.protocol.images
    if face.row < 0:
        return element("div", "no face was found in this picture", class_="gone")
    try:
        pixels = decode(images[face.row], IMAGE_SIZE, place_of(images, face.row))
    except (OSError, ValueError) as error:
        return element("div", f"gone: {error}", class_="gone")
    if face.side != IMAGE_SIZE:
        pixels = low_res(torch.from_numpy(pixels)[None], face.side)[0].numpy()
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    data = base64.b64encode(encoded.tobytes()).decode()
    side = str(IMAGE_SIZE)
    return element("img", src=f"data:image/jpeg;base64,{data}", alt=face.said, width=side, height=side)
