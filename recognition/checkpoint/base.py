"""Which base weights a checkpoint was trained on: their file, and the network that the file stood for."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from recognition import distributed
from recognition.weights.known import known

CARD = "adapter.json"  # of the model as it stood; a checkpoint has one where it could be written
PROVENANCE = "provenance.json"  # of a run, written at its start


def base_tensors(path: Path, base_sha256: str) -> str:
    """Hash of the base's tensors, as networks hold them, that a checkpoint was trained on; "" where nothing tells it.

    path: of the checkpoint. base_sha256: of the base's file, as its state says.
    """
    card, start = _read(path / CARD), _read(path.absolute().parents[1] / PROVENANCE).get("base")
    start = start if isinstance(start, dict) else {}
    for file, tensors in (
        (card.get("base_sha256"), card.get("base_tensors_sha256")),
        (start.get("sha256"), start.get("tensors_sha256")),
    ):
        if base_sha256 and file == base_sha256 and isinstance(tensors, str) and tensors:
            return tensors
    return ""


def check_base(path: Path, base_sha256: str, weights: str) -> None:
    """ValueError on all processes where the same file of base weights stands for another network now, by its card.

    path, base_sha256: as of base_tensors. weights: the file, or its address on the hub. By all together.
    """
    problem = ""
    if not distributed.global_rank() and (wanted := base_tensors(path, base_sha256)):
        found = known(weights).tensors_sha256
        if found != wanted:
            problem = (
                f"{path} was trained on another network than {weights} stands for now: as RGB its tensors have the "
                f"SHA-256 {found}, not {wanted}; its card (colour_order, image_range) was changed since: convert it "
                "again as it was, or start anew with train.resume=never"
            )
    if told := distributed.gather_json(problem)[0]:
        raise ValueError(told)


def _read(path: Path) -> dict:
    with contextlib.suppress(OSError, ValueError, RecursionError):
        told = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(told, dict):
            return told
    return {}
