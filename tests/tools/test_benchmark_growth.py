"""Curves and their laws, the memory model's numbers, and the page that carries them to large runs."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from recognition.backbones import BACKBONES
from recognition.bench.growth import carry, tables
from recognition.bench.growth.fits import Fit, fit
from recognition.memory import Network, process_bytes
from recognition.partial_fc.memory import estimate
from tools import benchmark

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "scaling.md"
ONCE = ["--repeats", "1"]


def growth(*words: str) -> int:
    return benchmark.main(["growth", *words, *ONCE])


def test_points_laws_and_drawings(tmp_path, capsys):
    few = ["--classes", "300", "600", "--rates", "0.1"]
    assert growth("--over", "classes", *few, "--output", str(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert printed.count("time, s: ") == 1 and "an update of the classifier, 128 images, rate 0.1" in printed
    assert {path.name for path in tmp_path.iterdir()} == {"classes_0.1.json", "classes_0.1.svg"}
    stored = json.loads((tmp_path / "classes_0.1.json").read_text())
    assert [point["x"] for point in stored["points"]] == [300, 600]
    for point, classes in zip(stored["points"], (300, 600), strict=True):
        assert len(point["seconds"]) == len(point["processor"]) == 1 and point["memory"] > 0
        assert point["predicted"] == sum(estimate(classes, 512, 128, sample_rate=0.1).values())
        assert point["flops"] == 3 * 2 * 128 * classes // 10 * 512
    law = Fit(**stored["laws"]["time"])
    assert [law.at(point["x"]) for point in stored["points"]] == pytest.approx(
        [p["processor"][0] for p in stored["points"]]
    )
    drawing = ElementTree.parse(tmp_path / "classes_0.1.svg").getroot()
    assert drawing.tag.endswith("svg") and (tmp_path / "classes_0.1.svg").stat().st_size < 20_000
    words = " ".join(drawing.itertext())
    assert "limit: its three bare products" in words and "law " in words and "median and range" in words


@pytest.mark.slow
def test_every_other_curve(tmp_path, capsys):
    network = ["--backbone", "mobilefacenet_nano", "--adapter", "lora", "--shapes", "1"]
    sizes = ["--classes", "64", "--processes", "1", "2", "--sides", "32", "--images", "100"]
    curves = ["processes", "images", "resolution", "memory"]
    assert growth("--over", *curves, *network, *sizes, "--output", str(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert "a step of mobilefacenet_nano" in printed and "r18's convolutions" in printed
    steps = json.loads((tmp_path / "processes_steps.json").read_text())
    assert [point["units"] for point in steps["points"]] == [16, 16], "the same work on one process and on two"
    (point,) = json.loads((tmp_path / "memory.json").read_text())
    assert 0.8 < point["predicted"] / point["memory"] < 1.2
    assert growth("--carry", "--output", str(tmp_path)) == 0
    assert "| mobilefacenet_nano | full | 32 | 10,000 | 1 | 1 |" in capsys.readouterr().out


def test_what_cannot_be_is_told_in_a_line(tmp_path, capsys):
    for wrong, words in {
        "--classes=0": "--classes 0: wanted 1 or more",
        "--processes=2": "1 must be among them",
        "--backbone=nothing": "nothing",
    }.items():
        assert growth(wrong) == 1
        assert words in capsys.readouterr().err
    assert growth("--carry", "--output", str(tmp_path)) == 1
    assert "there are no points" in capsys.readouterr().err


def test_laws_are_found():
    x = np.array([1.0, 2, 5, 10])
    straight, power = fit(x, 3 + 2 * x), fit(x, 4 * x**1.5)
    assert (straight.law, straight.a, straight.b) == ("linear", pytest.approx(3), pytest.approx(2))
    assert (power.law, power.a, power.b) == ("power", pytest.approx(4), pytest.approx(1.5))
    assert straight.worst < 1e-9 and power.at(7) == pytest.approx(4 * 7**1.5)
    rough = fit(x, (3 + 2 * x) * np.array([1.02, 0.98, 1.01, 0.99]))
    assert 0 < rough.worst < 0.04 and rough.a_error > 0 and "off by" in rough.words()
    assert "no error can be told" in fit([1, 2], [1, 2]).words() and fit([3], [7]).at(5) == 7


def test_the_page_has_the_tables_of_the_command():
    printed = "\n".join(tables.tables(str(ROOT / "docs" / "scaling")))
    page, found = PAGE.read_text(), re.findall(r"^### (.*)\n\n((?:\|.*\n?)+)", printed, re.M)
    assert len(found) == 9
    for name, table in found:
        again = "python tools/benchmark.py growth --carry --output docs/scaling"
        assert table.strip() in page, f"docs/scaling.md has another table of '{name}': take that of {again}"


def test_the_pages_sentences_are_of_the_same_arithmetic():
    page = " ".join(PAGE.read_text().split())
    run, parts, share = carry.WEBFACE, carry.step(carry.WEBFACE), carry.efficiency()
    milliseconds = [1000 * value for value in (parts.network_flops, parts.network_bytes, parts.classifier_flops)]
    for value in (*milliseconds, 1000 * parts.classifier_bytes, 1000 * parts.exchange):
        assert f"= {value:.1f} ms" in page
    card = parts.seconds(1.0) - parts.exchange
    assert f"together {1000 * card:.1f} ms, / {share:.3f} = {1000 * card / share:.0f} ms" in page
    assert f"{-(-run.classes // run.cards):,} classes a card, of which {run.rows:,} are compared" in page
    assert f"{carry.MANY.classes // 8:,} classes a card, {carry.MANY.rows:,} compared" in page
    first, last = (sum(carry.memory(one).values()) for one in (carry.TABLE[0], carry.TABLE[-1]))
    local = (carry.TABLE[-1].classes - carry.TABLE[0].classes) / 8
    missing = (2**20 * (carry.TABLE[-1].held - carry.TABLE[0].held) - (last - first)) / local
    assert f"{missing:,.0f} bytes for each class of a card" in page


def test_the_carried_numbers_derived_plainly():
    """29 M identities on 8 cards, rate 0.1, r50, 128 images each."""
    rows, numbers, logits = 362_500, 362_500 * 512, 1024 * 362_500
    parts = carry.memory(carry.MANY)
    assert parts["class centres"] == parts["their optimizer state"] == 3_625_000 * 512 * 4
    assert parts["compared centres"] == 4 * numbers and parts["logits"] == 4 * logits
    assert parts["network"] == 4 * (43_590_848 + 3 * 43_590_336)
    assert parts["activations"] == 87_092_608 + 128 * 35_400_192
    step = carry.step(carry.MANY)
    assert step.classifier_flops == pytest.approx(3 * 2 * 1024 * rows * 512 / 15.7e12)
    assert step.classifier_bytes == pytest.approx((28 * 4 * numbers + 21 * 4 * logits) / 900e9)
    assert step.network_flops == pytest.approx(128 * 37.8126336e9 / 125e12)
    assert step.exchange == pytest.approx(7 / 8 * 4 * (3 * 1024 * 512 + 2 * 3 * 1024 + 2 * 43_590_336) / 150e9)
    share = carry.efficiency()
    assert carry.speed(carry.ANCHOR, share) == pytest.approx(5552), "the share is this run's"
    assert carry.speed(carry.MANY, share) == pytest.approx(1855, rel=0.1)


def test_one_process_is_the_sum_of_its_parts():
    network = Network(weights=1000, trained=100, kept=50, kept_once=7)
    classifier = estimate(40, 8, 6, moments=2)
    parts = process_bytes(network.bytes(2), classifier, network.activations(3), beside=9)
    assert parts == {"network": 4 * 1000 + 4 * (2 + 2) * 100, **classifier, "activations": 7 + 150, "beside": 9}


@pytest.mark.parametrize("name", ["r50", pytest.param("r100", marks=pytest.mark.slow)])
def test_the_networks_numbers_are_the_networks(name):
    network, flops = carry.NETWORKS[name]
    model = BACKBONES.create(name).eval()
    parameters = [*model.parameters()]
    assert network.weights == sum(p.numel() for p in parameters)
    assert network.trained == sum(p.numel() for p in parameters if p.requires_grad)
    one, two = kept(model, 1), kept(model, 2)
    assert (network.kept, network.kept_once) == (two - one, 2 * one - two)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 112, 112)).sum().backward()
    assert counter.get_total_flops() == pytest.approx(flops)


def kept(model: torch.nn.Module, images: int) -> int:
    """Bytes that a forward pass in two-byte autocast keeps for backward, but for the model's own tensors."""
    own = {value.untyped_storage().data_ptr() for value in [*model.parameters(), *model.buffers()]}
    found: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda one: one), torch.autocast("cpu", torch.bfloat16):
        held = model(torch.zeros(images, 3, 112, 112))
        size = sum(found.values())
    del held
    return size
