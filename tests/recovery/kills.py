"""Kills forked children at random moments of a save and looks at what is left: python -m tests.recovery.kills 100."""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

from adapters import ADAPTERS, attach
from recognition import checkpoint, distributed
from recognition.backbones import BACKBONES
from recognition.checkpoint import Saver
from recognition.gate import Gate
from recognition.margins import MARGINS
from recognition.model import FaceModel
from recognition.partial_fc import PartialFC

CLASSES = 2000


def build() -> tuple:
    """A small network, 2,000 class centres and their momentum."""
    gate = Gate()
    model = FaceModel(BACKBONES.create("mobilefacenet_nano", embedding_size=32), gate)
    attach(model.backbone, ADAPTERS.create("full"), gate)
    classifier = PartialFC(32, CLASSES, MARGINS.create("cosface"))
    optimizer = torch.optim.SGD(trained(model, classifier), lr=0.0, momentum=0.9)
    for p in trained(model, classifier):
        p.grad = torch.zeros_like(p)
    optimizer.step()
    return model, classifier, optimizer


def trained(model: FaceModel, classifier: PartialFC) -> list[torch.nn.Parameter]:
    """What has momentum."""
    return [p for p in (*model.parameters(), *classifier.parameters()) if p.requires_grad]


def fill(parts: tuple, value: float) -> None:
    """Set every weight and momentum to one number, by which a half-written checkpoint would show."""
    model, classifier, optimizer = parts
    with torch.no_grad():
        for p in trained(model, classifier):
            p.fill_(value)
            optimizer.state[p]["momentum_buffer"].fill_(-value)


def save_for_ever(parts: tuple, folder: Path, first: int, asynchronous: bool, tell: int) -> None:
    """In a child: checkpoint after checkpoint; writes a byte to `tell` as each begins."""
    distributed.start("cpu")
    saver = Saver(folder, keep=2, asynchronous=asynchronous)
    step = first
    while True:
        fill(parts, float(step))
        os.write(tell, b".")
        saver.save(step, *parts, {"update": step, "text": "x" * 4000})
        assert saver.wait().path is not None
        step += 1


def one_kill(parts: tuple, folder: Path, first: int, rng: random.Random) -> bool:
    """Fork, let it save once or twice, kill it within the next save. True where a save was cut off."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reads)
        try:
            save_for_ever(parts, folder, first, asynchronous=first % 2 == 0, tell=writes)
        finally:
            os._exit(1)
    os.close(writes)
    for _ in range(rng.randint(1, 2)):
        assert os.read(reads, 1), "the child ended by itself"
    time.sleep(rng.uniform(0, 0.05))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(reads)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
    return any(path.name.startswith(".step") for path in folder.iterdir())


def inspect(parts: tuple, folder: Path, at_least: int) -> int:
    """The newest checkpoint loads whole and is not older than one seen before. Returns its update."""
    path = checkpoint.newest(folder)
    if path is None:
        assert at_least == 0, f"the checkpoint of update {at_least} is gone"
        return 0
    step = checkpoint.step_of(path)
    assert step >= at_least, f"{path}, but {at_least} was there"
    for every in checkpoint.complete(folder):
        checkpoint.check(every)
    fill(parts, -1.0)
    model, classifier, optimizer = parts
    checkpoint.read(path, *parts)
    for p in trained(model, classifier):
        assert (p == step).all() and (optimizer.state[p]["momentum_buffer"] == -step).all(), path
    return step


def main(kills: int, seed: int = 0) -> None:
    """Prints how many kills there were, and how many cut a save off."""
    torch.set_num_threads(1)
    rng, began = random.Random(seed), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder, parts, newest, cut = Path(name), build(), 0, 0
        gc.freeze()  # else the collections of 200 children walk, and copy, all that was imported
        for _ in range(kills):
            cut += one_kill(parts, folder, newest + 1, rng)
            looking = os.fork()  # a process of its own: what starts a process group must not be forked later
            if looking == 0:
                distributed.start("cpu")
                found = inspect(parts, folder, newest)
                (folder / "seen").write_text(str(found))
                os._exit(0)
            assert os.waitpid(looking, 0)[1] == 0, f"after {newest}: see above"
            newest = int((folder / "seen").read_text())
        assert cut >= kills // 4, f"only {cut} of {kills} kills fell into a save: the test shows little"
    seconds = time.monotonic() - began
    print(f"{kills} kills, {cut} within a save; newest update {newest}; none half, none lost; {seconds:.0f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
