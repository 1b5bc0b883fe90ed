"""What plugins of a kind declare: the table at the head of a kind's page, measured where it can be."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence

from recognition.reference.markdown import NONE, cell, code, codes, globs, table, yes
from recognition.registry import Registry

RISES = (-1.0, -0.5, 0.0, 0.5, 1.0)  # slope * (score - midpoint), at which the gates are told
LICENCES = {  # of what a scorer reads from a file; docs/licences.md has where each is from
    "brisque": "OpenCV's two files: that of opencv_contrib",
    "cnniqa": "of whoever trained the file; IQA-PyTorch's: **non-commercial**",
    "cr_fiqa": "fitted by oneself: that of the base and the pictures",
    "degradation": "ships, MIT",
    "ex_fiqa": "fitted by oneself: that of the base and the pictures",
    "landmark_forest": "fitted by oneself: that of the pictures",
    "onnx": "of whoever trained the file",
    "pyiqa": "of the metric; the package: **non-commercial**",
    "recognizability": "fitted by oneself: that of the base and the pictures",
    "several": "that of its scorers",
}
BASE = "that of the base"


def backbones(registry: Registry, names: Sequence[str]) -> list[str]:
    """Sizes and cost, counted on networks without memory."""
    rows = []
    for name in names:
        network, cost = _counted(registry.get(name))
        rows.append(
            (
                f"[`{name}`](#{name})",
                network.input_size,
                network.embedding_size,
                f"{sum(p.numel() for p in network.parameters()) / 1e6:,.2f} M",
                f"{cost / 1e9:,.2f} G",
                globs(network.adapter_targets) or NONE,
                globs(network.head_targets) or NONE,
                globs(network.checkpoint_blocks) or NONE,
            )
        )
    heads = ("backbone", "input, px", "embedding", "parameters", "multiply-adds", "adapters take", "head", "blocks")
    return table(heads, rows)


def _counted(builder: Callable) -> tuple:
    """The network without memory, in eval mode, and the multiply-adds of one image at its input size."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        network = builder().eval()
        image = torch.empty(1, 3, network.input_size, network.input_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    return network, counter.get_total_flops() // 2


def margins(registry: Registry, names: Sequence[str]) -> list[str]:
    """How each is reduced, and what it looks at."""
    return table(
        ("margin", "what it is", "reduction", "looks at more", "learns or keeps", "adds a term"),
        ([_link(name), cell(registry.summary(name)), *_margin(registry.create(name))] for name in names),
    )


def _margin(margin) -> list[str]:
    reduction = "its own" if hasattr(margin, "reduce") else "softmax"
    if hasattr(margin, "weigh"):
        reduction += ", then weighs the losses"
    seen = ["the gate"] if getattr(margin, "needs_gate", False) else []
    seen += [f"`Batch.{name}`" for name in getattr(margin, "fields", ())]
    if hasattr(margin, "measure"):
        seen.append("the images, by its own measure")
    return [reduction, ", ".join(seen) or NONE, codes(_state(margin)), yes(hasattr(margin, "extra"))]


def objectives(registry: Registry, names: Sequence[str]) -> list[str]:
    """What each needs of a batch, and of the run."""
    rows = []
    for name in names:
        objective = registry.create(name)
        rows.append(
            (
                _link(name),
                cell(registry.summary(name)),
                codes(f"Batch.{field}" for field in getattr(objective, "fields", ())),
                "yes" if hasattr(objective, "views") else "no",
                "yes" if hasattr(objective, "bind") else "no",
                "yes" if getattr(objective, "needs_log_total", False) else "no",
                globs(_state(objective)) or NONE,
            )
        )
    heads = (
        "objective", "what it is", "fields it may ask for", "further views", "frozen base", "the softmax's sum",
        "learns or keeps",
    )  # fmt: skip
    return table(heads, rows)


def _state(module) -> list[str]:
    return [name for name, _ in (*module.named_parameters(), *module.named_buffers())]


def scorers(registry: Registry, names: Sequence[str]) -> list[str]:
    """Range, needs, weights. Higher is better in all of them."""
    rows = []
    for name in names:
        plugin = registry.get(name)
        made = _made(plugin)
        shown = plugin if made is None else made
        scale = getattr(shown, "range", None)
        worst_best = f"{scale[0]:g} .. {scale[1]:g}" if isinstance(scale, tuple) else "that of its file"
        exportable = getattr(shown, "exportable", None)
        rows.append(
            (
                _link(name),
                code(plugin.needs),
                worst_best,
                plugin.version,
                "yes"
                if exportable
                else cell(f"no: {shown.export_obstacle}")
                if exportable is False
                else "as its parts",
                LICENCES.get(name, BASE if plugin.needs == "model" else NONE),
            )
        )
    heads = ("scorer", "needs", "worst .. best", "version", "into ONNX", "licence of its weights")
    return table(heads, rows)


def _made(plugin: Callable) -> object | None:
    """The scorer with its defaults; None where those are no more than a question for a file or a package."""
    try:
        return plugin()
    except (ValueError, ImportError, TypeError):
        return None


def gates(registry: Registry, names: Sequence[str]) -> list[str]:
    """The gate over the rise, and what a form takes."""
    import torch

    rows = []
    for name in names:
        plugin = registry.get(name)
        takes = [*inspect.signature(plugin).parameters]
        form = plugin(layers=1) if "layers" in takes else plugin()
        with torch.no_grad():
            told = form(torch.tensor(RISES)).reshape(-1).tolist()
        learned = [key for key, _ in form.named_parameters()]
        rows.append(
            (
                _link(name),
                cell(registry.summary(name)),
                *(f"{value:.2f}" for value in told),
                f"{form.steepness:g}",
                yes(form.bounded),
                yes(form.takes_slope),
                codes(learned),
            )
        )
    heads = ("gate", "what it is", *(f"at {rise:g}" for rise in RISES), "steepness", "in [0, 1]", "a slope", "learns")
    return table(heads, rows)


def augmentations(registry: Registry, names: Sequence[str]) -> list[str]:
    """Whether the clean twin is spared, and which published list has it."""
    from recognition.data.augmentations import PRESETS

    rows = []
    for name in names:
        made = registry.create(name)
        lists = [preset for preset, members in PRESETS.items() if name in members]
        twin = "spared" if made.loses_resolution else "changed alike"
        rows.append((_link(name), cell(registry.summary(name)), f"{made.probability:g}", twin, codes(lists)))
    return table(("augmentation", "what it is", "probability", "the clean twin", "in the published list"), rows)


def _link(name: str) -> str:
    return f"[`{name}`](#{name})"


def listed(registry: Registry, names: Sequence[str]) -> Iterator[str]:
    """Names and summaries alone."""
    yield from table(("name", "what it is"), ((_link(name), cell(registry.summary(name))) for name in names))
