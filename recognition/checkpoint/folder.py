"""The folder of a run's checkpoints: which are whole, which is the best, which may go, which to continue.

step_000000120 is a checkpoint of update 120; a name with a dot in front is unfinished or on its way out.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from easydict import EasyDict

from recognition import distributed
from recognition.checkpoint.base import check_base
from recognition.checkpoint.manifest import MANIFEST, DamagedError, verify
from recognition.config import differences, from_json
from recognition.files import flush, write_atomically

STATE = "state.json"
BEST = "best.json"
LAUNCH = "launch.txt"  # of a run: which torchrun began it
NAME = re.compile(r"step_\d{9,}")
MOST_IMAGES = 2**24  # of a micro-step, far beyond any machine
# settings that a continued run may change; all others make it another run
FREE = (
    "run.root", "run.name", "needs", "gate.sample", "evaluation", "data.batch_size", "data.loader", "data.workers",
    "data.on_bad_record", "data.bad_record_limit", "train.async_save", "train.deterministic", "train.device",
    "train.keep", "train.log_every", "train.non_finite_limit", "train.on_save_error", "train.resume",
    "train.save_every", "train.save_every_minutes", "train.save_every_updates", "train.sharding",
    "train.timeout_minutes",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What is no tensor of a run at one update: the contents of state.json."""

    update: int
    position: int  # in the sample order: images seen
    global_batch: int  # images of a micro-step over all processes, fixed at the first start
    world_size: int  # processes that wrote it
    fingerprint: str  # of the training records; "" where a converted checkpoint does not know them
    base_sha256: str  # of the base weights' file; "" without one
    scaler: dict  # state of the loss scaling
    skipped: dict  # updates skipped, as non_finite counts them
    train_seconds: float
    best: dict | None = None  # the best of the evaluations until then
    imported: dict | None = None  # where a converted checkpoint comes from
    adapter_sha256: str = ""  # of the adapter's tensor file that the run started from; "" without one
    evaluation: dict | None = None  # time that evaluations during training took, as evaluations.Pace counts it

    def as_dict(self) -> dict:
        """JSON-able."""
        return asdict(self)


def read_state(path: Path) -> State:
    """The state in a checkpoint's folder. ValueError where it is none."""
    try:
        state = State(**json.loads((path / STATE).read_text()))
        numbers = (state.update, state.position, state.skipped["in_a_row"], state.skipped["total"])
        whole = all(type(number) is int and number >= 0 for number in numbers) and state.update == step_of(path)
        whole &= type(state.global_batch) is int and 0 < state.global_batch <= MOST_IMAGES
        whole &= math.isfinite(state.train_seconds) and isinstance(state.scaler, dict)
        whole &= all(isinstance(h, str) for h in (state.fingerprint, state.base_sha256, state.adapter_sha256))
        if not whole:
            raise ValueError("a value cannot be as it is")
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path / STATE} is no state of a run: {error}") from None
    return state


@dataclass(frozen=True, slots=True)
class Best:
    """What evaluations during training found: the last one's update, and the checkpoint with the best figure."""

    evaluated: int  # update of the last evaluation
    step: int  # update of the best
    value: float
    figure: str  # what is compared

    def write(self, folder: Path) -> None:
        """As folder/best.json."""
        write_atomically(folder / BEST, json.dumps(asdict(self), indent=2) + "\n")


def read_best(folder: Path) -> Best | None:
    """What folder/best.json says; None where there was no evaluation. ValueError where it is not what write() makes."""
    path = folder / BEST
    if not path.is_file():
        return None
    try:
        return as_best(json.loads(path.read_text()))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it, and the next evaluation is the best") from None


def as_best(found: dict) -> Best:
    """From its fields. ValueError, TypeError, KeyError or OverflowError where they are none."""
    best = Best(int(found["evaluated"]), int(found["step"]), float(found["value"]), str(found["figure"]))
    if math.isnan(best.value):
        raise ValueError("its value is no number")
    return best


def best_at(folder: Path, update: int, stored: dict | None) -> Best | None:
    """The best at a resume: of the evaluation that followed the checkpoint of `update`, or what that one stored."""
    best = read_best(folder)
    if best is None or best.evaluated != update:
        best = None if stored is None else as_best(stored)
    kept = best is not None and (best.step < 0 or path_of(folder, best.step).is_dir())
    return best if kept else None


def step_of(path: Path) -> int:
    """The update of a checkpoint folder."""
    return int(path.name.rpartition("_")[2])


def path_of(folder: Path, step: int) -> Path:
    """Where the checkpoint of an update lies."""
    return folder / f"step_{step:09d}"


def complete(folder: Path) -> list[Path]:
    """The checkpoints with a manifest, oldest first."""
    found = [path.parent for path in folder.glob(f"step_*/{MANIFEST}") if NAME.fullmatch(path.parent.name)]
    return sorted(found, key=step_of)


def newest(folder: Path) -> Path | None:
    """The complete checkpoint of the latest step under `folder`, or None."""
    return next(reversed(complete(folder)), None)


def named(path: str | Path) -> Path:
    """The checkpoint that a path means: its own folder, or the newest of a run. ValueError where there is none."""
    found = newest(Path(path) / "checkpoints") or Path(path)
    if not (found / MANIFEST).is_file():
        raise ValueError(
            f"{path} is no complete checkpoint; name a folder such as runs/demo/checkpoints/step_000000100, or a run's "
            "folder for its newest one"
        )
    return found


def retire(folder: Path, keep: int, best: int | None) -> str:
    """Delete all but the newest `keep` (0 = all stay) and the one of update `best`. Returns what failed, in words."""
    old = complete(folder)[:-keep] if keep else []
    problems = []
    for path in old:
        if step_of(path) == best:
            continue
        leaving = path.with_name(f".{path.name}.deleted")
        try:  # renamed first: a half deleted one must not look whole
            os.replace(path, leaving)
            shutil.rmtree(leaving)
        except OSError as error:
            problems.append(f"the old checkpoint {path} could not be deleted ({error}); delete it by hand")
    return "; ".join(problems)


def tidy(folder: Path, step: int) -> list[Path]:
    """Make the checkpoint of `step` the newest: remove what is unfinished, set later ones aside. Returns those."""
    for path in folder.glob(".step_*"):
        shutil.rmtree(path, ignore_errors=True)
    later = [path for path in folder.glob("step_*") if NAME.fullmatch(path.name) and step_of(path) > step]
    if later:
        number = 1
        while (aside := folder / f"set_aside_{number}").exists():
            number += 1
        aside.mkdir()
        for path in sorted(later, key=step_of, reverse=True):  # after a kill the rest is still the past of what is left
            path.rename(aside / path.name)
        flush(folder)
    return sorted(later)


def recover(folder: Path) -> None:
    """Give back its name to a checkpoint whose replacement by a newer one of the same update was cut off."""
    for path in folder.glob(".step_*.replaced"):
        final = path.with_name(path.name.removeprefix(".").removesuffix(".replaced"))
        if NAME.fullmatch(final.name) and (path / MANIFEST).is_file() and not final.exists():
            path.rename(final)


def to_resume(
    config: EasyDict, run: Path, fingerprint: str, base: str, adapter: str = ""
) -> tuple[Path | None, State | None]:
    """The checkpoint that config.train.resume asks for and its state; Nones for a new start. By all together.

    fingerprint: of the training records. base, adapter: SHA-256 of config.backbone.weights and of the tensors that
    config.adapter.weights names, "" without. The main process chooses, and all check files and settings.
    ValueError where there is none by that name, where it is damaged (naming the file and the checkpoint before it), or
    where settings, records, base weights or the adapter started from are not those it was trained with.
    """
    chosen, problem = distributed.gather_json(_choose(config.train.resume, run))[0]
    if problem:
        raise ValueError(problem)
    if chosen is None:
        return None, None
    path = Path(chosen)
    if any(seen := distributed.gather_json(not path.is_dir())):
        raise ValueError(f"process {seen.index(True)} does not see {path}: run.root has to be a folder of all machines")
    check(path)
    settings = path.absolute().parents[1] / "config.json"
    if not settings.is_file():
        raise ValueError(
            f"{path} lies in no run: there is no {settings}; put it back, or start anew with train.resume=never"
        )
    saved = from_json(settings)
    told = {key: value for key, value in saved.backbone.items() if key not in config.backbone}
    config.backbone.update(told)  # by the card of the base weights, when the run began
    if saved.gate.fit and saved.gate.fit == config.gate.fit:  # fitted when the run began, and never again
        config.gate.update(midpoint=saved.gate.midpoint, slope=saved.gate.slope)
    if changed := differences(config, saved, FREE):
        raise ValueError(
            f"{path} was trained with other settings: {'; '.join(changed)}; "
            "put them back, or start anew with train.resume=never or another run.name"
        )
    state = read_state(path)
    # a checkpoint made of another program's may know neither
    if state.fingerprint not in ("", fingerprint):
        raise ValueError(
            f"{path} was trained on other records than config.data.records names; "
            "give the same ones, or start anew with train.resume=never"
        )
    for stored, now, name in (
        (state.base_sha256, base, config.backbone.weights),
        (state.adapter_sha256, adapter, config.adapter.get("weights")),
    ):
        if stored not in ("", now):
            raise ValueError(
                f"{path} was trained on another file than {name} is now (SHA-256 differs); "
                "put the original back, or start anew with train.resume=never"
            )
    check_base(path, state.base_sha256, config.backbone.weights)
    return path, state


def check(path: Path) -> None:
    """Compare a checkpoint with its manifest, the hashing shared by all processes; DamagedError on all of them."""
    problem = ""
    try:
        verify(path, distributed.global_rank(), distributed.world_size())
    except DamagedError as error:
        problem = str(error)
    if found := [text for text in distributed.gather_json(problem) if text]:
        raise DamagedError(f"{found[0]}; {_before(path)}")


def started_by_this_torchrun(run: Path) -> bool:
    """Whether this process was started again by the torchrun that began the run: it continues, whatever resume says."""
    path = run / LAUNCH
    return bool(launch()) and path.is_file() and path.read_text() == launch()


def launch() -> str:
    """The torchrun that started this process, by machine, process and its start; "" without one."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return ""
    stat = Path(f"/proc/{os.getppid()}/stat")
    began = stat.read_text().rpartition(")")[2].split()[19] if stat.is_file() else ""
    return f"{socket.gethostname()} {os.getppid()} {began}\n"


def _before(path: Path) -> str:
    older = [other for other in complete(path.parent) if step_of(other) < step_of(path)]
    if not older:
        return "there is no checkpoint before it; start anew with train.resume=never"
    return f"the one before it can be continued: train.resume={older[-1]}"


def _choose(wanted: str, run: Path) -> Sequence[str | None]:
    """(path or None, what is wrong) on the main process; nothing on the others."""
    if distributed.global_rank():
        return None, ""
    recover(run / "checkpoints")
    mine = newest(run / "checkpoints")
    if wanted == "auto" or (mine and started_by_this_torchrun(run)):
        return (str(mine) if mine else None), ""
    if wanted == "never":
        return None, ""
    try:
        return str(named(wanted)), ""
    except ValueError as error:
        return None, f"train.resume: {error}"
