"""States of every random generator of a process: python, numpy, torch, CUDA. DALI draws nothing here.

Training seeds them all anew at each micro-step, so that what a run draws depends on its place and not on its past; the
states are saved all the same, for what a plugin may draw in between.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def seed_all(*place: int) -> None:
    """Seed every generator of this process from numbers >= 0, such as (seed, update, process)."""
    words = np.random.SeedSequence(place).generate_state(3)
    torch.manual_seed(int(words[0]))  # CUDA's too
    np.random.seed(words[1])
    random.seed(int(words[2]))


def capture() -> dict[str, Tensor]:
    """The states as tensors: python and numpy (627,) int64, torch and cuda uint8."""
    _, words, spare = random.getstate()
    kind, keys, at, has_spare, spare_normal = np.random.get_state()
    assert kind == "MT19937", kind
    states = {
        "python": torch.tensor([*words, *_bits(spare)]),
        "numpy": torch.tensor([*keys.tolist(), at, *_bits(spare_normal if has_spare else None)]),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore(states: Mapping[str, Tensor]) -> None:
    """Set the generators to captured states. A run that moves between CPU and CUDA has no state for the new device.

    ValueError where they are no such states.
    """
    try:
        _restore(states)
    except (KeyError, TypeError, RuntimeError, OverflowError) as error:
        raise ValueError(f"these are no states of random generators: {error!r}") from None


def _restore(states: Mapping[str, Tensor]) -> None:
    *words, has_spare, spare = states["python"].tolist()
    random.setstate((3, tuple(words), _number(has_spare, spare)))
    *keys, at, has_spare, spare = states["numpy"].tolist()
    normal = _number(has_spare, spare)
    np.random.set_state(("MT19937", np.array(keys, np.uint32), at, int(has_spare), normal or 0.0))
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def _bits(number: float | None) -> tuple[int, int]:
    """Whether there is a number, and its 64 bits."""
    return (0, 0) if number is None else (1, int(np.float64(number).view(np.int64)))


def _number(there: int, bits: int) -> float | None:
    return float(np.int64(bits).view(np.float64)) if there else None
