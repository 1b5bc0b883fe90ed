"""Which moments of a run are kept: when a checkpoint is due, what came of it, which one is the best."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

from easydict import EasyDict

from recognition.checkpoint import Best, Outcome, Saver, State
from recognition.learner import Learner
from recognition.logs import Logs


class Keeper:
    """The checkpoints of one run, by all processes together.

    saved_update: of the last complete checkpoint, -1 before the first. failed: one could not be written, and
    train.on_save_error says stop.
    """

    def __init__(self, settings: EasyDict, folder: Path, logs: Logs, *, best: Best | None, saved_update: int) -> None:
        """settings: the section config.train. best: of the run until now. saved_update: of the checkpoint continued."""
        self.settings, self.folder, self.logs, self.best = settings, folder, logs, best
        self.saver = Saver(
            folder,
            keep=settings.keep,
            asynchronous=settings.async_save,
            best=None if best is None else best.step,
            timeout=timedelta(minutes=settings.timeout_minutes),
        )
        self.saved_update, self._saving, self.failed = saved_update, -1, False
        self._saved_at = time.monotonic()

    def late(self) -> bool:
        """Whether train.save_every_minutes have passed, by this process's clock."""
        minutes = self.settings.save_every_minutes
        return minutes > 0 and time.monotonic() - self._saved_at >= 60 * minutes

    def save(self, learner: Learner, state: State, texts: Mapping[str, str], *, last: bool) -> None:
        """Begin a checkpoint. Unless it is the last one of this process, none is made while updates are being skipped:
        the weights may be the reason, and good checkpoints would make room for theirs.
        texts: files for people that go with it, by name, of the main process.
        """
        update = state.update
        if learner.guard.in_a_row and not last:
            self.logs.say(f"no checkpoint of update {update}: it was skipped, and the weights may be the reason")
            return
        self.wait()
        learner.share_statistics()
        self.saver.save(update, learner.model, learner.classifier, learner.optimizer, state.as_dict(), texts)
        self._saving, self._saved_at = update, time.monotonic()

    def look(self) -> None:
        """Tell what came of a save, where one has ended since."""
        self._heed(self.saver.take())

    def wait(self) -> None:
        """The same after the end of the one under way."""
        self._heed(self.saver.wait())

    def compare(self, update: int, value: float, figure: str, save: Callable[[], None]) -> None:
        """Keep the checkpoint of the best evaluation so far, and that this one was made.

        figure: what `value` is, as evaluation.best names it. save: begins a checkpoint of this update.
        """
        before = self.best if self.best is not None and self.best.figure == figure else None
        better = before is None or value > before.value
        self.wait()
        if better and self.saved_update != update:
            save()
            self.wait()
        if better and self.saved_update == update:
            before = Best(update, update, value, figure)
        elif before is None:  # nothing could be kept yet
            before = Best(update, -1, float("-inf"), figure)
        self.best = Best(update, before.step, before.value, figure)
        self.saver.best = self.best.step
        if self.logs.speaks:
            with self.logs.going_on(f"the evaluation of update {update} will be made again by a resumed run"):
                self.best.write(self.folder)

    def close(self) -> None:
        """Wait, and let go of the process group."""
        self.saver.close()

    def _heed(self, outcome: Outcome | None) -> None:
        if outcome is None:
            return
        if outcome.path is not None:
            self.saved_update = self._saving
            self.logs.say(f"saved {outcome.path}")
        for text in filter(None, (outcome.problem, outcome.warning)):
            self.logs.say(f"WARNING: {text}")
        self.failed |= bool(outcome.problem) and self.settings.on_save_error == "stop"
