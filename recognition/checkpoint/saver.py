"""Writing checkpoints: beside, sealed by a manifest, renamed; at once or while training goes on."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import CheckpointException
from torch.optim import Optimizer

from recognition.checkpoint import tensors as stored
from recognition.checkpoint.folder import STATE, complete, path_of, retire
from recognition.checkpoint.manifest import digest, write_manifest
from recognition.distributed import gather_json
from recognition.files import flush
from recognition.model import FaceModel
from recognition.partial_fc import PartialFC

NO_TEXTS: Mapping[str, str] = {}
Tensors = Mapping[str, Tensor | stored.Share]


class SaveError(OSError):
    """A checkpoint that could not be written; the ones before it are as they were."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a save: the same on every process, but for `warning`, which the main process knows."""

    path: Path | None  # None where it could not be written
    problem: str = ""  # why, in words
    warning: str = ""  # written, but an old one could not be deleted


class Saver:
    """Writes the checkpoints of one run, one at a time, by all processes together.

    folder: of all checkpoints. keep: newest ones that stay, 0 = all. asynchronous: save() returns once everything is
    copied to the CPU's memory, and a thread writes; it has a process group of its own.
    best: update whose checkpoint stays as well. timeout: of the thread's collectives.
    """

    def __init__(
        self, folder: Path, *, keep: int, asynchronous: bool, best: int | None = None, timeout: timedelta | None = None
    ) -> None:
        self.folder, self.keep, self.asynchronous, self.best = folder, keep, asynchronous, best
        together = asynchronous and dist.get_world_size() > 1
        self._group = dist.new_group(backend="gloo", timeout=timeout) if together else None
        self._thread: threading.Thread | None = None
        self._result: Outcome | BaseException | None = None

    def save(
        self,
        step: int,
        model: FaceModel,
        classifier: PartialFC,
        optimizer: Optimizer,
        state: dict,
        texts: Mapping[str, str] = NO_TEXTS,
    ) -> None:
        """Begin a checkpoint; call take() or wait() for what came of it. One under way is waited for: take() it first.

        state: JSON-able; whatever is not a tensor. texts: more files for people, by name, of the main process.
        """
        assert self._thread is None and self._result is None, "take() or wait() first"
        copies = stored.snapshot(model, classifier, optimizer)
        arguments = (step, copies, classifier.num_classes, state, texts)
        if not self.asynchronous:
            self._run(*arguments)
            return
        self._thread = threading.Thread(target=self._run, args=arguments, daemon=True, name=f"checkpoint {step}")
        self._thread.start()

    def take(self) -> Outcome | None:
        """What came of the last save, once; None while it is under way or where there was none."""
        if self._thread is not None and self._thread.is_alive():
            return None
        self._thread = None
        result, self._result = self._result, None
        if isinstance(result, BaseException):
            raise result
        return result

    def wait(self) -> Outcome | None:
        """As take(), after the end of the one under way."""
        if self._thread is not None:
            self._thread.join()
        return self.take()

    def close(self) -> None:
        """Wait, and let go of the process group."""
        self.wait()
        self._group = None

    def _run(self, step: int, copies: Tensors, classes: int, state: dict, texts: Mapping[str, str]) -> None:
        try:
            path = write(self.folder, step, copies, classes, state, self._group, texts)
            warning = retire(self.folder, self.keep, self.best) if _is_main() else ""
            self._result = Outcome(path, warning=warning)
        except SaveError as error:
            self._result = Outcome(None, problem=str(error))
        except BaseException as error:  # for the main thread to raise: a lost process, a full memory
            self._result = error


def save(folder: Path, step: int, model: FaceModel, classifier: PartialFC, optimizer: Optimizer, state: dict) -> Path:
    """Write folder/step_<step> by all processes together and wait for it. Returns its path. SaveError in words."""
    copies = stored.snapshot(model, classifier, optimizer)
    return write(folder, step, copies, classifier.num_classes, state, None)


def write(
    folder: Path,
    step: int,
    copies: Tensors,
    classes: int,
    state: dict,
    group: dist.ProcessGroup | None,
    texts: Mapping[str, str] = NO_TEXTS,
) -> Path:
    """Write every process's snapshot as one checkpoint: complete under its name, or not there.

    SaveError on every process where one of them fails; what was written of it is removed.
    """
    path = path_of(folder, step)
    unfinished = path.with_name(f".{path.name}")

    def prepare() -> None:
        if _is_main():
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            flush(folder.parent)

    def write_tensors() -> dict[str, list]:
        files = stored.write(copies, unfinished, classes, group)
        for file in files:
            flush(file)  # by the machine that wrote it
        return {file.name: digest(file) for file in files}

    def seal() -> None:
        if not _is_main():
            return
        files = {name: entry for part in written for name, entry in part.items()}
        for name, text in {STATE: json.dumps(state, indent=2) + "\n", **texts}.items():
            (unfinished / name).write_text(text, encoding="utf-8")
            files[name] = digest(unfinished / name)
        write_manifest(unfinished, files)
        if path.exists():
            os.replace(path, path.with_name(f".{path.name}.replaced"))
        os.replace(unfinished, path)
        flush(folder)
        shutil.rmtree(path.with_name(f".{path.name}.replaced"), ignore_errors=True)

    try:
        _together(prepare, group)
        written = _together(write_tensors, group)
        _together(seal, group)
    except SaveError as error:
        if _is_main():
            shutil.rmtree(unfinished, ignore_errors=True)
        raise SaveError(f"no checkpoint of update {step}: {error}; {_stands(folder)}") from None
    return path


def _together(action: Callable[[], object], group: dist.ProcessGroup | None) -> list[object]:
    """What the action returned on each process; SaveError on all where it failed on one."""
    result, problem = None, ""
    try:
        result = action()
    except CheckpointException as error:
        problem = f"{stored.first_cause(error)}"
    except (OSError, RuntimeError, MemoryError) as error:
        problem = f"{error}" or type(error).__name__
    outcomes = gather_json([result, problem], group)
    if problems := [text for _, text in outcomes if text]:
        raise SaveError(problems[0])
    return [value for value, _ in outcomes]


def _stands(folder: Path) -> str:
    there = complete(folder)
    return f"the newest complete one is {there[-1]}" if there else f"there is no complete one in {folder}"


def _is_main() -> bool:
    return dist.get_rank() == 0
