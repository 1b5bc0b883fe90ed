"""What a program's own file tells: the schedule that it makes, and which settings it reads at all."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path

from recognition.migration.found import Above
from recognition.migration.python_config import LARGEST_FILE

SCHEDULES = {"PolynomialLRWarmup": 1.0, "PolyScheduler": 2.0}  # name -> power


def look(config: Path, names: Sequence[str]) -> Above:
    """The first of the programs so named, in the folder above the configs; one without a name where there is none."""
    for name in names:
        program = config.absolute().parent.parent / name
        try:
            if program.stat().st_size > LARGEST_FILE:
                continue
            tree = ast.parse(program.read_bytes())
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        nodes = [*ast.walk(tree)]
        called = {_last(node.func) for node in nodes if isinstance(node, ast.Call)}
        reads = {
            node.attr
            for node in nodes
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in ("cfg", "config")
        }
        schedule = next((one for one in SCHEDULES if one in called), "")
        if schedule or "lr" in reads:
            return Above(name, schedule, SCHEDULES.get(schedule), frozenset(reads))
    return Above()


def _last(function: ast.expr) -> str:
    return (
        function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    )
