"""From which similarity on two faces are one person: what a model's card tells at a false accept rate."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from adapters._files import read_object
from recognition.answers.cards import card_file
from recognition.recipes import spelled
from recognition.types import IMAGE_SIZE

OWN, BESIDE = "threshold@", "tar@"  # measures that are thresholds, threshold@0.001, and those that have one beside
FLIP_MARKS = {  # of the words in which rules tell it
    "none": re.compile(r"^none\b|^no mirror"),
    "sum": re.compile(r"\b(sum|added)\b"),
    "concat": re.compile(r"\bone behind the other\b|\bconcat"),
}
SIDES = re.compile(r"\d+(-\d+)?")  # a part's name that tells the pixels of both images
MEASURE = "python tools/evaluate.py RUN --set 'far=[{far:g}]'"


@dataclass(frozen=True, slots=True)
class Chosen:
    """A threshold and where it comes from."""

    threshold: float | None  # a cosine; None where there is none
    far: float | None = None  # the false accept rate asked for; None for a threshold that was given
    operating: str = ""  # set/part that it was measured on
    lo: float | None = None  # 95 % interval of the threshold
    hi: float | None = None
    reached: float | None = None  # the false accept rate on that set
    impostors: int | None = None  # pairs of different people there
    note: str = ""  # in words
    flip: str = ""  # what became of the mirrored face when it was measured: "none", "sum", "concat"; "" = unknown

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {key: getattr(self, key) for key in self.__slots__}


@dataclass(frozen=True, slots=True)
class At:
    """One threshold of a set and part."""

    threshold: float | None
    lo: float | None = None
    hi: float | None = None
    reached: float | None = None
    impostors: int | None = None
    reason: str = ""  # why there is none, or how far to believe it
    flip: str = ""  # as Chosen.flip


@dataclass(slots=True)
class Thresholds:
    """All thresholds that a card holds."""

    source: str  # what holds them, in words
    at: dict[str, dict[float, At]] = field(default_factory=dict)  # by set/part, then by false accept rate
    recommended: bool = False  # the first set/part is the card's own choice
    when: str = ""  # "during" for those of a checkpoint, measured on the way
    update: int | None = None  # of the model that was measured then, where known

    def choose(
        self, far: float = 1e-3, operating: str = "", threshold: float | None = None, flip: str = "none"
    ) -> Chosen:
        """The threshold at a false accept rate.

        operating: set/part, such as "lfw/112-14", or the set alone; "" = the card's own choice, else its first.
        threshold: taken as it is, nothing is looked up. flip: of the embeddings it is for; the note says where it was
        measured with another, or on reduced faces that nobody asked for. Where the card holds no thresholds at all the
        answer has none, and says so in `note`.
        ValueError for a FAR outside (0, 1], a FAR or operating point that the card does not hold (it names those it
        has), and a FAR of which the card says that it could not be measured.
        """
        if threshold is not None:
            if not -1 <= threshold <= 1:
                raise ValueError(f"threshold is {threshold:g}; it is a cosine, from -1 to 1")
            return Chosen(float(threshold), note="given")
        if not 0 < far <= 1:
            raise ValueError(f"far is {far:g}; a false accept rate lies above 0 and at most at 1")
        if not self.at:
            return Chosen(
                None,
                far,
                note=f"no threshold: {self.source}; the similarity alone is told. Measure one "
                f"({spelled(MEASURE.format(far=far))}) and name what holds it (--card FILE), or give one (--threshold)",
            )
        where, doubt = self._operating(operating)
        found = next((at for known, at in self.at[where].items() if math.isclose(known, far, rel_tol=1e-9)), None)
        if found is None:
            raise ValueError(
                f"{self.source} holds no threshold at FAR {far:g} for {where}, but at {self._fars(where)}. Measure it "
                f"with {spelled(MEASURE.format(far=far))} and name the results.json it writes by --card, take one of "
                "these FARs, or give a --threshold"
            )
        if found.threshold is None:
            raise ValueError(
                f"{self.source} holds no threshold at FAR {far:g} for {where}: {found.reason or 'it was not measured'}."
                f" It was asked for {self._fars(where)}; take another, or give a --threshold"
            )
        note = f"{_note(found, far, where, self._in_training())}{_of_another_flip(found.flip, flip)}{doubt}"
        bounds = found.lo, found.hi, found.reached, found.impostors
        return Chosen(found.threshold, far, where, *bounds, note, found.flip)

    def held(self, operating: str) -> list[float]:
        """False accept rates that there is a threshold at for a set/part, the largest first; none where it is none."""
        return sorted((far for far, at in self.at.get(operating, {}).items() if at.threshold is not None), reverse=True)

    def _in_training(self) -> str:
        """How a model on its way is told apart: its thresholds are of the last evaluation before."""
        if self.when != "during":
            return ""
        return "during training " if self.update is None else f"at update {self.update} of training "

    def _operating(self, asked: str) -> tuple[str, str]:
        """The set/part that is meant, and what is to be said of one that nobody named."""
        if not asked:
            first = next(iter(self.at))
            whole = [where for where in self.at if where.split("/")[1] == str(IMAGE_SIZE)]  # faces as they are
            whole.sort(key=lambda where: where.split("/")[0] != first.split("/")[0])  # of the first set, if it has some
            where = whole[0] if whole and not self.recommended else first
            return where, _of_reduced(where, whole)
        if asked in self.at:
            return asked, ""
        of_set = [where for where in self.at if where.split("/")[0] == asked]
        if of_set:
            return of_set[0], ""
        raise ValueError(f"{self.source} holds no thresholds for '{asked}', but for {', '.join(self.at)}")

    def _fars(self, where: str) -> str:
        return ", ".join(f"{far:g}" for far in sorted(self.at[where], reverse=True))


def of_card(card: Mapping[str, object], source: str) -> Thresholds:
    """The thresholds in a card: its entry "thresholds", and those of its results after training, or of a checkpoint.

    card: also the results.json of an evaluation, {set: {part: measures}}. source: what it is, for messages. Results
    from before training are the base's, and are not looked at.
    ValueError where an entry is of another form.
    """
    found: dict[str, dict[float, At]] = {}
    flips = _flips(card)
    results, when = _results(card)
    try:
        if own := _own(card):
            where, flips, when = f"{own['set']}/{own['part']}", {own["set"]: own.get("flip", "")}, own.get("when", when)
            found[where] = {float(far): _at(one, flips[own["set"]]) for far, one in own["at"].items()}
        for name, parts in results.items():
            for part, measures in parts.items():
                here = _of_measures(measures, flips.get(name, ""))
                if here:
                    found[f"{name}/{part}"] = {**here, **found.get(f"{name}/{part}", {})}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{source}: its thresholds are of another form than this version reads ({error!r})") from None
    evaluated = card.get("evaluated")
    update = evaluated.get(when) if isinstance(evaluated, Mapping) else None
    return Thresholds(source if found else f"{source} holds no thresholds", found, bool(own), when, update)


def read_thresholds(path: str | Path) -> Thresholds:
    """Those of a card, of a run (its model's card), of a checkpoint, or of the results.json of an evaluation.

    FileNotFoundError where there is none; ValueError for one without thresholds.
    """
    path = Path(path)
    path = card_file(path) or path
    if path.is_dir():
        inside = [path / name for name in ("model/adapter.json", "adapter.json", "results.json", "after/results.json")]
        path = next((one for one in inside if one.is_file()), path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: there is no card; name a card's .json, a run, or an evaluation's results.json"
        )
    found = of_card(read_object(path), str(path))
    if not found.at:
        raise ValueError(f"{path} holds no thresholds, neither as 'thresholds' nor in results ({BESIDE}0.001)")
    return found


def of_metadata(metadata: Mapping[str, str], source: str) -> Thresholds:
    """The thresholds in an ONNX file's metadata, entries "thresholds" and "results" as JSON."""
    try:
        card = {key: json.loads(metadata[key]) for key in ("thresholds", "results") if key in metadata}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source}: its metadata are no JSON ({error})") from None
    return of_card(card, source)


def _own(card: Mapping[str, object]) -> Mapping[str, object] | None:
    """The card's entry "thresholds", unless it is of the base."""
    own, results = card.get("thresholds"), card.get("results")
    alone = isinstance(results, Mapping) and list(results) == ["before"]
    of_base = isinstance(own, Mapping) and own.get("when", "before" if alone else "") == "before"
    return None if of_base else own or None


def _results(card: Mapping[str, object]) -> tuple[Mapping[str, Mapping[str, Mapping[str, object]]], str]:
    """{set: {part: measures}} of a card, or of a results.json in its form of today or of before; and of when it is."""
    if isinstance(results := card.get("results"), Mapping):
        when = next((when for when in ("after", "during") if results.get(when)), "")
        return results.get(when, {}), when
    if isinstance(sets := card.get("sets"), Mapping) and "format" in card:
        return {name: one["parts"] for name, one in sets.items()}, ""
    plain = all(isinstance(one, Mapping) and all(isinstance(p, Mapping) for p in one.values()) for one in card.values())
    return (card if plain and "thresholds" not in card else {}), ""


def _flips(card: Mapping[str, object]) -> dict[str, str]:
    """By set, what its rules in a results.json say of mirrored faces; "" where they say nothing known."""
    sets = card.get("sets")
    found = {}
    for name, one in sets.items() if isinstance(sets, Mapping) and "format" in card else ():
        rules = one.get("rules") if isinstance(one, Mapping) else None
        words = str(rules.get("flip", "")) if isinstance(rules, Mapping) else ""
        found[name] = next((flip for flip, mark in FLIP_MARKS.items() if mark.search(words)), "")
    return found


def _of_measures(measures: Mapping[str, object], flip: str) -> dict[float, At]:
    impostors, pairs, genuine = (measures.get(key) for key in ("impostors", "pairs", "genuine"))
    if impostors is None and pairs is not None and genuine is not None:
        impostors = int(pairs) - int(genuine)
    found = {}
    for name, one in measures.items():
        if name.startswith(BESIDE) and isinstance(one, Mapping) and one.get("threshold") is not None:
            told = {"threshold": one["threshold"], "far": one.get("far"), "impostors": impostors}
            found.setdefault(float(name.removeprefix(BESIDE)), _at(told, flip))
        elif name.startswith(OWN) and isinstance(one, Mapping):
            told = {"threshold": one, "far": one.get("far"), "impostors": impostors, "reason": one.get("reason")}
            found[float(name.removeprefix(OWN))] = _at(told, flip)
    # of all pairs of strangers, which are far more than those that a set lists: where these are too few, so are those
    own = measures.get("thresholds", {})
    return found | {float(far): _at(row, flip) for far, row in own.items()}


def _at(one: Mapping[str, object], flip: str = "") -> At:
    inner = one.get("threshold")
    told = inner if isinstance(inner, Mapping) else {"value": inner}
    value, lo, hi = (_number(told.get(key)) for key in ("value", "lo", "hi"))
    impostors = one.get("impostors")
    return At(
        value,
        lo,
        hi,
        _number(one.get("far")),
        None if impostors is None else int(impostors),
        str(one.get("reason") or ""),
        str(flip),
    )


def _note(found: At, far: float, where: str, moment: str) -> str:
    among = f" among {found.impostors:,} pairs of strangers" if found.impostors is not None else ""
    note = f"measured {moment}on {where}{among}"
    if found.reached is not None and not math.isclose(found.reached, far, rel_tol=0.05):
        note += f", where FAR {found.reached:g} was reached"
        if found.reached == 0:
            most = f" (at 95 %, the FAR is below {3 / found.impostors:.1g})" if found.impostors else ""  # rule of three
            note += f": no stranger passed, so it stands on the few that came nearest{most}"
    return f"{note}; {found.reason}" if found.reason else note


def _of_another_flip(measured: str, asked: str) -> str:
    if measured == asked or (not measured and asked == "none"):  # none is what an evaluation does by itself
        return ""
    if not measured:
        return f"; it is not told with which flip, and this is flip {asked}: the two have other thresholds"
    return (
        f"; measured with flip {measured}, and this is flip {asked}: similarities of the two are not alike, and the "
        "FAR is another"
    )


def _of_reduced(where: str, whole: list[str]) -> str:
    """What is to be said of a set/part that nobody named, where it tells of faces of other sides than 112 px."""
    part = where.split("/", 1)[1]
    if not SIDES.fullmatch(part) or set(part.split("-")) == {str(IMAGE_SIZE)}:
        return ""
    other = f"for these take --operating {whole[0]}" if whole else f"it holds none of faces of {IMAGE_SIZE} px"
    return f"; that is of faces of {part} px, and sharper ones have another threshold: {other}"


def _number(value: object) -> float | None:
    if value is None:
        return None
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is no number")
    return number
