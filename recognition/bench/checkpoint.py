"""What `tools/benchmark.py checkpoint` measures: saving and what training waits for, beside bare copy and write."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from adapters import ADAPTERS, attach
from recognition import distributed
from recognition.checkpoint.saver import write
from recognition.checkpoint.tensors import snapshot
from recognition.gate import Gate
from recognition.margins import MARGINS
from recognition.model import FaceModel
from recognition.partial_fc import PartialFC

EMBEDDING = 512
MIB = 2**20

Case = tuple[Callable[[], Iterator[int]], str]  # an endless iterator of MiB per piece; the name of the case's limit


class _Nothing(nn.Module):
    """A backbone of one number: class centres and their momentum make the size."""

    embedding_size, input_size = EMBEDDING, 112

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


@contextmanager
def cases(args: Namespace) -> Iterator[tuple[str, dict[str, Case]]]:
    """A line about the data, and cases by name. args: mib (of class centres and momentum), folder (where to write)."""
    if args.mib < 1:
        raise ValueError(f"--mib {args.mib}: a checkpoint has at least 1 MiB")
    distributed.start("cpu")
    folder = Path(tempfile.mkdtemp(dir=args.folder))
    try:
        parts = _build(args.mib)
        copies = snapshot(*parts)
        size = round(sum(tensor.nbytes for tensor in copies.values()) / MIB)
        yield (
            f"{size} MiB: {parts[1].num_classes:,} class centres and their momentum, one process, {folder.parent}",
            {
                "bare copy in memory": (partial(_bare_copy, copies, size), "bare copy in memory"),
                "what training waits for": (partial(_snapshots, parts, size), "bare copy in memory"),
                "bare write and flush": (partial(_bare_write, copies, size, folder), "bare write and flush"),
                "all of a save": (partial(_saves, copies, parts[1].num_classes, size, folder), "bare write and flush"),
            },
        )
    finally:
        shutil.rmtree(folder)
        distributed.stop()


def _build(mib: int) -> tuple[FaceModel, PartialFC, torch.optim.Optimizer]:
    gate = Gate()
    model = FaceModel(_Nothing(), gate)
    attach(model.backbone, ADAPTERS.create("full"), gate)
    classifier = PartialFC(EMBEDDING, max(1, mib * MIB // (2 * 4 * EMBEDDING)), MARGINS.create("cosface"))
    optimizer = torch.optim.SGD([*model.parameters(), *classifier.parameters()], lr=0.1, momentum=0.9)
    for parameter in (*model.parameters(), *classifier.parameters()):
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return model, classifier, optimizer


def _bare_copy(copies: dict[str, Tensor], size: int) -> Iterator[int]:
    while True:
        held = [tensor.clone() for tensor in copies.values()]
        yield size
        del held


def _snapshots(parts: tuple, size: int) -> Iterator[int]:
    while True:
        held = snapshot(*parts)
        yield size
        del held


def _bare_write(copies: dict[str, Tensor], size: int, folder: Path) -> Iterator[int]:
    path = folder / "bare"
    while True:
        with path.open("wb") as file:
            for tensor in copies.values():
                file.write(memoryview(tensor.numpy().reshape(-1).view("u1")))
            file.flush()
            os.fsync(file.fileno())
        yield size


def _saves(copies: dict[str, Tensor], classes: int, size: int, folder: Path) -> Iterator[int]:
    for step in itertools.count():
        path = write(folder, step, copies, classes, {}, None)
        shutil.rmtree(path)
        yield size
