"""A training process that tells when it reaches what and ends with its first update; bench/start_up.py starts it.

It is tools/train.py, whose steps on the way are listened to. torch is imported first, so that its part is known.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

MARKS = "LRFACE_BENCH_MARKS"  # names the file for the main process's marks; where it is not set, they are printed


class Marks:
    """Seconds (of time.monotonic(), which all processes of a machine share) by what is complete, in order."""

    def __init__(self) -> None:
        self.found: dict[str, float] = {}

    def tell(self, name: str) -> None:
        self.found.setdefault(name, time.monotonic())

    def after(self, owner: object, function: str, name: str) -> None:
        """Mark the end of the first call of owner.function."""
        kept = getattr(owner, function)

        def listening(*arguments, **more):
            result = kept(*arguments, **more)
            self.tell(name)
            return result

        setattr(owner, function, listening)


def process_start() -> float:
    """When this process began, on the clock of time.monotonic(); to a hundredth of a second. Linux only."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    ago = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.monotonic() - ago


def main(argv: Sequence[str], leave: Callable[[int], None] = os._exit) -> None:
    """Train until the first update is made, then write the marks down and leave. argv: of tools/train.py."""
    marks = Marks()
    marks.found["launcher"] = process_start()
    marks.tell("interpreter")
    import torch  # noqa: F401 - its part of the time

    marks.tell("import torch")
    from recognition import learner, meter, trainer
    from recognition.command import tools

    marks.tell("our imports")
    marks.after(trainer, "open_records", "records opened")
    marks.after(trainer, "Learner", "model and optimizer")
    marks.after(trainer, "begin", "run begun")
    marks.after(meter.Meter, "next", "first batch")
    marks.after(learner.Learner, "backward", "forward and backward")
    made = learner.Learner.step

    def last(self: learner.Learner, update: int) -> None:
        made(self, update)
        marks.tell("step")
        _write(marks.found)
        leave(0)

    learner.Learner.step = last
    sys.argv[1:] = argv
    code = runpy.run_path(str(tools()["train"]), run_name="train")["main"]([*argv])
    sys.exit(code or 1)  # it ended before its first update


def _write(found: dict[str, float]) -> None:
    if os.environ.get("RANK", "0") != "0":
        return
    text = json.dumps(found)
    if path := os.environ.get(MARKS):
        Path(path).write_text(text)
    else:
        print(text, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
