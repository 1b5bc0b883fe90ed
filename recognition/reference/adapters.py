"""What adapters declare and do, measured on networks without memory: the tables at the head of their page."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from recognition.reference.markdown import cell, globs, row, yes
from recognition.registry import Registry

if TYPE_CHECKING:
    from torch import nn

    from recognition.types import AttachReport

BACKBONES_SHOWN = ("r18", "mbf", "mobilefacenet_y1", "vit_t", "swin_120")  # one of each kind
MEASURED_ON = ("vit_t", "r18", "swin_120")  # the first that an adapter fits stands for it
MERGING = {"exact": "exactly", "at_gate": "exactly at one fixed gate", "none": "no"}
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


def adapters(registry: Registry, names: Sequence[str]) -> list[str]:
    """What they declare, add, and fit. registry: of the adapters."""
    tried = {name: {backbone: try_on(name, backbone) for backbone in BACKBONES_SHOWN} for name in names}
    fitting = {name: [f for b in MEASURED_ON if isinstance(f := found[b], Facts)] for name, found in tried.items()}
    return [
        *_declarations(names),
        "\n## What they add\n",
        "With the defaults, on the network named; `*` stands for numbers.\n",
        *_additions({name: found[0] for name, found in fitting.items() if found}),
        "\n## Which backbones they fit\n",
        FITTING,
        *_matrix(tried),
    ]


@cache
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


def _declarations(names: Sequence[str]) -> Iterator[str]:
    from adapters import ADAPTERS

    yield row(
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
        yield row(
            f"[`{name}`](#{name})",
            cell(ADAPTERS.summary(name)),
            yes(adapter.identity_at_start),
            yes(adapter.keeps_base_keys),
            yes(adapter.freezes_base),
            "needed" if adapter.needs_gate else "none",
            MERGING[adapter.mergeable],
            "yes" if adapter.auxiliary_losses else "none",
        )


def _additions(facts: dict[str, Facts]) -> Iterator[str]:
    from adapters import ADAPTERS

    yield row(
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
        unsaved = f"none (drawn anew: {globs(found.unsaved)})" if found.unsaved else "none"
        yield row(
            f"`{name}`",
            f"`{found.network}`",
            "the whole network" if found.adapted == [""] else globs(found.adapted),
            f"{trained:,}",
            f"{trained / found.total:.2%}",
            globs(list(found.trained)),
            globs(found.buffers) if found.buffers else unsaved,
            _groups(ADAPTERS.get(name)),
        )


def _groups(plugin: type) -> str:
    method = getattr(plugin, "parameter_groups", None)
    return "none of its own" if method is None else cell((inspect.getdoc(method) or "its own").split("\n")[0])


def _matrix(tried: dict[str, dict[str, Facts | str]]) -> Iterator[str]:
    yield row("adapter", *(f"`{backbone}`" for backbone in BACKBONES_SHOWN))
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
        yield row(f"`{name}`", *cells)
    yield ""
    for number, ((name, reason), backbones) in enumerate(reasons.items(), 1):
        yield f"{number}. `{name}` on {', '.join(f'`{b}`' for b in backbones)}: {cell(reason)}"
