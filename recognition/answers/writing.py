"""Embeddings as files: .npz, .npy, .csv, .jsonl and .safetensors."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from recognition.answers.results import Answers
from recognition.files import replacing, write_atomically


def write_answers(path: str | Path, answers: Answers, about: Mapping[str, object]) -> list[Path]:
    """Write the pictures that have an answer, in their order; the ending tells the form. Returns the files.

    .npz: embedding (N, D), norm, quality and gate where there are some, names, about (JSON); no pickles.
    .safetensors: the same, names and about in its metadata. .npy: the embeddings alone, the names beside as
    NAME.names.txt. .csv: name, norm, quality, gate, then a column for each number. .jsonl: an object for each picture.
    about: what tells which model made them.
    ValueError for another ending.
    """
    path = Path(path)
    if path.suffix not in WRITERS:
        raise ValueError(f"embeddings are written as {', '.join(WRITERS)}, not '{path.name}'")
    rows = np.flatnonzero(answers.sound)
    return WRITERS[path.suffix](path, answers, rows, about)


def check_place(path: str | Path) -> None:
    """OSError naming `path` where no file can be written there, before there is anything to write. Leaves nothing.

    Folders above it that are not there yet are made by whoever writes.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror} ({above})") from None


def _arrays(answers: Answers, rows: np.ndarray) -> dict[str, np.ndarray]:
    found = {name: getattr(answers, name) for name in ("embedding", "norm", "quality", "gate")}
    return {name: values[rows] for name, values in found.items() if values is not None}


def _names(answers: Answers, rows: np.ndarray) -> list[str]:
    return [answers.names[row] for row in rows]


def _npz(path: Path, answers: Answers, rows: np.ndarray, about: Mapping[str, object]) -> list[Path]:
    texts = {"names": np.array(_names(answers, rows), np.str_), "about": np.array(json.dumps(about))}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **_arrays(answers, rows), **texts)
    return [path]


def _npy(path: Path, answers: Answers, rows: np.ndarray, about: Mapping[str, object]) -> list[Path]:
    names = path.with_suffix(".names.txt")
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, answers.embedding[rows])
    write_atomically(names, "".join(f"{name}\n" for name in _names(answers, rows)))
    return [path, names]


def _safetensors(path: Path, answers: Answers, rows: np.ndarray, about: Mapping[str, object]) -> list[Path]:
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(values) for name, values in _arrays(answers, rows).items()}
    metadata = {"names": json.dumps(_names(answers, rows), ensure_ascii=False), "about": json.dumps(about)}
    write_atomically(path, save(arrays, metadata))
    return [path]


def _csv(path: Path, answers: Answers, rows: np.ndarray, about: Mapping[str, object]) -> list[Path]:
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "norm", "quality", "gate", *(f"e{i}" for i in range(answers.embedding.shape[1]))])
        for row in rows:
            told = [_cell(value) for value in answers.about(row).values()]
            writer.writerow([answers.names[row], *told, *(f"{number:.9g}" for number in answers.embedding[row])])
    return [path]


def _jsonl(path: Path, answers: Answers, rows: np.ndarray, about: Mapping[str, object]) -> list[Path]:
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            one = {"name": answers.names[row], **answers.about(row), "embedding": answers.embedding[row].tolist()}
            file.write(json.dumps(one, ensure_ascii=False) + "\n")
    return [path]


def _cell(value: object) -> str:
    """Several scores or gates are parted by spaces."""
    if isinstance(value, list):
        return " ".join(f"{one:.9g}" for one in value)
    return "" if value is None else f"{value:.9g}"


WRITERS: dict[str, Callable[[Path, Answers, np.ndarray, Mapping[str, object]], list[Path]]] = {
    ".npz": _npz,
    ".npy": _npy,
    ".csv": _csv,
    ".jsonl": _jsonl,
    ".safetensors": _safetensors,
}
