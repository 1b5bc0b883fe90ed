"""Bad records: what each one is, the file that lists them, and the share of them that stops a run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from recognition.files import write_atomically

OPENING = -1  # the position of what is found bad before the first step


@dataclass(frozen=True, slots=True)
class BadRecord:
    """One meeting with a record that cannot be trained on."""

    file: str  # the .rec
    shard: int  # its number in Records.shards
    key: int
    offset: int  # bytes from the file's beginning
    problem: str
    position: int = OPENING  # in the sample order, where it was met; step = position // global batch
    replacement: tuple[int, int] | None = None  # shard and key of the record that was taken instead; None at opening

    def __str__(self) -> str:
        return f"{self.file}, key {self.key}, offset {self.offset}: {self.problem}"


class BadRecords:
    """The bad records of a run, listed as JSON lines.

    path: the file. It appears with the first bad record. Several processes append to the same one: a line is one write.
        None keeps the list in memory only.
    num_images: records of the set that are or should be images, those left out at opening among them.
    limit: the run may go on while (different bad records listed by all processes) <= limit * num_images. Nothing is
        rounded in favour of small sets: where limit * num_images is below 1, the first bad record is one too many.

    A record that is met in several epochs is listed for each of its positions and counted once. What stands in the file
    is a function of seed and set: a run that was interrupted and continued lists what an undisturbed one lists.
    """

    def __init__(self, path: str | os.PathLike | None, num_images: int, limit: float) -> None:
        """ValueError for a limit outside [0, 1]."""
        check_limit(limit)
        self.path = None if path is None else Path(path)
        self.num_images = num_images
        self.limit = limit
        self._forget()

    def __len__(self) -> int:
        """Different bad records, of all processes, as far as this one has read the file."""
        return len(self._different)

    def add(self, found: Iterable[BadRecord]) -> None:
        """List them, but for those that are listed already. ValueError once the share of bad records is too large."""
        found = list(found)
        if not found:
            return
        self._read()
        for record in found:
            if (record.shard, record.key, record.position) not in self._listed:
                self._append(record)
        self._read()  # what other processes wrote counts too
        check_share(len(self), self.num_images, self.limit, str(self.path or "the log"), found[-1])

    def cut(self, position: int) -> None:
        """Drop what was met at or past a position of the sample order, which a continued run meets again.

        By one process, before any adds. cut(0) keeps what was found at opening, cut(-1) nothing. A half line at the
        end, which a full disk leaves, goes too. The file is replaced at once: an interruption leaves it as it was.
        """
        self._forget()
        if self.path is None or not self.path.is_file():
            return
        before = self.path.read_bytes()
        kept = [line for line, record in self._lines(before, 0) if record.position < position]
        after = b"".join(kept)
        if not after:
            self.path.unlink()
        elif after != before:
            write_atomically(self.path, after)

    def _forget(self) -> None:
        self._listed: set[tuple[int, int, int]] = set()  # shard, key, position
        self._different: set[tuple[int, int]] = set()  # shard, key
        self._read_to, self._inode, self._count = 0, -1, 0

    def _note(self, record: BadRecord) -> None:
        self._listed.add((record.shard, record.key, record.position))
        self._different.add((record.shard, record.key))

    def _append(self, record: BadRecord) -> None:
        if self.path is None:
            self._note(record)
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = (json.dumps(asdict(record)) + "\n").encode()
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            if (written := os.write(file, line)) < len(line):
                raise OSError(f"{self.path}: only {written} of {len(line)} bytes could be written; is the disk full?")
        finally:
            os.close(file)

    def _read(self) -> None:
        """Take in whole lines that were not read yet; from the beginning, where the file is another one."""
        if self.path is None:
            return
        try:
            file = open(self.path, "rb")  # noqa: SIM115 - closed below
        except FileNotFoundError:
            self._forget()
            return
        with file:
            there = os.fstat(file.fileno())
            if there.st_ino != self._inode or there.st_size < self._read_to:
                self._forget()
                self._inode = there.st_ino
            file.seek(self._read_to)
            for line, record in self._lines(file.read(), self._count):
                self._read_to += len(line)
                self._count += 1
                self._note(record)

    def _lines(self, data: bytes, before: int) -> Iterable[tuple[bytes, BadRecord]]:
        """Whole lines and what they say. ValueError naming a line that is none of ours. before: lines ahead of data."""
        for number, line in enumerate(data.splitlines(keepends=True), start=before + 1):
            if not line.endswith(b"\n"):
                return
            try:
                said = json.loads(line)
                record = BadRecord(**said)
                sound = all(isinstance(said[name], int) for name in ("shard", "key", "position"))
            except (ValueError, TypeError, KeyError):
                sound = False
            if not sound:
                raise ValueError(f"{self.path}, line {number}: found {line[:60]!r}, no bad record; remove the line")
            yield line, record


def check_limit(limit: float) -> None:
    """ValueError where a limit is no share."""
    if not 0 <= limit <= 1:
        raise ValueError(f"config.data.bad_record_limit is {limit:g}; it must be a share of the images, 0 to 1")


def check_share(count: int, num_images: int, limit: float, listed_in: str, last: object) -> None:
    """ValueError where `count` bad records of num_images are more than limit allows. last: the one to name."""
    if count > limit * num_images:
        raise ValueError(
            f"{count} of {num_images} records are bad ({count / max(num_images, 1):.3%}), which is more than "
            f"config.data.bad_record_limit={limit:g} allows; one is {last}; {listed_in} names the others. "
            "Mend the set, or raise the limit"
        )
