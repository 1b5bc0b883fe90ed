"""What a run tells: TensorBoard, JSON lines, a line now and then, a progress bar on a terminal. Main process only.

Nothing here stops a run: what a full disk or a lost terminal does not take is told once, and lost.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import torch
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.utils.tensorboard import RecordWriter, summary
from tqdm import tqdm

from recognition import __version__
from recognition.files import no_room, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BARS = 64  # of a histogram


class Logs:
    """Scalars, histograms and pictures of one run, under its folder.

    A disk that is full does not stop training: one sentence says from which update on log lines are lost, another one
    when they are written again.
    """

    def __init__(self, run: Path, *, total: int, first: int = 0, speaks: bool = True) -> None:
        """total: updates of the whole run. first: update it starts at. speaks: True on the main process only."""
        self.speaks = speaks
        if not speaks:
            return
        self._run, self._total = run, total
        self._lost: tuple[int, int] | None = None  # first and last update of lines that could not be written
        self._bar = tqdm(total=total, initial=first, unit="update", disable=not sys.stderr.isatty(), dynamic_ncols=True)
        with self.going_on(f"the lines of {run / 'metrics.jsonl'} after update {first} are not cut off"):
            cut_after(run / "metrics.jsonl", first)
        self._lines = Growing(run / "metrics.jsonl")
        self._board = Growing(run / "logs" / _event_file_name(), head=_start_of_board(first))

    def scalars(self, values: dict[str, float], update: int, *, line: bool = True) -> None:
        """values: numbers by tag, such as 'train/loss'. line: print them too."""
        if not self.speaks:
            return
        events = [summary.scalar(tag, value) for tag, value in values.items()]
        self._write(update, _on_board(events, update), _line(values, update))
        if line:
            shown = "  ".join(f"{tag.split('/')[-1]} {_short(value)}" for tag, value in values.items())
            self.say(f"[{update}/{self._total}]  {shown}")

    def record(self, values: dict[str, object], update: int) -> None:
        """Something that happened, JSON-able, as a line of metrics.jsonl only."""
        if self.speaks:
            self._write(update, b"", _line(values, update))

    def histogram(self, tag: str, values: Tensor, update: int) -> None:
        """values: any shape; those that are not finite are left out."""
        if not self.speaks:
            return
        finite = values.detach().float().flatten().cpu()
        finite = finite[finite.isfinite()].numpy()
        if len(finite):
            self._write(update, _on_board([summary.histogram(tag, finite, BARS)], update))

    def figure(self, tag: str, figure: Figure, update: int) -> None:
        """A picture for the board."""
        if self.speaks:
            from matplotlib.backends.backend_agg import FigureCanvasAgg

            canvas = FigureCanvasAgg(figure)
            canvas.draw()
            pixels = np.asarray(canvas.buffer_rgba())[..., :3]
            self._write(update, _on_board([summary.image(tag, pixels, dataformats="HWC")], update))

    def text(self, tag: str, text: str, update: int = 0) -> None:
        """Markdown for the board."""
        if self.speaks:
            self._write(update, _on_board([summary.text(tag, text)], update))

    def advance(self) -> None:
        """One update is done."""
        if self.speaks:
            with contextlib.suppress(OSError):  # a terminal that is gone has no reader
                self._bar.update()

    def say(self, text: str) -> None:
        """A line for the reader, above the progress bar."""
        if self.speaks:
            with contextlib.suppress(OSError):  # a pipe without a reader, or a log on the full disk itself
                self._bar.write(text, file=sys.stdout)
                sys.stdout.flush()

    @contextlib.contextmanager
    def going_on(self, otherwise: str) -> Iterator[None]:
        """For writing what training can do without: an OSError becomes a line, and the run goes on.

        otherwise: what is then the case, such as "the results of update 12 are not kept".
        """
        try:
            yield
        except OSError as error:
            self.say(f"{self._reason(error)}: {otherwise}; training goes on")

    def close(self) -> None:
        """End the progress bar. The files are complete after every line."""
        if not self.speaks:
            return
        with contextlib.suppress(OSError):
            self._bar.close()
        if self._lost is not None:
            self.say(f"the log lines of {_span(*self._lost)} are lost")

    def _write(self, update: int, events: bytes, lines: bytes = b"") -> None:
        error = None
        for file, piece in ((self._lines, lines), (self._board, events)):
            try:
                file.append(piece)
            except OSError as failed:
                error = failed
        if error is not None:
            if self._lost is None:
                advice = "free some space, and they" if no_room(error) else "once it can be written, they"
                self.say(
                    f"{self._reason(error)}: log lines of updates {update} on are lost; {advice} go on; "
                    "so does training"
                )
            self._lost = (update if self._lost is None else self._lost[0], update)
        elif lines and events and self._lost is not None:  # not for one small piece: both files have to take theirs
            self.say(f"logs are written again; the lines of {_span(*self._lost)} are lost")
            self._lost = None

    def _reason(self, error: OSError) -> str:
        return f"the disk of {self._run} is full" if no_room(error) else str(error)


class Growing:
    """A file that grows by whole pieces or not at all: one that does not fit is cut off again.

    It is opened for each piece: closing is where network storage tells that it is full, and there is nothing to lose
    at the end of the run.
    """

    def __init__(self, path: Path, head: bytes = b"") -> None:
        """head: what the file begins with; written with the first piece."""
        self.path, self._head = path, head
        self._size: int | None = None  # of the whole pieces, known from the first one on

    def append(self, piece: bytes) -> None:
        """OSError naming the path where it does not fit. An empty piece changes nothing."""
        if not piece:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self.path.open("ab", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                if self._size is not None and size > self._size:  # a rest that could not be cut off
                    file.truncate(self._size)
                self._size = size = size if self._size is None else min(size, self._size)
                whole = piece if size else self._head + piece
                left = memoryview(whole)
                while left:
                    left = left[file.write(left) :]
            self._size = size + len(whole)
        except OSError as error:
            with contextlib.suppress(OSError):  # if this fails too, the next piece tries it again
                if self._size is not None:
                    os.truncate(self.path, self._size)
            raise OSError(error.errno, os.strerror(error.errno), str(self.path)) from None


def cut_after(path: Path, update: int) -> None:
    """Drop the JSON lines of later updates, which a stopped run left, and damaged ones. A kill in between does no harm.

    A file that does not exist is left so.
    """
    if not path.is_file():
        return
    content = path.read_bytes()
    kept = b"".join(line for line in content.splitlines(keepends=True) if _is_until(line, update))
    if content.startswith(kept):
        os.truncate(path, len(kept))  # one call, and it needs no room on a full disk
    else:
        write_atomically(path, kept)


@functools.cache  # of the code that this process has loaded; git takes 35 ms and a process, at each save
def provenance() -> Mapping[str, str]:
    """Versions and the git commit behind a run: what somebody needs to make it again."""
    known = {"lrface": __version__, "python": platform.python_version(), "torch": torch.__version__}
    for package in ("numpy", "opencv-python", "nvidia-dali-cuda120", "nvidia-dali-cuda130"):
        try:
            known[package] = version(package)
        except PackageNotFoundError:
            continue
    here = Path(__file__).resolve().parent
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        commit = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        commit = "git is not installed"
    return MappingProxyType(known | {"commit": commit or "not in a git checkout"})


def _line(values: dict[str, object], update: int) -> bytes:
    return json.dumps({"update": update, "time": time.time(), **values}).encode() + b"\n"


def _is_until(line: bytes, update: int) -> bool:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return False
    at = found.get("update") if isinstance(found, dict) else None
    return line.endswith(b"\n") and isinstance(at, int) and at <= update


def _span(first: int, last: int) -> str:
    return f"update {first}" if first == last else f"updates {first} to {last}"


def _event_file_name() -> str:
    # the time comes first: TensorBoard reads the files of a folder in the order of their names
    return f"events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}.{os.getpid()}"


def _start_of_board(first: int) -> bytes:
    """The head of an event file; it hides what a stopped run logged after update `first`."""
    now = time.time()
    restart = SessionLog(status=SessionLog.START)
    return _framed(
        [
            Event(wall_time=now, file_version="brain.Event:2"),
            Event(wall_time=now, step=first + 1, session_log=restart),
        ]
    )


def _on_board(summaries: Iterable[Summary], update: int) -> bytes:
    now = time.time()
    return _framed([Event(wall_time=now, step=update, summary=one) for one in summaries])


def _framed(events: Iterable[Event]) -> bytes:
    """Events as they stand in an event file, each with its length and checksums."""
    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    for event in events:
        writer.write(event.SerializeToString())
    return buffer.getvalue()


def _short(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1e5 else f"{value:.3e}"
