"""Raw pictures become aligned records, and a manifest that says what became of each."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import cv2
import numpy as np

from recognition.data.aligner import Aligned, Aligner
from recognition.data.gathered import Gathered
from recognition.data.landmarks import landmark_path, write_landmarks
from recognition.data.named import MANIFEST, MANIFEST_FORMAT
from recognition.data.recordio import Header, RecordError, RecordReader, RecordWriter, pack, record_paths, unpack
from recognition.files import UNFINISHED, alone, flush
from recognition.types import IMAGE_SIZE

NAME = "aligned"  # of the record files
FAILURES, CLASSES, PROPERTY = "failures.txt", "classes.txt", "property"
BATCH = 256  # pictures that threads work on before their records are written
MOST_CLASSES = 2**24  # labels are stored as float32


@dataclass(slots=True)
class Totals:
    """How many pictures had which end. reasons: of those that are not aligned, up to the first colon."""

    pictures: int = 0
    status: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    classes: int = 0

    def add(self, done: Aligned) -> None:
        self.pictures += 1
        self.status[done.status] += 1
        if done.reason:
            self.reasons[f"{done.status}: {done.reason.split(':')[0]}"] += 1

    def lines(self) -> list[str]:
        """What the screen shows."""
        of = max(self.pictures, 1)
        shares = (f"{self.status[s]:,} {s} ({self.status[s] / of:.1%})" for s in ("aligned", "fallback", "failed"))
        return [
            f"{', '.join(shares)} of {self.pictures:,} pictures",
            *(f"  {count:,} {reason}" for reason, count in self.reasons.most_common()),
        ]


def align_pictures(
    pictures: Gathered,
    aligner: Aligner,
    output: Path,
    stated: Mapping[str, object],
    *,
    workers: int = 1,
    overwrite: bool = False,
    advance: Callable[[int], None] = lambda count: None,
) -> Totals:
    """Write OUTPUT/aligned.rec, .idx and .landmarks.npz, classes.txt, property, failures.txt and manifest.jsonl.

    stated: what the manifest's first line says of detector, versions and source. advance: is told how many pictures are
    done. The files are the same for any number of workers. They get their names when all are complete, the manifest
    last; whatever ends this before leaves OUTPUT as it was.
    ValueError where it is aligned already (without `overwrite`), or not one picture came to a record; OSError.
    """
    if (output / MANIFEST).exists() and not overwrite:
        raise ValueError(f"{output} holds aligned pictures already: give --overwrite, or another folder")
    if len(set(pictures.labels)) > MOST_CLASSES:
        raise ValueError(f"more than {MOST_CLASSES:,} classes; labels are stored as float32")
    totals, classes = Totals(), {}
    with _building(output) as folder:
        keys, landmarks = [], []
        with (
            (folder / "lines").open("w", encoding="utf-8") as lines,
            (folder / FAILURES).open("w", encoding="utf-8") as failures,
            RecordWriter(folder / NAME) as writer,
        ):
            for done, label in _work(pictures, aligner, workers):
                totals.add(done)
                key = None
                if done.image is not None:
                    key = len(writer)
                    number = classes.setdefault(label, len(classes))  # only classes that have a picture get a number
                    writer.write(key, pack(Header(0, float(number), key, 0), done.image))
                    keys.append(key)
                    landmarks.append(done.landmarks)
                if done.reason:
                    failures.write(f"{done.name}\t{done.status}\t{done.reason}\n")
                lines.write(json.dumps(_entry(done, key), ensure_ascii=False) + "\n")
                advance(1)
            if not keys:
                why = "; ".join(f"{count} {reason}" for reason, count in totals.reasons.most_common())
                raise ValueError(f"none of {totals.pictures:,} pictures came to a record ({why}): nothing was written")
        totals.classes = len(classes)
        write_landmarks(folder / f"{NAME}.rec", np.array(keys), np.stack(landmarks))
        (folder / PROPERTY).write_text(f"{len(classes)},{IMAGE_SIZE},{IMAGE_SIZE}\n")
        if pictures.label_from != "none":
            text = "".join(f"{number}\t{name}\n" for name, number in classes.items())
            (folder / CLASSES).write_text(text, encoding="utf-8")
        _write_manifest(folder, _head(pictures, aligner, totals, stated))
    return totals


def verify(output: Path, source: Path | None = None) -> tuple[int, list[str]]:
    """Hash the records again, and with `source` the raw pictures there: how many were looked at, and what differs.

    source: the folder that the names are relative to. FileNotFoundError without a manifest, ValueError for another's.
    """
    path = output / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}: {output} was not written by tools/align.py")
    wrong, looked_at = [], 0
    with path.open(encoding="utf-8") as file:
        try:
            head = json.loads(file.readline())
            if head["format"] != MANIFEST_FORMAT:
                raise ValueError(f"format {head['format']}")
            for name, wanted in head["files"].items():
                wrong += _differs(output / name, wanted, name)
            reader, closed = _open(output / head["records"])
            wrong += closed
            for line in file:
                entry = json.loads(line)
                looked_at += 1
                if reader is not None and entry["status"] != "failed":
                    wrong += _differing_record(reader, entry["name"], entry["key"], entry["aligned_sha256"])
                if source is not None and entry["sha256"]:
                    wrong += _differs(source / entry["name"], entry["sha256"], str(source / entry["name"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no manifest of form {MANIFEST_FORMAT} ({error}): align again") from None
    return looked_at, wrong


def _work(pictures: Gathered, aligner: Aligner, workers: int) -> Iterator[tuple[Aligned, str]]:
    """Results in the order of the pictures."""
    pool = ThreadPoolExecutor(workers)
    try:
        for begin in range(0, len(pictures.names), BATCH):
            part = slice(begin, begin + BATCH)
            yield from zip(
                pool.map(aligner, pictures.names[part], pictures.paths[part]), pictures.labels[part], strict=True
            )
    finally:
        pool.shutdown(cancel_futures=True)


def _entry(done: Aligned, key: int | None) -> dict[str, object]:
    points = None if done.points is None else [[_plain(x), _plain(y)] for x, y in done.points.tolist()]
    return {
        "name": done.name,
        "key": key,
        "status": done.status,
        "reason": done.reason,
        "sha256": done.sha256,
        "aligned_sha256": "" if done.image is None else hashlib.sha256(done.image).hexdigest(),
        "points": points,
        "score": done.score,
        "faces": done.faces,
    }


def _plain(value: float) -> float | None:
    return value if np.isfinite(value) else None  # JSON has no NaN


def _head(pictures: Gathered, aligner: Aligner, totals: Totals, stated: Mapping[str, object]) -> dict[str, object]:
    settings = asdict(aligner.settings)
    return {
        "format": MANIFEST_FORMAT,
        "records": f"{NAME}.rec",
        "size": IMAGE_SIZE,
        "fallback": settings.pop("fallback"),
        **stated,
        "settings": {**settings, "labels": pictures.label_from, **stated.get("settings", {})},
        "versions": {"opencv": cv2.__version__, "numpy": np.__version__, **stated.get("versions", {})},
        "totals": {"pictures": totals.pictures, **{s: totals.status[s] for s in ("aligned", "fallback", "failed")}},
    }


def _write_manifest(folder: Path, head: dict[str, object]) -> None:
    """The head, which names the hashes of the other files, and after it the lines that were gathered."""
    if not (folder / FAILURES).stat().st_size:
        (folder / FAILURES).unlink()
    files = sorted(path for path in folder.iterdir() if path.name not in ("lines", "lock"))
    for path in files:
        flush(path)
    head["files"] = {path.name: _digest(path) for path in files}
    with (folder / MANIFEST).open("wb") as manifest, (folder / "lines").open("rb") as lines:
        manifest.write(json.dumps(head, ensure_ascii=False).encode() + b"\n")
        shutil.copyfileobj(lines, manifest)
    (folder / "lines").unlink()
    flush(folder / MANIFEST)


@contextmanager
def _building(output: Path) -> Iterator[Path]:
    """A folder within OUTPUT to fill; at the end its files move up, the manifest last. After an error nothing stays."""
    made = not output.exists()
    folder = output / f".aligning{UNFINISHED}"
    with alone(folder / "lock", f"{output} is being written"):
        try:
            for left in folder.iterdir():  # by a killed process
                if left.name != "lock":
                    left.unlink()
            yield folder
            with _undisturbed():
                _move_up(folder, output)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if made and not any(output.iterdir()):
                output.rmdir()


def _move_up(folder: Path, output: Path) -> None:
    records, index = record_paths(output / NAME)
    for old in (MANIFEST, FAILURES, CLASSES, index.name, landmark_path(records).name):
        (output / old).unlink(missing_ok=True)
    names = sorted(path.name for path in folder.iterdir() if path.name not in ("lock", MANIFEST))
    for name in (*names, MANIFEST):
        (folder / name).replace(output / name)
    flush(output)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the end of it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _differs(path: Path, wanted: str, name: str) -> list[str]:
    """What is to be said of a file that should have this hash; nothing where it has."""
    try:
        return [] if _digest(path) == wanted else [f"{name}: has changed"]
    except FileNotFoundError:
        return [f"{name}: is missing"]
    except OSError as error:
        return [f"{name}: cannot be read: {error.strerror or error}"]


def _open(records: Path) -> tuple[RecordReader | None, list[str]]:
    try:
        return RecordReader(records, strict=False), []
    except (RecordError, OSError) as error:
        return None, [f"the records cannot be opened: {error}"]


def _differing_record(reader: RecordReader, name: str, key: int, wanted: str) -> list[str]:
    try:
        digest = hashlib.sha256(unpack(reader.read(key))[1]).hexdigest()
    except RecordError as error:
        return [f"{name}: {error}"]
    return [] if digest == wanted else [f"{name}: its aligned picture (record {key}) has changed"]
