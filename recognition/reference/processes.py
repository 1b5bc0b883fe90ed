"""Pictures of what several processes do: partial FC, the sample order; and of forgetting."""

from __future__ import annotations

import torch

from recognition.data.order import SampleOrder
from recognition.page.markup import Markup, element
from recognition.partial_fc import class_range
from recognition.partial_fc.sampling import fill_up, mix
from recognition.reference.docstrings import ROOT
from recognition.reference.recipes import rows_of
from recognition.reference.svg import BLUE, GREEN, ORANGE, arrow, box, labelled, lines, picture, text

COLOURS = (BLUE, ORANGE, GREEN)
CLASSES, PROCESSES, RATE, STEP, SEED = 20, 3, 0.5, 7, 0
LABELS = ((4, 17), (9, 4), (15, 12))  # of the images of each process, in the picture
IMAGES, GLOBAL_BATCH, STEPS = 10, 6, 4


def sampled(rank: int) -> tuple[range, list[int], list[int]]:
    """(classes of a process, those of the global batch among them, those it compares with in this step)."""
    start, stop = class_range(CLASSES, PROCESSES, rank)
    label = torch.tensor([one for own in LABELS for one in own])
    positive = (label[(label >= start) & (label < stop)] - start).unique()
    wanted = max(len(positive), round(RATE * (stop - start)))
    rows = positive
    if len(positive) < wanted:
        rows = fill_up(positive, stop - start, wanted, mix(SEED, STEP, rank), None, 0.5)
    return range(start, stop), (positive + start).tolist(), (rows + start).tolist()


def draw_partial_fc() -> str:
    """Class shards, sampled negatives, gather and the distributed softmax."""
    parts: list[Markup] = []
    for rank in range(PROCESSES):
        y = 62 + 108 * rank
        classes, positive, rows = sampled(rank)
        parts += [
            text(20, y, f"process {rank}"),
            labelled(20, y + 10, 104, 52, "its images of", f"people {', '.join(map(str, LABELS[rank]))}"),
            arrow((124, y + 36), (158, y + 36)),
            labelled(158, y + 10, 116, 52, "embeddings of", f"all {sum(map(len, LABELS))} images"),
            arrow((274, y + 36), (308, y + 36)),
            text(312, y, f"classes {classes.start} .. {classes.stop - 1}", "soft"),
        ]
        for number, one in enumerate(classes):
            x, kind = 312 + 36 * number, "line"
            if one in rows:
                kind = ORANGE if one in positive else BLUE
            parts += [
                box(x, y + 18, 31, 34, kind),
                text(x + 15.5, y + 40, one, "soft" if kind == "line" else "on", "middle"),
            ]
        parts.append(arrow((312 + 36 * 7, y + 36), (606, y + 36)))
    parts += [
        element("line", x1=141, x2=141, y1=72, y2=340, class_="line"),
        text(141, 362, "gather", "soft", "middle"),
        labelled(606, 62, 134, 278, "largest logit,", "then the right", "logit and the sum", "of exp(logit):",
                 "one number each", "per image, over", "all processes", "", "= one softmax", "over all classes",
                 "that take part"),
        box(20, 384, 17, 17, ORANGE), text(44, 398, "class of an image in the batch: always takes part"),
        box(20, 408, 17, 17, BLUE), text(44, 422, "drawn as a negative in this step"),
        box(380, 408, 17, 17, "line"), text(404, 422, "rests in this step"),
        lines(20, 454, (
            f"{CLASSES} classes on {PROCESSES} processes, sample_rate={RATE:g}, step {STEP}, as the code shares "
            "them out and draws them.",
            "No process ever holds all centres, nor all logits.",
        ), "soft"),
    ]  # fmt: skip
    told = "; ".join(
        f"process {rank}: classes {classes.start} to {classes.stop - 1}, compares with {rows}"
        for rank in range(PROCESSES)
        for classes, _, rows in [sampled(rank)]
    )
    return picture("Partial FC: each process holds a range of the classes", told, 486, parts)


def draw_order() -> str:
    """The same stream of images on two and on three processes."""
    parts: list[Markup] = []
    order = SampleOrder(IMAGES, SEED, GLOBAL_BATCH)
    images = [int(one) for step in range(STEPS) for one in order.indices(order.positions(step))]
    left, size = 130, 25
    for block, world in enumerate((2, 3)):
        top = 98 + 128 * block
        owner = {
            int(position): rank
            for rank in range(world)
            for step in range(STEPS)
            for position in SampleOrder(IMAGES, SEED, GLOBAL_BATCH, rank, world).positions(step)
        }
        parts += [text(20, top + 17, f"{world} processes")]
        for position, image in enumerate(images):
            x = left + position * size
            parts += [
                box(x, top, size - 3, 26, COLOURS[owner[position]]),
                text(x + (size - 3) / 2, top + 18, image, "on", "middle"),
            ]
        for step in range(STEPS):
            x = left + step * GLOBAL_BATCH * size
            parts += [
                element("path", d=f"M{x} {top + 34}v5h{GLOBAL_BATCH * size - 3}v-5", class_="line"),
                text(x + GLOBAL_BATCH * size / 2, top + 56, f"step {step}", "soft", "middle"),
            ]
        for rank in range(world):
            x = left + 120 * rank
            parts += [box(x, top + 68, 15, 15, COLOURS[rank]), text(x + 22, top + 80, f"process {rank}", "soft")]
    for epoch in range(len(images) // IMAGES):
        x = left + epoch * IMAGES * size
        parts += [
            element("path", d=f"M{x} 80v-8h{IMAGES * size - 3}v8", class_="line"),
            text(x + IMAGES * size / 2, 64, f"epoch {epoch}: each image once", "soft", "middle"),
        ]
    parts.append(text(left + 2 * IMAGES * size + 42, 64, "epoch 2", "soft", "middle"))
    parts.append(
        lines(
            20,
            352,
            (
                f"{IMAGES} images, global batch {GLOBAL_BATCH}, seed {SEED}: record numbers in the order of use, as "
                "SampleOrder gives them.",
                "Only the owner of a place changes with the number of processes.",
                "No step is short: an epoch's tail joins the next epoch.",
            ),
            "soft",
        )
    )
    told = f"Records in order: {images}. The same on two and on three processes; only who takes which differs."
    return picture("The sample order: one stream, whoever reads it", told, 402, parts)


def figures_of_forgetting() -> dict[str, dict[str, float]]:
    """Adapter -> part -> rank-1 in %, of docs/results.md, low_only; "base" for what all started from."""
    text_of = (ROOT / "docs" / "results.md").read_text()
    found: dict[str, dict[str, float]] = {}
    for name in ("lfw_full", "lfw_lora", "lfw_dual_lora"):
        for row in rows_of("results.md", text_of, name):
            if row.heading == "low_only" and "rank-1" in row.caption:
                found["base"] = {part: _first(value) for part, value in zip(row.columns, row.base, strict=True)}
                found[name] = {part: _first(value) for part, value in zip(row.columns, row.values, strict=True)}
    return found


def _first(value: str) -> float:
    return float(value.split(" ")[0])


def draw_forgetting() -> str:
    """Rank-1 of known resolution and of low resolution, before and after training on small faces alone."""
    found = figures_of_forgetting()
    parts: list[Markup] = []
    shown = (
        ("112", "both faces at 112 px: what may be forgotten"),
        ("112 against 14", "a 14 px probe: what is learned"),
    )
    names = {"base": "before", "lfw_full": "every weight", "lfw_lora": "LoRA", "lfw_dual_lora": "dual LoRA"}
    kinds = {"base": "c0", "lfw_full": ORANGE, "lfw_lora": BLUE, "lfw_dual_lora": GREEN}
    for column, (part, title) in enumerate(shown):
        left = 120 + 360 * column
        parts.append(text(left, 66, title))
        for number, (name, label) in enumerate(names.items()):
            y, value = 82 + 30 * number, found[name][part]
            parts += [
                box(left, y, 2.0 * value, 20, kinds[name]),
                text(left + 2.0 * value + 8, y + 15, f"{value:.1f} %", "mono"),
            ]
            if column == 0:
                parts.append(text(left - 10, y + 15, label, "", "end"))
    parts.append(
        lines(
            20,
            228,
            (
                "Rank-1 of a search among LFW faces; training saw faces of 7 to 28 px only. Intervals and settings:",
                "docs/results.md, low_only.",
            ),
            "soft",
        )
    )
    told = "; ".join(f"{names[name]}: " + ", ".join(f"{p} {v}" for p, v in row.items()) for name, row in found.items())
    return picture("Forgetting: what is lost at 112 px while small faces are learned", told, 258, parts)


FIGURES = {"partial_fc": draw_partial_fc, "sample_order": draw_order, "forgetting": draw_forgetting}
