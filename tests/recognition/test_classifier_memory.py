"""What a classifier takes in memory: the estimate's arithmetic, and the benchmark's measurement beside it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from recognition.partial_fc.memory import estimate
from tools import benchmark

ROOT = Path(__file__).parents[2]
ONCE = ["--repeats", "1", "--seconds", "0.01", "--warm-up", "0", "--device", "cpu"]


def test_the_estimate_of_a_million_classes():
    """1 M x 512 float32 are 1,953 MiB; a tenth of them 195; 128 images x 100,000 logits 49."""
    mib = {name: size / 2**20 for name, size in estimate(1_000_000, 512, 128, sample_rate=0.1).items()}
    assert mib["class centres"] == mib["their optimizer state"] == pytest.approx(1953.1, abs=0.1)
    assert mib["logits"] == pytest.approx(48.8, abs=0.1)
    assert mib["compared centres"] == pytest.approx(195.3, abs=0.1)  # their gradient
    adamw = estimate(1_000_000, 512, 128, sample_rate=0.1, moments=2)  # the optimizer's step is the peak
    # gradient, rows, two moments, work space of two; the logits' buffer stays
    assert adamw["compared centres"] / 2**20 == pytest.approx(6 * 195.3, abs=0.1)
    assert adamw["logits"] / 2**20 == mib["logits"]
    dense = estimate(1_000_000, 512, 128, moments=2)
    assert dense["compared centres"] == 3 * dense["class centres"]  # gradient, work space
    forgetful = estimate(1_000_000, 512, 128, sample_rate=0.1, state="sampled")
    assert forgetful["their optimizer state"] / 2**20 == pytest.approx(195.3, abs=0.1)
    assert forgetful["compared centres"] == 2 * forgetful["their optimizer state"]  # gradient, the next momentum


def test_what_the_estimate_depends_on():
    plain = estimate(1000, 64, 32, sample_rate=0.1)
    assert estimate(1000, 64, 32, sample_rate=0.1, moments=2)["their optimizer state"] == 2 * 4 * 1000 * 64
    assert estimate(1001, 64, 32, sample_rate=0.1, world_size=4)["class centres"] == 4 * 251 * 64
    assert estimate(1000, 64, 32)["logits"] == 4 * 32 * 1000
    assert estimate(1000, 64, 32, in_place=False)["logits"] == 2 * 4 * 32 * 1000
    assert estimate(1000, 64, 32, state="sampled") == estimate(1000, 64, 32), "all are sampled"
    many = estimate(1000, 64, 3200, sample_rate=0.1)  # products and logits are the peak
    assert many["compared centres"] == 4 * 100 * 64 and many["logits"] == 4 * 3200 * 100
    assert sum(estimate(1000, 64, 32, sample_rate=0.1, accumulate=4).values()) > sum(plain.values())


def test_the_measured_peak_is_the_estimate():
    """In a process of its own, where nothing is left over from others: weights, momentum, compared centres, logits."""
    sizes = ["--classes", "60000", "--rate", "1", "0.1", "--batch", "64", "--no-linear"]
    command = [sys.executable, "tools/benchmark.py", "classifier", *sizes, *ONCE]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    for rate in ("1", "0.1"):
        ratios = re.search(rf"\| partial FC, rate {rate} \|.* \(([\d.]+)\) \| ([\d.]+) \|", found.stdout).groups()
        assert all(0.85 < float(ratio) < 1.2 for ratio in ratios), found.stdout


def test_every_way_to_compare_has_its_rows(capsys):
    sizes = ["--classes", "300", "--batch", "8", "--embedding", "16", "--sampling", "hard_negatives"]
    assert benchmark.main(["classifier", *sizes, "--state", "sampled", "--precision", "bf16", *ONCE]) == 0
    printed = capsys.readouterr().out
    assert "sampling hard_negatives, state sampled" in printed and "estimate: class centres 18.8 KiB" in printed
    rows = [line.split("|")[1].strip() for line in printed.splitlines() if line.startswith("| ")]
    assert rows == 2 * ["", "bare products", "products, copies", "partial FC, rate 0.1", "nn.Linear, cross_entropy"]


def test_what_cannot_be_is_told_in_a_line(capsys):
    for wrong, words in {
        "--classes=0": "must be 1 or more",
        "--rate=2": r"classifier.sample_rate is 2.0",
        "--state=none": "classifier.state is 'none'",
        "--classes=100000000000": "are left",
    }.items():
        assert benchmark.main(["classifier", wrong, *ONCE]) == 1
        assert re.search(words, capsys.readouterr().err)
