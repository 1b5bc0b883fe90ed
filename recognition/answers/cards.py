"""Where the card of a model lies that is named by its run, or by one of its checkpoints."""

from __future__ import annotations

from pathlib import Path

from adapters._files import CARD
from recognition import checkpoint


def is_checkpoint(path: Path) -> bool:
    """Whether it is named as RUN/checkpoints/NAME, NAME a checkpoint's or "best"; not whether that is there."""
    whole = path.absolute()
    return whole.parent.name == "checkpoints" and (whole.parents[1] / "config.json").is_file()


def card_file(path: Path) -> Path | None:
    """The card of a run or of a checkpoint, which is not looked for; None for another path.

    FileNotFoundError where there is no best checkpoint.
    """
    if is_checkpoint(path):
        return _step(path) / CARD
    return path / "model" / CARD if (path / "config.json").is_file() else None


def _step(path: Path) -> Path:
    """The folder of a checkpoint, "best" by its own name."""
    if path.name != "best":
        return path
    best = checkpoint.read_best(path.parent)
    if best is None or best.step < 0:
        raise FileNotFoundError(f"{path.parent} has no best checkpoint: nothing was evaluated during or after training")
    return checkpoint.path_of(path.parent, best.step)
