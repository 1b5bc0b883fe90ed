"""Axes of a chart: from values to places, and where the ticks stand."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from recognition.page.numbers import power


@dataclass(frozen=True)
class Axis:
    """What an axis shows. least and most: its ends, taken from the values where None."""

    label: str
    log: bool = False
    least: float | None = None
    most: float | None = None
    shares: bool = False  # values in 0 .. 1, written per cent


@dataclass(frozen=True)
class Scale:
    """An axis laid out from place `begin` to `end`, in units of the drawing."""

    axis: Axis
    low: float
    high: float
    begin: float
    end: float

    def at(self, value: float) -> float:
        """The place of a value, held inside the axis; one decimal is enough for a drawing."""
        low, high = self.low, self.high
        if self.axis.log:
            value, low, high = math.log10(max(value, low)), math.log10(low), math.log10(high)
        share = min(1.0, max(0.0, (value - low) / (high - low)))
        return round(self.begin + share * (self.end - self.begin), 1)

    def ticks(self, most: int = 6) -> list[float]:
        """Round values, few enough to be written."""
        if self.axis.log:
            return _log_ticks(self.low, self.high, most)
        return _ticks(self.low, self.high, most)

    def text(self, value: float) -> str:
        """A tick in words."""
        if self.axis.shares:
            return f"{100 * value:.4g}"
        return power(value) if self.axis.log else f"{round(value, 12):g}".replace("-", "−")


def scale_of(axis: Axis, values: Iterable[float], begin: float, end: float) -> Scale:
    """The scale of these values: wide enough for them and a little more, or as the axis says."""
    found = np.asarray([v for v in values if v is not None and math.isfinite(v) and (v > 0 or not axis.log)], float)
    low = axis.least if axis.least is not None else (float(found.min()) if len(found) else 0.1 if axis.log else 0.0)
    high = axis.most if axis.most is not None else (float(found.max()) if len(found) else 1.0)
    if not axis.log:
        room = 0.06 * (high - low) if high > low else 0.5 * abs(high) or 0.5
        low, high = (low if axis.least is not None else low - room), (high if axis.most is not None else high + room)
    elif axis.least is None:
        low = 10 ** math.floor(math.log10(low))
    if high <= low:
        high = 10 * low if axis.log else low + 1
    return Scale(axis, low, high, begin, end)


def _ticks(low: float, high: float, most: int) -> list[float]:
    raw = (high - low) / most
    unit = 10 ** math.floor(math.log10(raw))
    step = next(unit * k for k in (1, 2, 5, 10) if unit * k >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    if last - first >= 2:
        every = max(1, math.ceil((last - first + 1) / most))
        return [10.0**n for n in range(first, last + 1, every)]
    found = [k * 10.0**n for n in range(first - 1, last + 1) for k in (1, 2, 5)]
    return [value for value in found if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)] or [low, high]
