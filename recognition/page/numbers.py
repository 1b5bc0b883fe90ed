"""How figures are written on the page: shares per cent with their interval, everything else with its unit."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping

from recognition.types import IMAGE_SIZE

NONE = "–"
_SIDES = re.compile(r"(?:(?P<name>.*)_)?(?P<first>\d{1,3})(?:-(?P<second>\d{1,3}))?")


def percent(measure: Mapping | None) -> str:
    """98.8 [98.2, 99.4]; a measure with a unit of its own is written in it."""
    if not measure or measure.get("value") is None:
        return NONE
    if unit := measure.get("unit"):
        return _between(measure, short) + f" {unit}"
    return _between(measure, lambda v: f"{100 * v:.1f}")


def points(gain: Mapping | None) -> str:
    """+1.2 [+0.4, +2.0], in points; with more decimals where one would seem to be zero that is not."""
    if not gain or gain.get("value") is None:
        return NONE
    figures = [100 * gain[key] for key in ("value", "lo", "hi") if abs(gain.get(key) or 0) > 1e-8]  # else rounding
    digits = next((n for n in (1, 2, 3) if all(float(f"{v:.{n}f}") for v in figures)), 3)
    return _between(gain, lambda v: _signed(100 * v, digits))


def _signed(value: float, digits: int) -> str:
    text = f"{value:+.{digits}f}"
    return text.replace("-", "−") if float(text) else text[1:]


def verdict(gain: Mapping | None, lower: bool = False) -> str:
    """better, worse, or no difference that can be told; "" without an interval. lower: less is better."""
    if not gain or gain.get("lo") is None:
        return ""
    if gain["lo"] <= 0 <= gain["hi"]:
        return "not told apart"
    return "better" if (gain["lo"] > 0) != lower else "worse"


def short(value: object) -> str:
    """Four digits at most for a number, other things as they are."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def power(value: float) -> str:
    """A power of ten in words of a chart: 10⁻³; other numbers short."""
    raised = f"{value:e}"
    mantissa, _, exponent = raised.partition("e")
    if float(mantissa) != 1:
        return f"{value:g}"
    if -1 <= int(exponent) <= 3:
        return f"{value:g}"
    return "10" + str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def date(seconds: float) -> str:
    """A time of a run's log lines, in UTC."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def sides_of(part: str) -> tuple[str, int, int] | None:
    """Name, gallery side and probe side in pixels of parts such as 14, 112-14 and lfw_112-14; None for other names."""
    found = _SIDES.fullmatch(part)
    if found is None:
        return None
    first = int(found["first"])
    second = int(found["second"] or first)
    return (found["name"] or "", first, second) if 1 <= min(first, second) <= max(first, second) <= IMAGE_SIZE else None


def side_words(part: str) -> str:
    """112 px, or 112 against 14 px; a part that is no resolution keeps its name."""
    found = sides_of(part)
    if found is None:
        return part
    name, first, second = found
    words = f"{first} px" if first == second else f"{first} against {second} px"
    return f"{name}, {words}" if name else words


def size(count: int) -> str:
    """Bytes in words."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def _between(measure: Mapping, write: Callable[[float], str]) -> str:
    value = write(measure["value"])
    if measure.get("lo") is None or measure.get("hi") is None:
        return value
    return f"{value} [{write(measure['lo'])}, {write(measure['hi'])}]"
