"""Checkpoints of a run: all of its state, whole or not there, continued on any number of processes.

A folder step_<update> holds safetensors (class centres by class range), state.json for what is no tensor, and
manifest.json with sizes and SHA-256. Nothing in it is ever unpickled.
"""

import importlib
from typing import TYPE_CHECKING

from recognition.checkpoint.base import base_tensors
from recognition.checkpoint.folder import (
    LAUNCH,
    Best,
    State,
    best_at,
    check,
    complete,
    launch,
    named,
    newest,
    path_of,
    read_best,
    read_state,
    started_by_this_torchrun,
    step_of,
    tidy,
    to_resume,
)
from recognition.checkpoint.manifest import DamagedError

if TYPE_CHECKING:
    from recognition.checkpoint.saver import Outcome, SaveError, Saver, save
    from recognition.checkpoint.tensors import network, read, read_centres

__all__ = [
    "LAUNCH",
    "Best",
    "DamagedError",
    "Outcome",
    "SaveError",
    "Saver",
    "State",
    "base_tensors",
    "best_at",
    "check",
    "complete",
    "launch",
    "named",
    "network",
    "newest",
    "path_of",
    "read",
    "read_best",
    "read_centres",
    "read_state",
    "save",
    "started_by_this_torchrun",
    "step_of",
    "tidy",
    "to_resume",
]

LATER = {  # torch.distributed.checkpoint takes a second to import, and who reads a delivered model never needs it
    **dict.fromkeys(("Outcome", "SaveError", "Saver", "save"), "saver"),
    **dict.fromkeys(("network", "read", "read_centres"), "tensors"),
}


def __getattr__(name: str) -> object:
    if name not in LATER:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(importlib.import_module(f"{__name__}.{LATER[name]}"), name)
