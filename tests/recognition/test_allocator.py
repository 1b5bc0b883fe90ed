"""Freed memory stays with a process that computes, unless its user or a benchmark wants it given back."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
# tells what the process holds before, with and after 200 MiB in pieces, one of them above every threshold
CODE = """
import re, torch
from recognition import allocator, distributed
def held():
    text = open("/proc/self/status").read()
    return int(re.search(r"RssAnon:\\s+(\\d+)", text)[1]) // 1024
distributed.start("cpu")
if {back}:
    allocator.give_back(1 << 20)
told = [held()]
pieces = [torch.ones(size << 18) for size in (50, 50, 100)]
told.append(held())
del pieces
told.append(held())
print(*told)
"""

pytestmark = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallopt") or not Path("/proc/self/status").exists(), reason="glibc on Linux"
)


def told(back: bool, **variables: str) -> list[int]:
    """MiB that a process of its own holds."""
    around = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", CODE.format(back=back)]
    done = subprocess.run(command, cwd=ROOT, env=around | variables, capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


def test_what_is_freed_is_kept_on_a_cpu() -> None:
    before, most, after = told(back=False)
    assert 195 < most - before < 215 and after > most - 5


@pytest.mark.parametrize("variables", [{}, {"MALLOC_ARENA_MAX": "2"}])
def test_what_is_freed_goes_back_where_it_is_asked_for(variables) -> None:
    before, most, after = told(back=not variables, **variables)
    assert 195 < most - before < 215 and after < before + 10
