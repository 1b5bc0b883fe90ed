"""What a run tells: TensorBoard, JSON lines, a line now and then, a progress bar on a terminal. Main process only."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TextIO

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from recognition import __version__


class Logs:
    """Scalars, histograms and pictures of one run, under its folder."""

    def __init__(self, run: Path, *, total: int, first: int = 0, speaks: bool = True) -> None:
        """total: updates of the whole run. first: update it starts at. speaks: True on the main process only."""
        self.speaks = speaks
        if not speaks:
            return
        run.mkdir(parents=True, exist_ok=True)
        self._board = SummaryWriter(str(run / "logs"), purge_step=first)
        self._lines = _lines_until(run / "metrics.jsonl", first)
        self._bar = tqdm(total=total, initial=first, unit="update", disable=not sys.stderr.isatty(), dynamic_ncols=True)
        self._total = total

    def scalars(self, values: dict[str, float], update: int, *, line: bool = True) -> None:
        """values: numbers by tag, such as 'train/loss'. line: print them too."""
        if not self.speaks:
            return
        for tag, value in values.items():
            self._board.add_scalar(tag, value, update)
        self._lines.write(json.dumps({"update": update, "time": time.time(), **values}) + "\n")
        if line:
            shown = "  ".join(f"{tag.split('/')[-1]} {_short(value)}" for tag, value in values.items())
            self.say(f"[{update}/{self._total}]  {shown}")

    def histogram(self, tag: str, values: Tensor, update: int) -> None:
        """values: any shape."""
        if self.speaks:
            self._board.add_histogram(tag, values.detach().float().cpu(), update)

    def figure(self, tag: str, figure: Figure, update: int) -> None:
        """A picture for the board."""
        if self.speaks:
            self._board.add_figure(tag, figure, update)

    def text(self, tag: str, text: str, update: int = 0) -> None:
        """Markdown for the board."""
        if self.speaks:
            self._board.add_text(tag, text, update)

    def advance(self) -> None:
        """One update is done."""
        if self.speaks:
            self._bar.update()

    def say(self, text: str) -> None:
        """A line for the reader, above the progress bar."""
        if self.speaks:
            self._bar.write(text, file=sys.stdout)
            sys.stdout.flush()

    def close(self) -> None:
        """Flush and close the files."""
        if self.speaks:
            self._bar.close()
            self._board.close()
            self._lines.close()


def provenance() -> dict[str, str]:
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
    return known | {"commit": commit or "not in a git checkout"}


def _lines_until(path: Path, update: int) -> TextIO:
    """The file, open for more lines; those of updates past `update`, which a stopped run left, are cut off."""
    kept = path.read_text().splitlines(keepends=True) if path.is_file() else []
    kept = [line for line in kept if line.endswith("\n") and json.loads(line)["update"] <= update]
    path.write_text("".join(kept))
    return path.open("a", buffering=1)


def _short(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1e5 else f"{value:.3e}"
