"""Labels of the global batch, looked at by all processes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from recognition import distributed

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
NOT_AN_INTEGER = torch.iinfo(torch.int64).min  # stands in for labels of another dtype while processes confer


class LabelError(ValueError):
    """Labels that name no class. Raised on all processes alike; `rows` are this process's bad rows, maybe none."""

    def __init__(self, message: str, rows: list[int]) -> None:
        super().__init__(message)
        self.rows = rows


def gather_labels(label: Tensor, counts: list[int] | None, num_classes: int) -> Tensor:
    """(n,) of this process -> (N,) int64 of the global batch. All processes look at all labels: all raise or none.

    counts: rows of each process, None where all have as many. LabelError for what is not 0 .. num_classes - 1.
    """
    dtype = label.dtype
    label = label.to(torch.int64) if dtype in INTEGERS else torch.full_like(label, NOT_AN_INTEGER, dtype=torch.int64)
    everyone = distributed.gather(label, counts)
    bad = ((everyone < 0) | (everyone >= num_classes)).nonzero().squeeze(1).tolist()
    if not bad:
        return everyone
    ends = np.cumsum(counts or [len(label)] * distributed.world_size())
    owner = np.searchsorted(ends, bad, side="right")
    row = np.asarray(bad) - np.concatenate([[0], ends])[owner]
    value = everyone[bad[0]].item()
    what = "a label that is not of an integer dtype" if value == NOT_AN_INTEGER else f"label {value}"
    raise LabelError(
        f"{what} in row {row[0]} of process {owner[0]}, {len(bad)} bad of {len(everyone)} in the global batch; "
        f"wanted integers 0 .. {num_classes - 1}: tools/inspect_records.py shows a record's labels",
        row[owner == distributed.global_rank()].tolist(),
    )
