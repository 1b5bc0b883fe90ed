"""What `tools/benchmark.py step --backbone` measures: forward and backward of an adapted network, without a recipe.

Random weights, and noise for images: the time of a step depends on neither. The loss is the mean square of the
embeddings, so that classifier, optimizer and loader cost nothing here; they are measured by subjects of their own.
"""

from __future__ import annotations

import copy
import statistics
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

import adapters
from adapters import ADAPTERS
from recognition import allocator
from recognition.backbones import BACKBONES
from recognition.bench import limits, twins
from recognition.frozen import FrozenWeights
from recognition.gate import Gate
from recognition.model import FaceModel
from recognition.types import IMAGE_SIZE
from recognition.values import literal

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
Shared = TypeVar("Shared", bound=nn.Module)
NAIVE, TWIN = "naive two branches", "dense twin of moe"
ALIKE = 0.02  # share by which the FLOPs of two rows with one limit may differ


class Steps:
    """Forward and backward of one model in one precision, as training does them.

    name: of what is measured; row: with precision and compiler. processor: seconds of each step.
    """

    def __init__(self, name: str, model: FaceModel, precision: str, images: int, compiled: bool = False) -> None:
        self.name, self.model, self.precision, self.images, self.compiled = name, model, precision, images, compiled
        self.row = f"{name}, {precision}{', compiled' if compiled else ''}"
        self.device, self.dtype = next(model.parameters()).device, PRECISIONS[precision]
        self.processor: list[float] = []
        self.compile_seconds = 0.0
        self.kept = self.of_adapter = 0
        generator = torch.Generator().manual_seed(0)
        self.image = (torch.rand(images, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator) * 2 - 1).to(self.device)
        self.score = torch.rand(images, generator=generator).to(self.device) if model.needs_gate else None
        if self.dtype is not None and model.frozen_base:
            FrozenWeights(model, self.dtype)

    def loss(self) -> Tensor:
        """Of one forward pass, ()."""
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            embedding, auxiliary = self.model(self.image, self.score)
        return embedding.float().square().mean() + auxiliary

    def step(self) -> None:
        """Gradients are dropped."""
        self.loss().backward()
        self.model.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def endless(self) -> Iterator[int]:
        """Steps, the images of each."""
        while True:
            began = time.process_time()
            self.step()
            self.processor.append(time.process_time() - began)
            yield self.images

    def kept_bytes(self) -> int:
        """That a forward pass keeps for backward beside parameters and buffers; each storage once, and whole."""
        own = {t.untyped_storage().data_ptr() for t in [*self.model.parameters(), *self.model.buffers()]}
        found: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                found[storage.data_ptr()] = storage.nbytes()
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            held = self.loss()
        size = sum(found.values())
        del held
        return size

    def compile(self) -> None:
        """By torch.compile; the time of the first two steps is told apart."""
        self.model.compile()
        began = time.perf_counter()
        for _ in range(2):
            self.step()
        self.compile_seconds = time.perf_counter() - began


@contextmanager
def cases(args: Namespace) -> Iterator[tuple[str, dict]]:
    """Rows of adapters and precisions beside bare products of as many FLOPs. ValueError for what does not fit.

    args: backbone, adapters (texts such as "dual_lora rank=8"), precision, batch, threads, compile, device.
    """
    if args.batch < 2:
        raise ValueError(f"--batch {args.batch}: batch norms in training want 2 images at least")
    usual = torch.get_num_threads()
    torch.set_num_threads(args.threads)
    try:
        device = _device(args.device)
        if device.type == "cpu":
            allocator.keep_freed()  # as training does
        measured, flops = build(args, device)
        of_limits: dict[str, list[float]] = {}
        args.measured = measured, flops, of_limits  # for the summary
        found: dict[str, tuple] = {}
        first = next(iter(flops))
        for precision in args.precision:
            limit, dtype = f"bare products, {precision}", PRECISIONS[precision] or torch.float32
            start = partial(limits.products, flops[first], args.batch, dtype, device)
            found[limit] = (partial(_timed, start, of_limits.setdefault(precision, [])), limit)
            for one in measured:
                if one.precision == precision:
                    alike = abs(flops[one.name] - flops[first]) <= ALIKE * flops[first]
                    found[one.row] = (one.endless, limit if alike else "")
        yield (
            f"{args.backbone}, forward and backward of {args.batch} images on {device.type}, "
            f"{torch.get_num_threads()} thread(s); bare products of {flops[first] / 1e9:.1f} GFLOP, as {first}",
            found,
        )
    finally:
        torch.set_num_threads(usual)


def build(args: Namespace, device: torch.device) -> tuple[list[Steps], dict[str, float]]:
    """What is measured, and the FLOPs of a step by name. All share the memory of the base's weights."""
    torch.manual_seed(0)
    base = BACKBONES.create(args.backbone).to(device)
    measured, flops = [], {}
    for text in args.adapters:
        models, name = {text: make(base, text)}, text.split()[0]
        if name == "dual_lora":
            models[text.replace(name, NAIVE, 1)] = twins.two_branches(share(models[text]))
        if name == "moe":
            models[text.replace(name, TWIN, 1)] = twins.dense(share(base), models[text])
        for called, model in models.items():
            flops[called] = count(model, args.batch)
            for precision in args.precision:
                one = Steps(called, share(model), precision, args.batch)
                one.kept = one.kept_bytes()
                tapped = twins.tapped(share(model))
                if tapped is not None:
                    one.of_adapter = one.kept - Steps("", tapped, precision, args.batch).kept_bytes()
                measured.append(one)
                if args.compile:
                    measured.append(Steps(called, share(model), precision, args.batch, compiled=True))
                    measured[-1].compile()
    return measured, flops


def make(base: nn.Module, text: str) -> FaceModel:
    """The base with the adapter that the text names, in training mode. ValueError as of ADAPTERS.create."""
    name, *options = text.split()
    faults = [one for one in options if "=" not in one]
    if faults:
        raise ValueError(f"--adapters '{text}': '{faults[0]}' is no ARGUMENT=VALUE, such as rank=8")
    given = {key: literal(value) for key, _, value in (one.partition("=") for one in options)}
    backbone, gate, adapter = share(base), Gate(), ADAPTERS.create(name, **given)
    adapters.attach(backbone, adapter, gate)
    with torch.no_grad():  # as after some updates: its first zeros would be multiplied with, too, but prove nothing
        for key, parameter in backbone.named_parameters():
            if key.endswith("lora_b"):
                parameter.normal_(0, 0.02)
    quality = nn.Identity() if adapter.needs_gate else None  # scores are gates
    return FaceModel(backbone, gate, quality, frozen_base=adapter.freezes_base).train()


def share(module: Shared) -> Shared:
    """A copy with parameters and buffers of its own in the same memory."""
    memo: dict[int, object] = {id(t): t for t in module.buffers()}
    memo |= {id(p): nn.Parameter(p.data, requires_grad=p.requires_grad) for p in module.parameters()}
    return copy.deepcopy(module, memo)


def count(model: FaceModel, images: int) -> float:
    """FLOPs of the products in a step's forward and backward, a multiplication and an addition counted as two.

    Counted by torch on a step of two images in float32 and multiplied. Not counted: what attention computes a second
    time to keep less (the bottleneck's input product is counted twice, some 0.1 %), sums, norms, activations. A frozen
    layer has no product for its weights' gradient, and what lies below everything trained none for its input's.
    """
    with FlopCounterMode(display=False, custom_mapping=UNCOUNTED) as counter:
        Steps("", share(model), "fp32", 2).step()
    again = counter.get_flop_counts().get("Global", {}).get(torch.ops.aten.baddbmm, 0)
    return (counter.get_total_flops() - again) * images / 2


def _attention(query: Sequence[int], key: Sequence[int], *_: object, **__: object) -> int:
    *leading, tokens, width = query
    return 4 * torch.Size(leading).numel() * tokens * key[-2] * width


def _attention_backward(
    gradient: Sequence[int], query: Sequence[int], key: Sequence[int], *_: object, **__: object
) -> int:
    return 2 * _attention(query, key)


def _sum(start: Sequence[int], left: Sequence[int], right: Sequence[int], *_: object, **__: object) -> int:
    return 2 * left[0] * left[1] * right[1]


def _convolution_backward(gradient: Sequence[int], image: Sequence[int], weight: Sequence[int], *more, **__) -> int:
    """The image's and the weight's, each as many as forward."""
    return 2 * torch.Size(gradient).numel() * torch.Size(weight[1:]).numel() * sum(more[-1][:2])


UNCOUNTED = {  # by torch's counter, or too high: it takes the weight's gradient of grouped convolutions for dense
    torch.ops.aten.addmm_: _sum,
    torch.ops.aten.convolution_backward: _convolution_backward,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


def _timed(start: Callable[[], Iterator[int]], processor: list[float]) -> Iterator[int]:
    """The same work; the processor's seconds for each unit are added to the list."""
    work = start()
    while True:
        began = time.process_time()
        units = next(work)
        processor.append((time.process_time() - began) / units)
        yield units


def summary(args: Namespace, rates: dict[str, list[float]]) -> list[str]:
    """What each row computes and keeps, and what follows for the pairs among them.

    Shares of the bare products' rate are of a row's own FLOPs; they and what is said of pairs go by processor time, on
    CUDA by the clock.
    """
    measured, flops, of_limits = args.measured
    speed = {row: statistics.median(values) for row, values in rates.items()}
    first, wall = flops[next(iter(flops))], measured[0].device.type == "cuda"  # whose time is not the processor's
    lines = [
        "| | GFLOP a step | ms of processor time | of the bare products' rate | MiB kept for backward | by the adapter "
        "| M trained |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for one in measured:
        time_of = 1e3 * statistics.median(one.processor)
        least = 1e3 * args.batch * statistics.median(of_limits[one.precision])
        faster = speed[one.row] / speed[f"bare products, {one.precision}"] if wall else least / time_of
        share_of_rate = faster * flops[one.name] / first
        of_adapter = f"{one.of_adapter / 2**20:,.1f}" if one.of_adapter else ""
        kept = "" if one.compiled else f"{one.kept / 2**20:,.1f}"
        trained = sum(p.numel() for p in one.model.parameters() if p.requires_grad) / 1e6
        lines.append(
            f"| {one.row} | {flops[one.name] / 1e9:,.1f} | {time_of:,.0f} | {100 * share_of_rate:.0f} % | {kept} | "
            f"{of_adapter} | {trained:,.3f} |"
        )
    pace = speed if wall else {one.row: 1 / statistics.median(one.processor) for one in measured}
    return [*lines, "", *_pairs(measured, pace)]


def _pairs(measured: list[Steps], speed: dict[str, float]) -> list[str]:
    """Sentences on rows that belong together."""
    rows, lines = {one.row: one for one in measured}, []
    for one in measured:
        plain = rows.get(one.row.replace(f", {one.precision}", ", fp32", 1))
        if plain is not one and plain is not None:
            lines.append(f"{one.row}: {speed[one.row] / speed[plain.row]:.2f} times as fast as fp32")
        if one.compiled:
            eager = rows[one.row.removesuffix(", compiled")]
            lines.append(
                f"{one.row}: {speed[one.row] / speed[eager.row]:.2f} times as fast as eager, after "
                f"{one.compile_seconds:.0f} s of compiling and first steps"
            )
        naive = rows.get(one.row.replace("dual_lora", NAIVE, 1))
        if naive is not None and naive is not one and not one.compiled:
            lines.append(
                f"{one.row}: its adapter keeps {100 * one.of_adapter / naive.of_adapter:.0f} % of the bytes of "
                f"{NAIVE}, and the step is {speed[one.row] / speed[naive.row]:.2f} times as fast"
            )
        dense = rows.get(one.row.replace("moe", TWIN, 1)) if one.name.startswith("moe") else None
        if dense is not None and not one.compiled:
            own, its = (twins.active_parameters(each.model) for each in (one, dense))
            ratio = (1 / speed[one.row] / own) / (1 / speed[dense.row] / its)
            lines.append(
                f"{one.row}: {ratio:.2f} times the time per active parameter of its {TWIN} "
                f"({own / 1e6:,.1f} M active, the twin {its / 1e6:,.1f} M)"
            )
    return lines


def _device(asked: str) -> torch.device:
    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(asked)
