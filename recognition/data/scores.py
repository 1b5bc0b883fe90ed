"""Quality scores beside a record file: x.scores.SCORER-HASH.safetensors, bound to its records and to the scorer.

Two tensors: key, int64 (N,), rising; score, float32 (N,), or (N, k) of a scorer that gives k for each picture, NaN for
a record that cannot be decoded. Metadata: `format`;
what the scores depend on (ScorerIdentity); `records`, the shard's fingerprint; `content`, sha256 of both tensors. HASH
is of the identity, so that several scorers, and one with several arguments, lie beside one shard.
While scores are computed, parts of them lie in x.scores.SCORER-HASH.part-WHO.safetensors, files of the same form.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from recognition.data.landmarks import landmark_path, shard_fingerprint
from recognition.data.opened import open_reader
from recognition.data.recordio import RecordError, RecordReader
from recognition.files import UNFINISHED, replacing, sweep, write_atomically

FORMAT = "1"
ENDING = ".safetensors"
PART = ".part-"
SAMPLED = 64  # records whose bytes are looked at, where a shard has no checksums
HEADER_ROOM = 2**16  # bytes of a file that are no scores


@dataclass(frozen=True, slots=True)
class ScorerIdentity:
    """All that a score depends on besides the picture."""

    scorer: str  # its registered name
    arguments: str  # JSON with sorted keys; a file is named by what it holds
    version: int  # of the class
    weights: str  # sha256 of its own tensors
    base: str = ""  # sha256 of the network it looks through, "" for one that looks through none
    needs: str = "image"  # what it looks at; landmarks are those beside the shard, whose file counts as records do
    columns: int = 1  # scores of each picture

    def __str__(self) -> str:
        return f"{re.sub(r'[^A-Za-z0-9_]+', '_', self.scorer)}-{self._hash[:8]}"

    @property
    def _hash(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def empty(self, count: int) -> np.ndarray:
        """NaN for so many pictures: (count,), or (count, columns) where there are several; float32."""
        return np.full((count, self.columns) if self.columns > 1 else count, np.nan, np.float32)

    def difference(self, told: dict[str, str]) -> str:
        """What a file's metadata says otherwise, in words; "" where it says the same."""
        for key, wanted in asdict(self).items():
            if (got := told.get(key, "")) != str(wanted):
                return f"{key} {got[:60] or 'not told'}, wanted {str(wanted)[:60] or 'none'}"
        return ""


@dataclass(frozen=True, slots=True)
class StoredScores:
    """What lies beside a shard for some of its images."""

    scores: np.ndarray  # (n,) or (n, k) float32, NaN where nothing is known, and for bad records
    known: np.ndarray  # (n,) bool; a bad record is known
    problem: str  # why it cannot be used as it is, a sentence; "" = it can


def _contents(reader: RecordReader) -> str:
    """sha256 over the checksums of all records, where the shard has some; else over SAMPLED records themselves."""
    digest = hashlib.sha256()
    if reader.checksums is not None:
        digest.update(reader.checksums)
    elif len(reader):
        for row in np.unique(np.linspace(0, len(reader) - 1, SAMPLED).astype(np.int64)):
            with contextlib.suppress(RecordError):  # a bad record tells nothing of itself
                digest.update(reader.read_row(int(row)))
    return digest.hexdigest()


class ShardScores:
    """The scores of one shard by one scorer, and the parts of them that interrupted runs left."""

    def __init__(self, shard: Path, identity: ScorerIdentity) -> None:
        """RecordError, FileNotFoundError as RecordReader."""
        reader = open_reader(shard)
        self.shard, self.identity = reader.path, identity
        self.stem = f"{reader.path.with_suffix('').name}.scores.{identity}"
        self.path = reader.path.with_name(f"{self.stem}{ENDING}")
        self.fingerprint = shard_fingerprint(reader) + _contents(reader)
        if identity.needs == "landmarks":
            self.fingerprint += _hash_file(landmark_path(self.shard))
        self._bound_to = "landmarks or records" if identity.needs == "landmarks" else "records"
        self._most = HEADER_ROOM + (8 + 4 * identity.columns) * len(reader)  # bytes

    def read(self, keys: np.ndarray) -> StoredScores:
        """The scores of the images with these keys, int64 (n,). A file that cannot be used is as good as none."""
        try:
            there, scores = self._load(self.path)
        except ValueError as error:
            return StoredScores(self.identity.empty(len(keys)), np.zeros(len(keys), bool), str(error))
        return self._of(keys, there, scores, self.path)

    def read_parts(self, keys: np.ndarray) -> StoredScores:
        """The same from parts alone, those that cannot be used left out; `problem` is empty."""
        scores, known = self.identity.empty(len(keys)), np.zeros(len(keys), bool)
        for part in self.parts():
            with contextlib.suppress(ValueError):
                found = self._of(keys, *self._load(part), part)
                scores[found.known], known = found.scores[found.known], known | found.known
        return StoredScores(scores, known, "")

    def write(self, keys: np.ndarray, scores: np.ndarray) -> None:
        """Write scores (n,) or (n, k) of the images with these keys; others that the file or parts hold stay, parts go.

        Whoever else writes the same file at the same time: either file is right. OSError where it cannot be written.
        """
        parts = self.parts()
        for path in (*parts, self.path):
            with contextlib.suppress(ValueError):
                there, other = self._load(path)
                apart = ~np.isin(there, keys)
                keys, scores = np.concatenate([keys, there[apart]]), np.concatenate([scores, other[apart]])
        self._write(self.path, keys, scores)
        for part in parts:
            part.unlink(missing_ok=True)
        for killed in self.path.parent.glob(f".{_literal(self.stem)}{PART}*{UNFINISHED}"):
            sweep(killed.with_name(killed.name.removeprefix(".").rsplit(".", 2)[0]))

    def write_part(self, who: str, keys: np.ndarray, scores: np.ndarray) -> Path:
        """Write what a process has of the scores until now, in place of what it wrote before. OSError as write."""
        path = self.path.with_name(f"{self.stem}{PART}{who}{ENDING}")
        self._write(path, keys, scores)
        return path

    def check_writable(self) -> None:
        """OSError naming the file where the folder takes none."""
        with contextlib.suppress(_TriedError), replacing(self.path):
            raise _TriedError

    def parts(self) -> list[Path]:
        """Files that interrupted runs left, or that other ones are writing."""
        return sorted(self.path.parent.glob(f"{_literal(self.stem)}{PART}*{ENDING}"))

    def _write(self, path: Path, keys: np.ndarray, scores: np.ndarray) -> None:
        order = np.argsort(keys)
        tensors = {"key": keys[order].astype(np.int64), "score": scores[order].astype(np.float32)}
        told = {name: str(value) for name, value in asdict(self.identity).items()}
        told |= {"format": FORMAT, "records": self.fingerprint, "content": _content(**tensors)}
        write_atomically(path, save(tensors, metadata=told))

    def _load(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        """Keys and scores of a file. ValueError saying why it is of no use."""
        if not path.is_file():
            raise ValueError(f"there is no {path}{self._others()}")
        told, keys, scores = self._open(path)
        if told.get("format") != FORMAT:
            raise ValueError(f"{path} has format {told.get('format', 'none')}, this version writes {FORMAT}")
        if different := self.identity.difference(told):
            raise ValueError(f"{path} was made by another scorer: {different}")
        if told.get("records") != self.fingerprint:
            raise ValueError(f"{path} was made for other {self._bound_to} than lie at {self.shard} now")
        if told.get("content") != _content(keys, scores) or not (np.diff(keys) > 0).all() or np.isinf(scores).any():
            raise ValueError(f"{path} is damaged")
        return keys, scores

    def _open(self, path: Path) -> tuple[dict[str, str], np.ndarray, np.ndarray]:
        try:
            if (size := path.stat().st_size) > self._most:
                raise ValueError(f"{path} has {size:,} bytes, more than scores of {self.shard} can have")
            with safe_open(path, framework="np") as opened:
                slices = [opened.get_slice(name) for name in ("key", "score")]
                kinds, shapes = [s.get_dtype() for s in slices], [s.get_shape() for s in slices]
                fits = len(shapes[0]) == 1 and shapes[1] == [*shapes[0], *self.identity.empty(0).shape[1:]]
                if kinds != ["I64", "F32"] or not fits:
                    raise ValueError(f"{path} holds {kinds} {shapes}, no scores")
                return opened.metadata() or {}, opened.get_tensor("key"), opened.get_tensor("score")
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is no sound .safetensors file ({error})") from None

    def _of(self, keys: np.ndarray, there: np.ndarray, scores: np.ndarray, path: Path) -> StoredScores:
        at = np.searchsorted(there, keys).clip(max=max(len(there) - 1, 0))
        known = there[at] == keys if len(there) else np.zeros(len(keys), bool)
        found = self.identity.empty(len(keys))
        found[known] = scores[at[known]]
        if known.all():
            return StoredScores(found, known, "")
        return StoredScores(found, known, f"{path} lacks {int((~known).sum()):,} of {len(keys):,} images")

    def _others(self) -> str:
        """In words: a file of the same scorer beside it, and what it was made with otherwise."""
        family = str(self.identity).rpartition("-")[0]
        start = f"{self.shard.with_suffix('').name}.scores.{family}-"
        beside = [p for p in sorted(self.shard.parent.glob(f"{_literal(start)}*{ENDING}")) if PART not in p.name]
        for path in beside:
            with contextlib.suppress(ValueError):
                if different := self.identity.difference(self._open(path)[0]):
                    return f"; {path.name} is of another scorer: {different}"
        return ""


class _TriedError(Exception):
    """Ends a write that was only tried."""


def bad(scores: np.ndarray) -> np.ndarray:
    """(n,) bool: rows that hold NaN."""
    return np.isnan(scores.reshape(len(scores), -1)).any(axis=1)


def _hash_file(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _content(key: np.ndarray, score: np.ndarray) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(key).data)
    digest.update(np.ascontiguousarray(score).data)
    return digest.hexdigest()


def _literal(text: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", text)
