"""Writes docs/adapters.md: what every adapter declares and does, which backbones it fits, and its arguments.

    python tools/describe_adapters.py                         docs/adapters.md
    python tools/describe_adapters.py --out -                 to the screen, with the plugins that are installed here

All of it is read off the adapters themselves: from their files, and from what they do to networks without memory.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from recognition.types import AttachReport

OUT = Path(__file__).resolve().parent.parent / "docs" / "adapters.md"
BACKBONES_SHOWN = ("r18", "mbf", "mobilefacenet_y1", "vit_t", "swin_120")  # one of each kind
MEASURED_ON = ("vit_t", "r18", "swin_120")  # the first that an adapter fits stands for it
MERGING = {"exact": "exactly", "at_gate": "exactly at one fixed gate", "none": "no"}
HEAD = """# Adapters

Written by `tools/describe_adapters.py`; a test compares. Every adapter is one file of `adapters/`, named in a recipe by
`config.adapter.name`; arguments are set beside the name.
"""
FITTING = """A pair marked + trains, saves, loads, continues bit for bit from a checkpoint, exports to ONNX, compiles as
one graph, recomputes activations, and gives on two processes the gradients of one: `tests/adapters/test_matrix.py` runs
it on a narrow network of the same kind (`mbf` is compiled as `mobilefacenet_y1`, whose graph has two operations more).
Compiling is tried with aot_eager for each pair, and with inductor for each adapter on one small transformer block.
A number stands for the error that says why a pair makes no sense.
"""


@dataclass(frozen=True)
class Facts:
    """What an adapter with its defaults does to one network."""

    network: str
    adapted: list[str]  # layers
    trained: dict[str, int]  # numbers of values by parameter
    total: int  # values of all parameters
    buffers: list[str]  # of the deliverable
    unsaved: list[str]  # buffers that the adapter brings and no file holds


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line. Answers --help without importing torch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", default=str(OUT), metavar="FILE", help="'-' for the screen (default: docs/adapters.md)"
    )
    return parser.parse_args(argv)


def describe() -> str:
    """The document: Markdown, the same in every call."""
    from adapters import ADAPTERS

    names = ADAPTERS.names()
    tried = {name: {backbone: try_on(name, backbone) for backbone in BACKBONES_SHOWN} for name in names}
    fitting = {name: [f for b in MEASURED_ON if isinstance(f := found[b], Facts)] for name, found in tried.items()}
    sections = [
        HEAD,
        "## What they declare\n",
        *_declarations(names),
        "\n## What they add\n",
        "With the defaults, on the network named; `*` stands for numbers.\n",
        *_additions({name: found[0] for name, found in fitting.items() if found}),
        "\n## Which backbones they fit\n",
        FITTING,
        *_matrix(tried),
        "\n## Their arguments\n",
        "\n".join("\n".join(_arguments(name)) for name in names),
    ]
    return "\n".join(sections).rstrip() + "\n"


def try_on(name: str, backbone: str) -> Facts | str:
    """What the adapter does to the backbone, or the error that says why it does not fit."""
    import torch

    import adapters
    from recognition.backbones import BACKBONES
    from recognition.gate import Gate

    with torch.device("meta"):
        network = BACKBONES.create(backbone)
    adapter = adapters.ADAPTERS.create(name)
    total, there = sum(p.numel() for p in network.parameters()), set(dict(network.named_buffers()))
    try:
        report = adapters.attach(network, adapter, Gate())
    except ValueError as error:
        return str(error)
    return measure(backbone, network, report, total, there)


def measure(name: str, network: nn.Module, report: AttachReport, total: int, there: set[str]) -> Facts:
    """Facts of an adapted network. total: values of the base's parameters. there: the base's buffers."""
    import adapters

    parameters, buffers = dict(network.named_parameters()), dict(network.named_buffers())
    kept = adapters.attached(network).keys
    return Facts(
        network=name,
        adapted=report.adapted,
        trained={key: p.numel() for key, p in parameters.items() if p.requires_grad},
        total=total,
        buffers=[key for key in kept if key in buffers],
        unsaved=[key for key in buffers if key not in there and key not in network.state_dict()],
    )


def _declarations(names: list[str]) -> Iterator[str]:
    from adapters import ADAPTERS

    yield _row(
        "adapter",
        "what it is",
        "starts as the base",
        "keeps the base's keys",
        "freezes the base",
        "gate",
        "merges",
        "auxiliary losses",
    )
    yield f"|{'---|' * 8}"
    for name in names:
        adapter = ADAPTERS.create(name)
        yield _row(
            f"[`{name}`](#{name})",
            _cell(ADAPTERS.summary(name)),
            _yes(adapter.identity_at_start),
            _yes(adapter.keeps_base_keys),
            _yes(adapter.freezes_base),
            "needed" if adapter.needs_gate else "none",
            MERGING[adapter.mergeable],
            "yes" if adapter.auxiliary_losses else "none",
        )


def _additions(facts: dict[str, Facts]) -> Iterator[str]:
    from adapters import ADAPTERS

    yield _row(
        "adapter",
        "on",
        "adapted by default",
        "trained values",
        "of the base's",
        "trained",
        "buffers in its file",
        "optimizer groups",
    )
    yield f"|{'---|' * 8}"
    for name, found in facts.items():
        trained = sum(found.trained.values())
        unsaved = f"none (drawn anew: {_globs(found.unsaved)})" if found.unsaved else "none"
        yield _row(
            f"`{name}`",
            f"`{found.network}`",
            "the whole network" if found.adapted == [""] else _globs(found.adapted),
            f"{trained:,}",
            f"{trained / found.total:.2%}",
            _globs(list(found.trained)),
            _globs(found.buffers) if found.buffers else unsaved,
            _groups(ADAPTERS.get(name)),
        )


def _groups(plugin: type) -> str:
    method = getattr(plugin, "parameter_groups", None)
    return "none of its own" if method is None else _cell((inspect.getdoc(method) or "its own").split("\n")[0])


def _matrix(tried: dict[str, dict[str, Facts | str]]) -> Iterator[str]:
    yield _row("adapter", *(f"`{backbone}`" for backbone in BACKBONES_SHOWN))
    yield f"|---|{'---|' * len(BACKBONES_SHOWN)}"
    reasons: dict[tuple[str, str], list[str]] = {}
    for name, found in tried.items():
        cells = []
        for backbone, result in found.items():
            if isinstance(result, str):
                reasons.setdefault((name, result), []).append(backbone)
                cells.append(str(1 + list(reasons).index((name, result))))
            else:
                cells.append("+")
        yield _row(f"`{name}`", *cells)
    yield ""
    for number, ((name, reason), backbones) in enumerate(reasons.items(), 1):
        yield f"{number}. `{name}` on {', '.join(f'`{b}`' for b in backbones)}: {_cell(reason)}"


def _arguments(name: str) -> Iterator[str]:
    from adapters import ADAPTERS

    plugin = ADAPTERS.get(name)
    yield f"### {name}\n"
    yield f"```text\n{inspect.getdoc(plugin)}\n```\n"
    given = [p for p in inspect.signature(plugin).parameters.values() if p.kind is not p.VAR_POSITIONAL]
    given = [p for p in given if p.kind is not p.VAR_KEYWORD]  # of a class without a constructor of its own
    if not given:
        yield "No arguments.\n"
        return
    yield "| argument | type | default |\n|---|---|---|"
    for parameter in given:
        default = "required" if parameter.default is parameter.empty else f"`{parameter.default!r}`"
        yield f"| `{parameter.name}` | `{_cell(str(parameter.annotation))}` | {default} |"
    yield ""


def _globs(names: list[str]) -> str:
    """Names with numbers as stars, each once and with how many it stands for; the end of a long list is counted."""
    groups: dict[str, int] = {}
    for name in names:
        shown = re.sub(r"(?<![^.])\d+(?![^.])", "*", name)
        groups[shown] = groups.get(shown, 0) + 1
    parts = [f"`{shown}`" + (f" ({number})" if number > 1 else "") for shown, number in groups.items()]
    return ", ".join(parts if len(parts) <= 6 else [*parts[:4], f"and {len(parts) - 4} kinds more"])


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def main(argv: list[str] | None = None) -> int:
    """Writes the document. Returns 0."""
    arguments = parse(argv)
    text = describe()
    if arguments.out == "-":
        print(text, end="")
    else:
        Path(arguments.out).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
