"""The tables of docs/scaling.md on large runs: what `tools/benchmark.py growth --carry` prints."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from recognition.bench.growth.carry import (
    A100,
    ANCHOR,
    MANY,
    OTHERS,
    TABLE,
    V100,
    WEBFACE,
    Run,
    efficiency,
    exchanged,
    memory,
    speed,
    step,
)
from recognition.bench.growth.fits import Fit

GIB, MIB, MB = 2**30, 2**20, 1e6
WEBFACE_IMAGES, EPOCHS = 42.5e6, 20
CARRIED = (WEBFACE, replace(WEBFACE, network="r50", speed=17_000), MANY)


def tables(folder: str = "") -> list[str]:
    """Every table of docs/scaling.md, each under its name. folder: of measured points, "" = without them.

    ValueError where the folder has none.
    """
    parts: tuple[tuple[str, Callable[[], Iterable[str]]], ...] = (
        ("efficiency", _efficiency),
        ("memory", _memory),
        ("exchange", _exchange),
        ("time", _time),
        ("published speed", _published_speed),
        ("published memory", _published_memory),
        ("another card", _another_card),
    )
    if folder:
        points = {path.stem: json.loads(path.read_text()) for path in sorted(Path(folder).glob("*.json"))}
        if not points:
            raise ValueError(f"--output {folder}: there are no points; measure them without --carry first")
        measured = (("laws", lambda: _laws(points)), ("memory of small runs", lambda: _small_runs(points)))
        parts = (*measured, *parts)
    lines = []
    for name, make in parts:
        lines += [f"### {name}", "", *make(), ""]
    return lines[:-1]


def _laws(points: Mapping[str, dict]) -> list[str]:
    """What the curves' points say, and how far the model's memory is from them."""
    rows = []
    for name, curve in points.items():
        if name == "memory":
            continue
        laws = [Fit(**law).words() if (law := curve["laws"][kind]) else "" for kind in ("time", "memory")]
        rows.append((f"[{curve['about']}](scaling/{name}.svg)", f"{curve['x']}", *laws))
    return _rows(("", "over x", "time, s", "memory, MiB"), rows)


def _small_runs(points: Mapping[str, dict]) -> list[str]:
    rows = []
    for point in points.get("memory", ()):
        backbone, adapter, batch, classes, rate, processes = point["shape"]
        held = [f"{point[kind] / MIB:,.0f}" for kind in ("memory", "predicted")]
        shape = (backbone, adapter, str(batch), f"{classes:,}", f"{rate:g}", str(processes))
        rows.append((*shape, *held, f"{point['predicted'] / point['memory']:.2f}"))
    heads = ("network", "adapter", "batch", "classes", "rate", "processes", "measured, MiB", "predicted", "ratio")
    return _rows(heads, rows)


def _efficiency() -> list[str]:
    alone, share = step(ANCHOR), efficiency()
    published = ANCHOR.global_batch / ANCHOR.speed
    roof = alone.seconds(1.0) - alone.exchange
    return _rows(
        ("r50, 93,431 identities, rate 1, 8 x V100, 128 images each", ""),
        [
            ("published, images/s", f"{ANCHOR.speed:,.0f}"),
            ("its step, 1,024 images, ms", f"{1000 * published:.1f}"),
            ("roofline of a card, ms", f"{1000 * roof:.1f}"),
            ("exchange, ms", f"{1000 * alone.exchange:.1f}"),
            (
                f"share of the roofline, {1000 * roof:.1f} / ({1000 * published:.1f} - {1000 * alone.exchange:.1f})",
                f"{share:.3f}",
            ),
        ],
    )


def _memory() -> list[str]:
    found = [memory(run) for run in CARRIED]
    rows = [(name, *(f"{parts[name] / GIB:,.2f}" for parts in found)) for name in found[0] if name != "beside"]
    rows.append(("sum", *(f"{sum(parts.values()) / GIB:,.2f}" for parts in found)))
    sampled = [sum(memory(run, "sampled").values()) for run in CARRIED]
    rows.append(('sum with classifier.state="sampled"', *(f"{size / GIB:,.2f}" for size in sampled)))
    return _rows(("GiB of a card", *(_title(run) for run in CARRIED)), rows)


def _exchange() -> list[str]:
    found = [exchanged(run) for run in CARRIED]
    rows = [(name, *(f"{parts[name] / MB:,.2f}" for parts in found)) for name in found[0]]
    rows.append(("sum", *(f"{sum(parts.values()) / MB:,.2f}" for parts in found)))
    return _rows(("MB that a card sends for a step", *(_title(run) for run in CARRIED)), rows)


def _time() -> list[str]:
    share = efficiency()
    found = [step(run) for run in CARRIED]
    names = {
        "network_flops": "network's operations",
        "network_bytes": "network's bytes",
        "classifier_flops": "classifier's operations",
        "classifier_bytes": "classifier's bytes",
        "exchange": "exchange",
    }
    rows = [(told, *(f"{1000 * getattr(one, name):,.1f}" for one in found)) for name, told in names.items()]
    rows.append((f"step at a share of {share:.3f}", *(f"{1000 * one.seconds(share):,.1f}" for one in found)))
    speeds = [speed(run, share) for run in CARRIED]
    rows.append(("images/s", *(f"{value:,.0f}" for value in speeds)))
    rows.append(("published images/s", *(f"{run.speed:,.0f}" for run in CARRIED)))
    hours = [f"{EPOCHS * WEBFACE_IMAGES / value / 3600:,.1f}" for value in speeds[:-1]]
    rows.append((f"{EPOCHS} epochs of 42.5 M images, hours", *hours, ""))
    return _rows(("ms of a step", *(_title(run) for run in CARRIED)), rows)


def _published_speed() -> list[str]:
    share, rows = efficiency(), []
    for run in (*TABLE, *OTHERS):
        predicted = speed(run, share)
        where = f"{run.cards} x {run.batch}"
        rows.append(
            (
                run.name,
                run.network,
                f"{run.rate:g}",
                where,
                f"{predicted:,.0f}",
                f"{run.speed:,.0f}",
                _off(predicted, run.speed),
            )
        )
    return _rows(("identities", "network", "rate", "cards x batch", "predicted", "published", "off"), rows)


def _published_memory() -> list[str]:
    rows = []
    for run in TABLE:
        ours = sum(memory(run).values()) / MIB
        rows.append((run.name, f"{ours:,.0f}", f"{run.held:,.0f}", f"{run.held - ours:+,.0f}", _off(ours, run.held)))
    first, last = TABLE[0], TABLE[-1]
    local = (last.classes - first.classes) / first.cards
    slopes = [
        MIB * (last.held - first.held) / local,
        (sum(memory(last).values()) - sum(memory(first).values())) / local,
    ]
    rows.append(
        (
            "bytes for each class of a card",
            f"{slopes[1]:,.0f}",
            f"{slopes[0]:,.0f}",
            f"{slopes[0] - slopes[1]:+,.0f}",
            _off(slopes[1], slopes[0]),
        )
    )
    return _rows(("identities, r50, rate 0.1, 8 x 128", "predicted, MiB", "published", "difference", "off"), rows)


def _another_card() -> list[str]:
    share, rows = efficiency(), []
    for run in (WEBFACE, MANY):
        for card in (V100, A100):
            there = replace(run, card=card)
            held = sum(memory(there).values())
            rows.append(
                (
                    _title(run),
                    card.name,
                    f"{1000 * step(there).seconds(share):,.0f}",
                    f"{speed(there, share):,.0f}",
                    f"{held / GIB:,.1f} of {card.memory / GIB:,.0f}",
                )
            )
    return _rows(("run", "card", "ms of a step", "images/s", "GiB"), rows)


def _title(run: Run) -> str:
    return f"{run.name}, {run.network}, rate {run.rate:g}, {run.cards} x {run.batch}"


def _off(predicted: float, published: float) -> str:
    return f"{100 * (predicted / published - 1):+.0f} %"


def _rows(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    marks = ["---", *("---:" for _ in heads[1:])]
    return [_line(heads), "|" + "|".join(marks) + "|", *(_line(row) for row in rows)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
