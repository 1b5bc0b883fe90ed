"""From work to rates, from rates to a table."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing


def rate(start: Callable[[], Iterator[int]], seconds: float, warm_up: float, warm_up_pieces: int) -> float:
    """Units per second of one fresh run, once it is warm."""
    with closing(start()) as work:
        begin = time.perf_counter()
        for pieces, _ in enumerate(work, 1):
            if pieces >= warm_up_pieces and time.perf_counter() - begin >= warm_up:
                break
        done, begin = 0, time.perf_counter()
        for units in work:
            done += units
            if (elapsed := time.perf_counter() - begin) >= seconds:
                return done / elapsed
    raise AssertionError("a case must never end")


def table(rates: dict[str, list[float]], limits: dict[str, str], unit: str) -> str:
    """Markdown: median, range and share of the limit of each row."""
    medians = {name: statistics.median(values) for name, values in rates.items()}
    lines = [f"| | {unit}/s, median | min - max | of limit |", "|---|---:|---:|---:|"]
    for name, values in rates.items():
        limit = limits[name]
        share = f"{100 * medians[name] / medians[limit]:.0f} %" if limit else ""
        share = "limit" if limit == name else share
        median, least, most = map(_digits, (medians[name], min(values), max(values)))
        lines.append(f"| {name} | {median} | {least} - {most} | {share} |")
    return "\n".join(lines)


def _digits(value: float) -> str:
    """Three digits at least."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
