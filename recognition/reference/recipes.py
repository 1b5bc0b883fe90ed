"""The page of recipes: what each is for, its main choices as they are loaded, and where its figures were measured."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from easydict import EasyDict

from recognition import config as settings
from recognition.reference.docstrings import ROOT
from recognition.reference.markdown import cell, table

HEADS = ("Needs", "Run", "Expect")
MEASURED = {"results.md": "docs/results.md", "quality.md": "docs/quality.md", "../README.md": "README.md"}  # link: file
DEMO = {"demo": "dual_lora", "demo_lora": "lora", "demo_full": "full", "demo_pretrain": "before"}  # rows of README.md
INTRO = """# Recipes

Written by `tools/describe_plugins.py`; a test compares. A recipe is a Python file laid over `configs/base.py`, which
has every setting with its default and reason; any setting can be changed behind it on the command line.

    python tools/train.py configs/lfw_lora.py --dry-run optim.lr=1e-3

*updates of*: images of one update of one process; `torchrun --nproc-per-node N` makes it N times as many. Figures
stand here as their page has them, without the intervals that it gives, and were taken with the settings that it tells:
these may be others than the recipe's own (`low_only` reduces every image, `swin_nano` is another backbone).
"""


@dataclass(frozen=True)
class Head:
    """A recipe's docstring. about: the lines before Needs."""

    title: str
    about: str
    parts: dict[str, str]


@dataclass(frozen=True)
class Figures:
    """A row of a table of results, and the row of what it started from."""

    page: str  # as linked from docs/
    heading: str
    caption: str
    columns: tuple[str, ...]
    values: tuple[str, ...]
    base: tuple[str, ...]


def recipes() -> list[Path]:
    """All of configs/ but the base."""
    return [path for path in sorted(settings.BASE.parent.glob("*.py")) if path != settings.BASE]


def head_of(path: Path) -> Head:
    """ValueError where a recipe's head lacks a part."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    title, _, rest = text.partition("\n")
    parts = dict.fromkeys(HEADS, "")
    about: list[str] = []
    current = ""
    for line in rest.split("\n"):
        word = line.split(" ")[0]
        if word in HEADS:
            current, line = word, line.removeprefix(word)
        if current:
            parts[current] += line.strip() + "\n"
        else:
            about.append(line)
    missing = [part for part in HEADS if not parts[part].strip()]
    if missing or not title:
        raise ValueError(f"{path}: its head says nothing of {', '.join(missing) or 'what it is'}")
    return Head(title, "\n".join(about).strip(), {part: text.strip() for part, text in parts.items()})


def write() -> str:
    """docs/recipes.md, the same in every call."""
    loaded = {path.stem: settings.load(path) for path in recipes()}
    heads = {path.stem: head_of(path) for path in recipes()}
    rows = [
        (
            f"[`{name}`](#{name})",
            cell(heads[name].title),
            f"`{config.backbone.name}`",
            f"`{config.adapter.name}`" if _trains(heads[name]) else "none",
            ", ".join(f"`{loss}`" for loss in _losses(config)) if _trains(heads[name]) else "none",
            f"{config.schedule.epochs:g}" if _trains(heads[name]) else "none",
            "yes" if figures(name) or _elsewhere(heads[name]) else "no",
        )
        for name, config in loaded.items()
    ]
    columns = ("recipe", "what it is", "backbone", "adapter", "losses", "epochs", "measured here")
    sections = ("\n".join(_section(name, heads[name], config)) for name, config in loaded.items())
    return "\n".join([INTRO, *table(columns, rows), "", *sections]).rstrip() + "\n"


def _section(name: str, head: Head, config: EasyDict) -> Iterator[str]:
    yield f"## {name}\n"
    yield f"{head.title}\n[configs/{name}.py](../configs/{name}.py)\n"
    if head.about:
        yield f"{head.about}\n"
    yield "```text\n" + "\n".join(f"{part:<8}{_hung(head.parts[part])}" for part in HEADS) + "\n```\n"
    told = choices(config)
    if not _trains(head):
        told = {what: told[what] for what in ("backbone", "starts from")}
    yield from (f"- {what}: {choice}" for what, choice in told.items())
    yield ""
    found = figures(name)
    for heading in dict.fromkeys((row.page, row.heading) for row in found):
        yield f"Measured: [{heading[1]}]({heading[0]}#{anchor(heading[1])}).\n"
        rows = [row for row in found if (row.page, row.heading) == heading]
        yield from (line for row in rows for line in _told(row))
    if not found:
        others = _elsewhere(head)
        yield f"Measured: {', '.join(others)}.\n" if others else "Not measured here.\n"


def choices(config: EasyDict) -> dict[str, str]:
    """The main settings in words, as they are after all parents and defaults."""
    told = {"backbone": _plugin(config.backbone, "backbone")}
    told["starts from"] = f"`{config.backbone.weights}`" if config.backbone.weights else "random weights"
    told["adapter"] = _plugin(config.adapter, "adapter")
    if _gated(config):
        gate = config.gate
        told["gate"] = f"{_plugin(config.scorer, 'scorer')}, {gate.shape}, midpoint {gate.midpoint}, slope {gate.slope}"
    if config.classifier.weight:
        told["margin"] = _plugin(config.margin, "margin")
        sampled = (
            f", {config.classifier.sample_rate:g} of the centres a step" if config.classifier.sample_rate < 1 else ""
        )
        told["classifier"] = f"{config.data.sampling} images, centres {config.classifier.init}{sampled}"
    for objective in config.objectives:
        told[f"objective, weight {objective.get('weight', 1.0):g}"] = _plugin(objective, "objectives")
    low = config.degradation
    pixels = f"{low.share:.0%} of the images at {low.sides[0]} .. {low.sides[1]} px, {low.choose}"
    told["data"] = ", ".join(f"`{records}`" for records in config.data.records)
    told["low resolution"] = pixels if low.share else "none"
    told["updates of"] = f"{config.data.batch_size * config.optim.accumulate} images"
    told["optimizer"] = f"{config.optim.name}, lr {config.optim.lr:g}, weight decay {config.optim.weight_decay:g}"
    told["schedule"] = f"{config.schedule.name}, {config.schedule.epochs:g} epochs"
    told["precision"] = config.train.precision
    return told


def figures(name: str) -> list[Figures]:
    """Accuracy and rank-1 rows of a recipe, from every page that has some."""
    found = []
    for link, file in MEASURED.items():
        shown = DEMO.get(name) if file == "README.md" else name
        found += rows_of(link, (ROOT / file).read_text(), shown) if shown else []
    return found


def rows_of(page: str, text: str, name: str) -> Iterator[Figures]:
    """Rows of tables of accuracy or rank-1 in % whose first cell is the name."""
    heading = caption = ""
    columns: tuple[str, ...] = ()
    base: tuple[str, ...] = ()
    for line in text.split("\n"):
        if line.startswith("#"):
            heading, caption, columns = line.lstrip("# "), "", ()
        elif line.startswith("**"):
            caption, columns = line.strip("*"), ()
        elif not line.startswith("|"):
            columns = ()
        else:
            cells = tuple(cell.strip() for cell in line.strip("|").split("|"))
            if not columns:
                columns, base = cells[1:], ()
                caption = cells[0] if cells[0] in ("accuracy, %", "rank-1, %") else caption
            elif cells[0].strip("`") == name and re.search(r"(accuracy|rank-1), %", caption):
                yield Figures(page, heading, caption, columns, cells[1:], base)
            elif cells[0] in ("base", "before"):
                base = cells[1:]


def anchor(heading: str) -> str:
    """A heading's name in a link, as code hosts make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _told(row: Figures) -> Iterator[str]:
    def short(values: tuple[str, ...]) -> list[str]:
        return [re.sub(r" *\[.*?\]\*?", "", value) for value in values]

    lines = [["base", *short(row.base)]] if row.base else []
    yield from table((row.caption, *row.columns), [*lines, ["this recipe", *short(row.values)]])
    yield ""


def _elsewhere(head: Head) -> list[str]:
    """Links to pages with figures that the head names; its own figures count, too."""
    said = head.parts["Expect"]
    if "not measured here" in said:
        return []
    pages = [f"[{file}]({link})" for link, file in MEASURED.items() if file in said]
    return pages or (["the figures above"] if "->" in said else [])


def _trains(head: Head) -> bool:
    return "train.py" in head.parts["Run"]


def _losses(config: EasyDict) -> list[str]:
    margin = [config.margin.name] if config.classifier.weight else []
    return [*margin, *(objective.name for objective in config.objectives)]


def _gated(config: EasyDict) -> bool:
    from adapters import ADAPTERS
    from recognition.margins import MARGINS

    adapter = ADAPTERS.create(config.adapter.name, **settings.arguments(config.adapter, "adapter"))
    return adapter.needs_gate or getattr(MARGINS.get(config.margin.name), "needs_gate", False)


def _plugin(section: dict, kind: str) -> str:
    given = settings.arguments(section, kind)
    shown = ", ".join(f"{key}={_plain(value)!r}" for key, value in given.items())
    return f"`{section['name']}({shown})`" if shown else f"`{section['name']}`"


def _plain(value: object) -> object:
    """A value as it is written in a recipe; a long list by its length."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _hung(text: str) -> str:
    return text.replace("\n", "\n" + " " * 8)
