"""The classifier's benchmark: its rows and ratios; what a step of the centres touches; processes."""

from __future__ import annotations

import re

import pytest
import torch

from recognition.bench.classifier import steps
from recognition.bench.classifier_processes import scaling
from recognition.margins import MARGINS
from recognition.partial_fc import PartialFC
from tools import benchmark

ONCE = ["--repeats", "1", "--seconds", "0.01", "--warm-up", "0", "--device", "cpu", "--embedding", "16"]


def test_all_classes_with_all_rates_in_one_command(capsys):
    sizes = ["--classes", "300", "600", "--rate", "1", "0.1", "--batch", "8", "--samples", "500", "5000"]
    assert benchmark.main(["classifier", *sizes, *ONCE]) == 0
    printed = capsys.readouterr().out
    rows = [line.split("|")[1].strip() for line in printed.splitlines() if line.startswith("| ")]
    for classes in (300, 600):
        prefix = f"{classes} classes, 8 images: "
        for row in ("bare products of rate 1", "products, copies of rate 0.1", "partial FC, rate 0.1"):
            assert rows.count(prefix + row) == 2
        assert rows.count(f"{prefix}nn.Linear, cross_entropy") == 2
    assert rows.count("step of 50 centres out of 5,000") == 2
    ours = next(line for line in reversed(printed.splitlines()) if "600 classes, 8 images: partial FC, rate 1 " in line)
    assert len(re.findall(r"\d\.\d\d", ours)) >= 5, (
        "of products, with copies, of the estimate, of the sum, of nn.Linear"
    )


def test_a_step_touches_what_the_sample_has_whatever_the_classes():
    """Bytes that SGD reads and writes: weight, momentum and gradient of the sample; no other row changes."""
    touched = {}
    for classes in (2_000, 20_000):
        classifier = PartialFC(8, classes, MARGINS.create("cosface"), 200 / classes)
        optimizer = torch.optim.SGD(classifier.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        classifier.bind(optimizer)
        before = classifier.weight.detach().clone()
        classifier(torch.randn(16, 8), torch.randint(0, classes, (16,))).backward()
        optimizer.step()
        moved = (classifier.weight.detach() != before).any(1)
        assert moved.sum() == 200 and moved[classifier.sampled_rows].all()
        touched[classes] = classifier._update.touched
    assert touched[2_000] == touched[20_000] == 5 * 4 * 200 * 8


def test_the_benchmark_steps_as_many_centres():
    work = steps(500, 50, 16, torch.device("cpu"))
    assert [next(work) for _ in range(3)] == 3 * [50]


@pytest.mark.slow
def test_processes_are_compared_with_one(capsys):
    sizes = ["--classes", "300", "--rate", "0.5", "--batch", "8", "--no-linear", "--processes", "2"]
    args = benchmark.parse(["classifier", *sizes, *ONCE])
    head, _, row = scaling(args)
    assert "images/s of 1 | of 2 | efficiency | communication" in head
    assert re.fullmatch(r"\| 300 classes, 8 images, rate 0.5 \| [\d,]+ \| [\d,]+ \| \d+ % \| \d+ % \|", row)
