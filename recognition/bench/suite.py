"""What `tools/benchmark.py suite` does: every benchmark of docs/performance.md, each in a process of its own.

`make bench` runs it on a CPU, `make bench-gpu` on a card. What is written is kept, and another call goes on from there.
"""

from __future__ import annotations

import fnmatch
import platform
import shlex
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from recognition import __version__
from recognition.files import write_atomically
from recognition.machine import readable_size

DEVICE = "{device}"


@dataclass(frozen=True)
class Run:
    """A command of the suite. arguments: of tools/benchmark.py, DEVICE in place of the device."""

    name: str
    arguments: str
    miniature: str = ""  # arguments in place of these, where the whole suite is tried in seconds

    def argv(self, device: str, *, tiny: bool) -> list[str]:
        text = self.miniature if tiny and self.miniature else self.arguments
        return shlex.split(text.replace(DEVICE, device))


_STEP, _STEP_TINY = "--device {device} --warm-up 0", "--batch 2 --repeats 1 --seconds 0.01"
_LIGHT = "step --backbone mobilefacenet_nano --adapters 'lora rank=2' --device {device} --warm-up 0 " + _STEP_TINY
_TINY = "--repeats 1 --seconds 0.01 --warm-up 0"

RUNS = (
    Run(
        "step_swin_120",
        f"step --backbone swin_120 --adapters 'dual_lora rank=8' --precision fp32 bf16 --batch 8 --repeats 3 {_STEP}",
        f"step --backbone swin_nano --adapters 'dual_lora rank=2' --precision fp32 bf16 {_STEP} {_STEP_TINY}",
    ),
    Run(
        "step_vit_b",
        "step --backbone vit_b --adapters 'dual_lora rank=8' 'lora rank=8' full --precision fp32 bf16 --batch 8 "
        f"--repeats 3 {_STEP}",
        _LIGHT,
    ),
    Run(
        "step_r50",
        f"step --backbone r50 --adapters 'lora rank=8' full --precision fp32 bf16 --batch 8 --repeats 3 {_STEP}",
        _LIGHT,
    ),
    Run(
        "step_mobilefacenet_y1",
        "step --backbone mobilefacenet_y1 --adapters 'lora rank=8' full --precision fp32 bf16 --batch 16 "
        f"--repeats 5 {_STEP}",
        _LIGHT,
    ),
    Run(
        "step_moe",
        f"step --backbone swin_nano --adapters moe --precision fp32 bf16 --batch 16 --repeats 5 {_STEP}",
        f"step --backbone swin_nano --adapters moe --precision fp32 {_STEP} {_STEP_TINY}",
    ),
    Run(
        "step_compiled",
        f"step --backbone vit_t --adapters 'lora rank=8' --precision fp32 bf16 --batch 8 --compile --repeats 5 {_STEP}",
        _LIGHT,
    ),
    Run(
        "classifier",
        "classifier --classes 10000 100000 --rate 1 0.1 --batch 128 1024 --repeats 3 --seconds 0.5 --warm-up 0 "
        "--no-linear --device {device}",
        f"classifier --classes 300 --rate 0.5 --batch 8 --embedding 16 --device {DEVICE} {_TINY}",
    ),
    Run(
        "classifier_linear",
        "classifier --classes 10000 100000 --rate 1 0.1 --samples 100000 1000000 --processes 2 --repeats 3 "
        "--seconds 0.5 --warm-up 0 --device {device}",
        f"classifier --classes 300 --rate 0.5 --batch 8 --embedding 16 --device {DEVICE} {_TINY}",
    ),
    Run(
        "classifier_million",
        "classifier --classes 1000000 --rate 1 0.1 --processes 2 --repeats 1 --warm-up 0 --device {device}",
        f"classifier --classes 300 --rate 0.5 --batch 8 --embedding 16 --device {DEVICE} {_TINY}",
    ),
    Run(
        "loader",
        "loader --shards 1 16 --cache warm cold --repeats 3 --device {device}",
        f"loader --workers 0 --batch 4 --device {DEVICE} {_TINY}",
    ),
    Run("index", "index --records 40000000", "index --records 2000 --repeats 1"),
    Run(
        "embedding",
        "embedding --backbone mobilefacenet_y1 r50 swin_120 --batch 32 --repeats 3 --device {device}",
        "embedding --backbone mobilefacenet_nano --batch 2 --repeats 1 --seconds 0.01 --device {device}",
    ),
    Run("metrics", "metrics --pairs 6000 1000000", "metrics --pairs 100 --repeats 1 --most 2000"),
    Run("scoring", "scoring --threads 1", "scoring --cases tinyface --scale 400 --resamples 10 --threads 1"),
    Run(
        "onnx_swin_nano",
        "onnx --backbone swin_nano --threads 1",
        "onnx --backbone swin_nano --threads 1 --precision fp32 --batch 1 --images 4 --repeats 1 --seconds 0.01 "
        "--warm-up 0 --gate-seconds 0.1",
    ),
    Run(
        "onnx_mobilefacenet_y1",
        "onnx --backbone mobilefacenet_y1 --threads 1",
        "onnx --backbone mobilefacenet_nano --threads 1 --precision fp32 --batch 1 --images 4 --repeats 1 "
        "--seconds 0.01 --warm-up 0 --gate-seconds 0.1",
    ),
    Run(
        "sharding",
        "sharding --device {device}",
        "sharding --backbone mobilefacenet_nano --batch 2 --repeats 1 --device {device}",
    ),
    Run("start_up", "start_up --repeats 3", "start_up --tools train --processes 1 --repeats 1"),
    Run("growth", "growth --output bench/growth --device {device}", "growth --carry --device {device}"),
)


def report(args: Namespace) -> list[str]:
    """Run what is not there yet. Returns a line for each run, with seconds, or why it failed.

    args: output (folder; NAME.md for each run), device, only (globs on names; empty = all), again (also what is
    there), tiny. ValueError where a glob names none, or a run fails; the others are run all the same.
    """
    folder = Path(args.output)
    chosen = _chosen(args.only)
    lines, failed = [], []
    for number, run in enumerate(chosen, 1):
        place = folder / f"{run.name}.md"
        if place.is_file() and not args.again:
            lines.append(f"{run.name}: {place} is there; --again measures it anew")
            continue
        print(f"[{number}/{len(chosen)}] {run.name}: {run.arguments}", file=sys.stderr, flush=True)
        begin = time.perf_counter()
        # -m, not a file: an installed LRFace keeps its tools elsewhere
        command = [sys.executable, "-m", "recognition.command", "benchmark", *run.argv(args.device, tiny=args.tiny)]
        done = subprocess.run(command, capture_output=True, text=True)
        seconds = time.perf_counter() - begin
        if done.returncode:
            failed.append(run.name)
            lines.append(f"{run.name}: failed after {seconds:.0f} s: {(done.stderr or done.stdout).strip()[-2000:]}")
            continue
        shown = "python tools/benchmark.py " + shlex.join(command[4:])
        told = f"# {run.name}\n\n    {shown}\n\n{machine()}; {seconds:.0f} s\n\n{done.stdout.strip()}\n"
        write_atomically(place, told)
        lines.append(f"{run.name}: {place}, {seconds:.0f} s")
    if failed:
        raise ValueError("\n".join([*lines, f"{len(failed)} of {len(chosen)} failed: {', '.join(failed)}"]))
    return lines


def machine() -> str:
    """What was measured on, in a line."""
    cpu = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in cpu.read_text().splitlines() if line.startswith("model name")]
    flags = next((line for line in cpu.read_text().splitlines() if line.startswith("flags")), "").split()
    can = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    parts = [f"{len(names)} x {names[0] if names else platform.machine()} ({', '.join(can)})"]
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        parts.append(f"{torch.cuda.device_count()} x {card.name}, {readable_size(card.total_memory)}")
    parts += [f"Python {platform.python_version()}", f"torch {torch.__version__}", f"LRFace {__version__}"]
    return ", ".join(parts)


def _chosen(only: Sequence[str]) -> list[Run]:
    names = [run.name for run in RUNS]
    for pattern in only:
        if not fnmatch.filter(names, pattern):
            raise ValueError(f"--only {pattern} names no run of the suite: {', '.join(names)}")
    return [run for run in RUNS if not only or any(fnmatch.fnmatch(run.name, pattern) for pattern in only)]
