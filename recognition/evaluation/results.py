"""Results on disk: results.json for people and programs, as docs/results_schema.json says, and items.npz beside it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from recognition.evaluation.protocol import ITEMS, EvaluationSet, Protocol
from recognition.evaluation.sets import DEFAULTS
from recognition.files import replacing

FORMAT = "lrface.results/1"
RESULTS, ARRAYS = "results.json", "items.npz"
HUGE = 1_000_000  # items from which on arrays are stored as float32 and int32
SAMPLE = 64  # images of a set that its fingerprint is taken of
FLIPPED = ("none", "each picture and its mirror image: raw sum of both embeddings")  # by evaluation.flip
PACKED = 1 << 26  # bytes up to which arrays are compressed; scores hardly shrink, and take seconds to try


def about(sets: Sequence[EvaluationSet], settings: dict | None = None) -> dict[str, dict]:
    """What was evaluated, by set, ready for JSON: {"protocol": kind, "rules", "settings", "images"}.

    settings: the section config.evaluation, which says what becomes of mirrored faces where a protocol does not; None =
    unknown. images: {"count": of those looked at, "sha256": of up to SAMPLE of them, encoded}, read here.
    """
    flip = "" if settings is None else flip_words(settings)
    return {
        one.name: {
            "protocol": one.kind,
            "rules": (rules := dataclasses.asdict(one.protocol.rules)) | {"flip": rules["flip"] or flip},
            "settings": json.loads(json.dumps(dict(one.settings), default=_plain)),
            "images": _fingerprint(one.protocol),
        }
        for one in sets
    }


def flip_words(settings: dict) -> str:
    """What the section config.evaluation says about mirrored faces, as Rules.flip does."""
    return FLIPPED[bool(settings.get("flip", DEFAULTS["flip"]))]


def save_results(
    folder: str | Path,
    results: Mapping[str, Mapping[str, dict]],
    about: Mapping[str, dict] | None = None,
    model: Mapping[str, object] | None = None,
) -> None:
    """Write results.json, and items.npz with the arrays per item under names such as lfw/112-14/correct.

    results: {set: {part: measures}}. about: as about() gives it. model: what is known of the model, free in form.
    Both files are replaced together or stay. Arrays of HUGE and more items lose digits: float32 and int32.
    ValueError for a set or part whose name holds a slash, and for a figure that is NaN or infinite, by its name.
    """
    folder = Path(folder)
    arrays, sets = {}, {}
    for name, parts in results.items():
        plain = {part: {k: v for k, v in measures.items() if k != ITEMS} for part, measures in parts.items()}
        _check(name, plain)
        sets[name] = {**(about or {}).get(name, {}), "parts": plain}
        for part, measures in parts.items():
            arrays |= {f"{name}/{part}/{key}": _small(array) for key, array in measures.get(ITEMS, {}).items()}
    whole = {"format": FORMAT, "sets": sets, **({"model": dict(model)} if model else {})}
    text = json.dumps(whole, indent=1, allow_nan=False, default=_plain) + "\n"
    packed = sum(array.nbytes for array in arrays.values()) <= PACKED
    with replacing(folder / RESULTS) as measures_file, replacing(folder / ARRAYS) as items_file:
        measures_file.write_text(text)
        with items_file.open("wb") as file:
            (np.savez_compressed if packed else np.savez)(file, **arrays)


def load_results(folder: str | Path) -> dict[str, dict[str, dict]]:
    """What save_results wrote, with the items: {set: {part: measures}}. Files from before the format load as well.

    FileNotFoundError where the folder holds no results; ValueError for files that are not what save_results writes.
    """
    folder = Path(folder)
    results = load_measures(folder)
    with np.load(folder / ARRAYS, allow_pickle=False) as arrays:
        for path in arrays.files:
            name, part, key = [*path.split("/"), "", ""][:3]
            if part not in results.get(name, {}):
                raise ValueError(f"{folder / ARRAYS} holds '{path}', which {RESULTS} beside it does not know")
            results[name][part].setdefault(ITEMS, {})[key] = arrays[path]
    return results


def load_measures(folder: str | Path) -> dict[str, dict[str, dict]]:
    """The figures alone: {set: {part: measures}}, without items. Errors as of load_results."""
    whole = _read(Path(folder))
    return {name: one["parts"] for name, one in whole["sets"].items()}


def load_about(folder: str | Path) -> dict[str, dict]:
    """What about() gave when the results were saved, by set; empty entries in files that do not say."""
    return {name: {k: v for k, v in one.items() if k != "parts"} for name, one in _read(Path(folder))["sets"].items()}


def load_model(folder: str | Path) -> dict[str, object]:
    """What was said about the model when the results were saved; may be empty."""
    return _read(Path(folder)).get("model", {})


def _fingerprint(protocol: Protocol) -> dict[str, int | str]:
    """Of the images that views show: others in the same folder make no difference."""
    rows = np.unique(np.concatenate([view.rows for view in protocol.views.values()]))
    digest = hashlib.sha256()
    for row in rows[np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).astype(np.int64)].tolist():
        encoded = _stored(protocol.images, row)
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return {"count": len(rows), "sha256": digest.hexdigest()}


def _stored(images: Sequence[bytes], row: int) -> bytes:
    """The file's own bytes, below sequences that align or reduce their `images`: OpenCV's versions differ in a digit.

    Such a sequence has the positions of its images among those below under `rows`, or the same.
    """
    while hasattr(images, "images"):
        row, images = int(images.rows[row]) if hasattr(images, "rows") else row, images.images
    return images[row]


def _read(folder: Path) -> dict:
    """results.json in today's form."""
    path = folder / RESULTS
    try:
        whole = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(whole, dict):
        raise ValueError(f"{path} holds a {type(whole).__name__}; results are an object of sets")
    if not isinstance(whole.get("format"), str):  # from before the format: the sets themselves
        whole = {"sets": {name: {"parts": parts} for name, parts in whole.items()}}
    elif whole["format"] != FORMAT:
        raise ValueError(f"{path} is of format '{whole['format']}'; this version reads '{FORMAT}'")
    sets = whole.get("sets")
    listed = sets.values() if isinstance(sets, dict) else [None]
    parts = [one.get("parts") if isinstance(one, dict) else None for one in listed]
    if not all(
        isinstance(of_set, dict) and all(isinstance(part, dict) for part in of_set.values()) for of_set in parts
    ):
        raise ValueError(f"{path} holds no results: wanted sets of parts of measures, as docs/results_schema.json says")
    return whole


def _check(name: str, parts: Mapping[str, dict]) -> None:
    for part, measures in parts.items():
        if "/" in name or "/" in part:
            raise ValueError(f"'{name}', '{part}': names of sets and parts hold no slash, which parts them in {ARRAYS}")
        for key, measure in measures.items():
            figures = measure.items() if isinstance(measure, Mapping) else [("", measure)]
            wrong = [k for k, v in figures if not _finite(v)]
            if wrong:
                raise ValueError(f"{name}/{part}: {key} {wrong[0]} is not finite".replace("  ", " "))


def _finite(value: object) -> bool:
    if isinstance(value, list | tuple | np.ndarray):
        return all(_finite(one) for one in value)
    return not isinstance(value, float | np.floating) or math.isfinite(value)


def _small(array: np.ndarray) -> np.ndarray:
    array = np.asarray(array)
    if array.size >= HUGE:
        if array.dtype == np.float64:
            return array.astype(np.float32)
        if array.dtype == np.int64 and abs(array).max() < 2**31:
            return array.astype(np.int32)
    return array


def _plain(value: object) -> object:
    """For json: numbers and arrays of numpy as lists, paths and the like as text."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)
