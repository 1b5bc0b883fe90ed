"""What `tools/benchmark.py` can measure, and the arguments of each; imports nothing slow, so that --help is quick."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Subject:
    """Something to measure. A new one is a line in SUBJECTS and a module.

    module: has cases(args), a context manager of (a line about what is measured, cases by name); a case is a pair: a
        function that returns an endless iterator of how many units each piece of work had, and the name of its limit
        ("" = none). It may have summary(args, rates), more lines to print. For work that has an end, it
        has report(args) instead, all lines to print.
    """

    summary: str
    unit: str
    module: str
    arguments: Callable[[argparse.ArgumentParser], None]
    warm_up_pieces: int = 24  # at least: what a loader decoded ahead, before it was the limit, must be used up
    endless: bool = True  # measured for --seconds; False: by report(args)


def loader_arguments(parser: argparse.ArgumentParser) -> None:
    cores = os.cpu_count() or 1
    parser.add_argument("--records", help="record set (default: synthetic faces, made for this run)")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=sorted({1, cores}), help="processes or threads (default: %(default)s)"
    )
    parser.add_argument(
        "--shards", type=int, nargs="+", default=[], help="the same pictures in so many files, made for this run"
    )
    parser.add_argument(
        "--cache", nargs="+", choices=("warm", "cold"), default=["warm"], help="page cache at the start (default: warm)"
    )
    parser.add_argument("--batch", type=int, default=128, help="images (default: %(default)s)")
    parser.add_argument("--degrade", action="store_true", help="with the default degradation to low resolution")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def index_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--records", type=int, default=40_000_000, help="how many (default: %(default)s)")
    parser.add_argument("--shards", type=int, default=1, help="files (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=128, help="records of a step (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="openings after the first one (default: %(default)s)")
    parser.add_argument("--folder", help="where the set is made and removed (default: the system's temporary folder)")


def checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mib", type=int, default=64, help="class centres and momentum (default: %(default)s)")
    parser.add_argument("--folder", help="where to write (default: the system's temporary folder)")


def step_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipes", nargs="*", help="what to train; the first is what the others are compared with")
    parser.add_argument("--set", nargs="+", default=[], metavar="SECTION.SETTING=VALUE", help="laid over every recipe")
    parser.add_argument("--backbone", default="", help="in place of recipes: a network with random weights")
    parser.add_argument(
        "--adapters",
        nargs="+",
        default=["dual_lora rank=8"],
        metavar="ADAPTER",
        help="of --backbone, such as full 'lora rank=4' (default: 'dual_lora rank=8')",
    )
    parser.add_argument(
        "--precision", nargs="+", choices=("fp32", "bf16", "fp16"), default=["fp32"], help="of --backbone (fp32)"
    )
    parser.add_argument("--compile", action="store_true", help="rows of --backbone with torch.compile, too")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of --backbone (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=16, help="images (default: %(default)s)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def iqa_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", nargs="?", default="", help="with a gate (default: lfw_dual_lora, else demo)")
    parser.add_argument("--set", nargs="+", default=[], metavar="SECTION.SETTING=VALUE", help="laid over the recipe")
    parser.add_argument(
        "--scorers", nargs="+", default=[], metavar="SCORER", help="such as sharpness 'brisque weights=A ranges=B'"
    )
    parser.add_argument("--batch", type=int, default=32, help="images (default: %(default)s)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def classifier_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--classes", type=int, nargs="+", default=[10_000], help="(default: 10000)")
    parser.add_argument("--rate", type=float, nargs="+", default=[0.1], help="classifier.sample_rate (default: 0.1)")
    parser.add_argument("--embedding", type=int, default=512, help="numbers (default: %(default)s)")
    parser.add_argument("--batch", type=int, nargs="+", default=[128], help="images of all processes (default: 128)")
    parser.add_argument(
        "--samples", type=int, nargs="+", default=[], metavar="CLASSES", help="SGD's step alone, of as many of these"
    )
    parser.add_argument("--processes", type=int, default=1, help="also on so many, beside one (default: %(default)s)")
    parser.add_argument("--sampling", default="uniform", help="classifier.sampling (default: %(default)s)")
    parser.add_argument("--state", default="all", help="classifier.state (default: %(default)s)")
    parser.add_argument("--precision", default="fp32", help="classifier.precision (default: %(default)s)")
    parser.add_argument("--no-linear", action="store_true", help="leave out nn.Linear with cross-entropy")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def metrics_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pairs", type=int, nargs="+", default=[6000, 1_000_000], help="(default: %(default)s)")
    parser.add_argument(
        "--most", type=int, default=500_000_000, help="comparisons that a loop makes, then it is scaled (%(default)s)"
    )
    parser.add_argument("--repeats", type=int, default=3, help="(default: %(default)s)")


def embedding_arguments(parser: argparse.ArgumentParser) -> None:
    names = ["mobilefacenet_y1", "r50", "swin_120"]
    parser.add_argument("--backbone", nargs="+", default=names, help="(default: %(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="evaluation.batch_size (default: %(default)s)")
    parser.add_argument("--sides", type=int, nargs="+", default=[112, 14], help="low res (default: %(default)s)")
    parser.add_argument("--flip", choices=("none", "sum", "concat"), default="sum", help="(default: %(default)s)")
    parser.add_argument("--records", help="record set (default: synthetic faces, made for this run)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="(default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="measurements per row (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement, about (default: %(default)s)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def scoring_arguments(parser: argparse.ArgumentParser) -> None:
    cases = ("tinyface", "survface", "ijbc")
    parser.add_argument("--cases", nargs="+", choices=cases, default=cases, help="(default: all, which takes minutes)")
    parser.add_argument("--scale", type=int, default=1, help="divide the numbers of images by (default: %(default)s)")
    parser.add_argument("--resamples", type=int, default=1000, help="of the intervals (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="(default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each (default: %(default)s)")


def growth_arguments(parser: argparse.ArgumentParser) -> None:
    what = ("batch", "classes", "processes", "images", "resolution", "memory")
    parser.add_argument("--over", nargs="+", choices=what, default=what, help="what grows (default: all, two minutes)")
    parser.add_argument(
        "--output", default="", metavar="FOLDER", help="where points (JSON) and plots (SVG) are written"
    )
    parser.add_argument(
        "--carry",
        action="store_true",
        help="measure nothing; print the tables of docs/scaling.md: large runs' cost, and points that --output has",
    )
    numbers = (
        ("--batches", (2, 4, 8, 16), "images of an adaptation step"),
        ("--classes", (10_000, 30_000, 100_000, 300_000), "of the classifier's updates"),
        ("--processes", (1, 2), "that share out the same work, a thread each"),
        ("--images", (10_000, 30_000, 100_000, 300_000), "in a record file"),
        ("--sides", (56, 84, 112, 140, 168), "pixels, of what goes through r18's convolutions"),
    )
    for name, default, what_for in numbers:
        told = " ".join(map(str, default))
        parser.add_argument(
            name, type=int, nargs="+", default=default, metavar="N", help=f"{what_for} (default: {told})"
        )
    parser.add_argument("--rates", type=float, nargs="+", default=(1.0, 0.1), help="of sampling (default: 1 and 0.1)")
    parser.add_argument("--backbone", default="vit_t", help="of the adaptation step (default: %(default)s)")
    parser.add_argument("--adapter", default="dual_lora", help="of the adaptation step (default: %(default)s)")
    parser.add_argument("--shapes", type=int, default=99, help="of the memory table, at most (default: all)")
    parser.add_argument("--repeats", type=int, default=3, help="pieces of work per point (default: %(default)s)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="cpu")


def onnx_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="?", default="", metavar="RUN", help="folder of a finished run, or a checkpoint")
    parser.add_argument("--backbone", default="", help="in place of RUN: a network with random weights")
    parser.add_argument(
        "--adapter", default="dual_lora rank=8", help="of --backbone (default: '%(default)s'; '' = none)"
    )
    parser.add_argument(
        "--scorer", default="sharpness", help="of --backbone with a gated adapter (default: %(default)s)"
    )
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=("fp32", "fp16", "int8"),
        default=["fp32", "fp16", "int8"],
        help="of the files (default: all)",
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32], help="images (default: 1 32)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="(default: %(default)s)")
    parser.add_argument("--images", type=int, default=48, help="painted ones, to calibrate int8 (default: %(default)s)")
    parser.add_argument(
        "--gate-seconds", type=float, default=10.0, help="of comparing graphs with and without gate (default: 10)"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def sharding_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backbone", default="r50", help="with random weights (default: %(default)s)")
    parser.add_argument("--adapter", default="full", help="(default: %(default)s)")
    parser.add_argument("--batch", type=int, default=4, help="images of a process (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="of a thread each (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="updates of each way (default: %(default)s)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def suite_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where a file for each benchmark is written")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(default: %(default)s)")
    parser.add_argument("--only", nargs="+", default=[], metavar="GLOB", help="names of benchmarks (default: all)")
    parser.add_argument("--again", action="store_true", help="measure what is there anew, too")
    parser.add_argument("--tiny", action="store_true", help="small sizes: whether all of them run, in a minute")


def start_up_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", nargs="?", default="configs/demo.py", help="(default: %(default)s)")
    parser.add_argument("--set", nargs="+", default=[], metavar="SECTION.SETTING=VALUE", help="laid over the recipe")
    parser.add_argument("--whole", action="store_true", help="with evaluation and class means before the first update")
    parser.add_argument("--tools", nargs="+", default=[], metavar="TOOL", help="whose --help (default: all)")
    parser.add_argument("--processes", type=int, default=2, help="1: without torchrun; 0: --help only (default: 2)")
    parser.add_argument("--repeats", type=int, default=5, help="fresh processes of each (default: %(default)s)")


SUBJECTS = {
    "classifier": Subject(
        "images/s of the classifier's updates, and their memory",
        "images",
        "recognition.bench.classifier",
        classifier_arguments,
        1,
    ),
    "checkpoint": Subject(
        "MiB/s of saving, and of what training waits for", "MiB", "recognition.bench.checkpoint", checkpoint_arguments
    ),
    "growth": Subject(
        "how time and memory grow with batch, classes, processes, images and resolution; large runs' cost",
        "",
        "recognition.bench.growth",
        growth_arguments,
        endless=False,
    ),
    "embedding": Subject(
        "images/s from pictures to embeddings, as evaluations make them, beside the bare network",
        "images",
        "recognition.bench.embedding",
        embedding_arguments,
        endless=False,
    ),
    "iqa": Subject(
        "what the scores behind the gate cost a training step", "images", "recognition.bench.iqa", iqa_arguments, 2
    ),
    "index": Subject(
        "seconds and memory of opening and shuffling a set of many records",
        "records",
        "recognition.bench.index",
        index_arguments,
        endless=False,
    ),
    "loader": Subject(
        "images/s of the loaders and of the bare decoders", "images", "recognition.bench.loader", loader_arguments
    ),
    "onnx": Subject(
        "images/s of exported files beside torch, and what the gate costs in the graph",
        "images",
        "recognition.bench.onnx",
        onnx_arguments,
        2,
    ),
    "metrics": Subject(
        "seconds of TAR at FAR and 10 folds by sorting, and by a loop over thresholds",
        "pairs",
        "recognition.bench.metrics",
        metrics_arguments,
        endless=False,
    ),
    "scoring": Subject(
        "seconds and memory of benchmarks from embeddings to figures",
        "images",
        "recognition.bench.scoring",
        scoring_arguments,
        endless=False,
    ),
    "sharding": Subject(
        "seconds and memory of training steps of a backbone in shares over processes, beside DDP",
        "",
        "recognition.bench.sharding",
        sharding_arguments,
        endless=False,
    ),
    "start_up": Subject(
        "seconds from the start of a process to --help, and to the first update of a training",
        "",
        "recognition.bench.start_up",
        start_up_arguments,
        endless=False,
    ),
    "step": Subject(
        "images/s of training steps, and what they keep in memory",
        "images",
        "recognition.bench.step",
        step_arguments,
        1,
    ),
    "suite": Subject(
        "every benchmark of docs/performance.md, a file each",
        "",
        "recognition.bench.suite",
        suite_arguments,
        endless=False,
    ),
}
