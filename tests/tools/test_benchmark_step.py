"""Steps without recipes: what is counted, what is kept, the baselines' numbers, nothing done for each image apart."""

import re
from argparse import Namespace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import adapters
from adapters import ADAPTERS
from recognition.backbones import BACKBONES
from recognition.bench import model_step, twins
from recognition.bench.model_step import Steps, count, make, share
from recognition.gate import Gate
from recognition.model import FaceModel
from tests.tiny import Tiny, TinyViT, nameable
from tools import benchmark

QUICK = ["--batch", "2", "--threads", "1", "--repeats", "1", "--seconds", "0.001", "--warm-up", "0", "--device", "cpu"]


class Rows(nn.Module):
    """Three Linear layers over 7 tokens, 6 -> 8 -> 10 -> 4; the one in the middle is adapted."""

    embedding_size, input_size = 28, 112
    adapter_targets, head_targets, checkpoint_blocks = ("middle",), (), ()

    def __init__(self) -> None:
        super().__init__()
        self.below, self.middle, self.above = nn.Linear(6, 8), nn.Linear(8, 10), nn.Linear(10, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.above(self.middle(self.below(image.flatten(1)[:, :42].unflatten(1, (7, 6))))).flatten(1)


def test_rows_limits_and_sentences(capsys):
    with nameable():
        chosen = ["--adapters", "dual_lora rank=2", "full", "--precision", "fp32", "bf16"]
        assert benchmark.main(["step", "--backbone", "tiny_of_tests", *chosen, *QUICK]) == 0
    out = capsys.readouterr().out
    names = ["dual_lora rank=2", "naive two branches rank=2", "full"]
    rows = [line.split("|")[1].strip() for line in out.splitlines() if line.startswith("| ") and "median" not in line]
    table = [f"{name}, {p}" for p in ("fp32", "bf16") for name in ("bare products", *names)]
    assert rows[: len(table)] == table
    assert sorted(r for r in rows[len(table) :] if r) == sorted(t for t in table if "bare" not in t)
    assert len(re.findall(r"\| limit \|", out)) == 2
    assert re.search(r"dual_lora rank=2, bf16: [\d.]+ times as fast as fp32", out)
    assert re.search(r"dual_lora rank=2, fp32: its adapter keeps \d+ % of the bytes of naive two branches", out)


def test_a_mixture_stands_beside_its_dense_twin(capsys):
    with nameable():
        assert benchmark.main(["step", "--backbone", "tiny_vit_of_tests", "--adapters", "moe", *QUICK]) == 0
    assert re.search(
        r"moe, fp32: [\d.]+ times the time per active parameter of its dense twin", capsys.readouterr().out
    )
    torch.manual_seed(0)
    base = TinyViT()
    moe = make(base, "moe experts=3 top_k=2")
    twin = twins.dense(share(base), moe)
    of_mlp = sum(p.numel() for p in base.blocks[0].mlp.parameters())
    routers = 3 * 3 * 16
    assert twins.active_parameters(moe) == 3 * 2 * of_mlp + routers
    assert twins.active_parameters(twin) == 3 * (2 * of_mlp - 16)  # one bias behind, not two
    assert base.blocks[0].mlp[0].out_features == 32


def test_errors_are_a_sentence(capsys):
    assert benchmark.main(["step", *QUICK]) == 1
    assert "name recipes, or a network by --backbone" in capsys.readouterr().err
    assert benchmark.main(["step", "--backbone", "nothing", *QUICK]) == 1
    assert "nothing" in capsys.readouterr().err
    with nameable():
        assert benchmark.main(["step", "--backbone", "tiny_of_tests", "--adapters", "lora rank", *QUICK]) == 1
        assert "'rank' is no ARGUMENT=VALUE" in capsys.readouterr().err
        assert benchmark.main(["step", "--backbone", "tiny_of_tests", "--adapters", "lora rang=3", *QUICK]) == 1
        assert "rang" in capsys.readouterr().err


def test_flops_are_those_counted_by_hand():
    images, tokens, rank = 5, 7, 3
    rows = images * tokens
    below, middle, above = (2 * rows * a * b for a, b in ((6, 8), (8, 10), (10, 4)))
    down, up = 2 * rows * 8 * rank, 2 * rows * rank * 10
    forward = below + middle + down + up + above
    backward = above + 2 * up + 2 * down  # B's gradient and the bottleneck's, A's gradient, the bottleneck once more
    assert count(make(Rows(), f"lora rank={rank}"), images) == forward + backward
    everything = below + middle + above
    assert count(make(Rows(), "full"), images) == everything + 2 * everything - below  # no gradient of the image


def test_grouped_convolutions_are_counted_by_hand():
    class Maps(nn.Module):
        embedding_size, input_size, adapter_targets, head_targets, checkpoint_blocks = 6, 112, (), (), ()

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, 2, 1, groups=6), nn.AdaptiveAvgPool2d(1))

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.layers(image).flatten(1)

    dense, grouped = 2 * 4 * 112**2 * 3 * 6, 2 * 4 * 56**2 * 6 * 9
    assert count(make(Maps(), "full"), 4) == 2 * dense + 3 * grouped


def test_attention_is_counted_once():
    """Forward two products of queries and keys, or chances and values, a window; backward four. Not the fifth."""
    from recognition.backbones.swin import WindowAttention

    class Windows(nn.Module):
        embedding_size, input_size, adapter_targets, head_targets, checkpoint_blocks = 72, 112, ("attn.qkv",), (), ()

        def __init__(self) -> None:
            super().__init__()
            self.attn = WindowAttention(8, 2, 3)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.attn(image.flatten(1)[:, :144].unflatten(1, (2, 9, 8)), None).flatten(1)

    images, windows, tokens, width = 3, 2, 9, 8
    linear = 2 * images * windows * tokens * width * 4 * width  # qkv and projection
    attention = 2 * images * windows * tokens * tokens * width  # each product, both heads
    of_image = 2 * images * windows * tokens * width * 3 * width
    assert count(make(Windows(), "full"), images) == 3 * linear - of_image + 6 * attention


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_the_naive_layout_has_the_same_numbers(dropout):
    torch.manual_seed(0)
    ours = make(Tiny(), f"dual_lora rank=3 scaling=0.5 dropout={dropout} dropout_at=output")
    naive = twins.two_branches(share(ours))
    found = []
    for model in (ours, naive):
        torch.manual_seed(5)
        one = Steps("", model, "fp32", 4)
        one.loss().backward()
        found.append({n: p.grad for n, p in model.backbone.named_parameters() if p.grad is not None})
        torch.manual_seed(5)
        found.append(one.loss().detach())
    torch.testing.assert_close(found[1], found[3])
    gradients, others = found[0], found[2]
    for name, gradient in gradients.items():
        layer, axis = name.removesuffix(".lora_a").removesuffix(".lora_b"), 0 if name.endswith("lora_a") else 1
        kind = "downs" if axis == 0 else "ups"
        both = torch.cat([others[f"{layer}.{kind}.0"], others[f"{layer}.{kind}.1"]], axis)
        torch.testing.assert_close(gradient, both, rtol=1e-4, atol=1e-6)
    assert len(others) == 2 * len(gradients) > 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_adapter_keeps_at_most_half_of_the_naive_layouts_bytes(precision):
    base = BACKBONES.create("swin_nano")
    ours = make(base, "dual_lora rank=2")
    found = []
    for model in (ours, twins.two_branches(share(ours))):
        kept = Steps("", share(model), precision, 2).kept_bytes()
        found.append(kept - Steps("", twins.tapped(share(model)), precision, 2).kept_bytes())
    assert 0 < found[0] <= found[1] / 2


def test_bytes_of_an_adapter_are_its_input_alone():
    ours = make(Rows(), "dual_lora rank=3")
    kept = Steps("", share(ours), "fp32", 5).kept_bytes()
    mix = 5 * 2 * 3  # a weight for each channel of the bottleneck
    assert kept - Steps("", twins.tapped(share(ours)), "fp32", 5).kept_bytes() == 4 * (5 * 7 * 8 + mix)


class Names(TorchDispatchMode):
    """Lists what torch is asked to do."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["swin_nano", "mobilefacenet_nano"])
@pytest.mark.parametrize("adapter", ["dual_lora", "lora"])
def test_no_loop_over_images_and_no_wait(name, adapter):
    found = []
    for images in (2, 6):
        torch.manual_seed(0)
        one = Steps("", make(BACKBONES.create(name), adapter), "fp32", images)
        with Names() as asked:
            one.step()
        found.append(asked.seen)
    assert found[0] == found[1], "as many operations for two images as for six"
    assert not any("_local_scalar_dense" in name or "nonzero" in name for name in found[0])


def test_nothing_is_kept_or_computed_below_the_first_adapter():
    """The stem and the first block's norm have no gradient, no kept tensor and no node."""
    gate, backbone = Gate(), BACKBONES.create("swin_nano")
    adapters.attach(backbone, ADAPTERS.create("dual_lora"), gate)
    model = FaceModel(backbone, gate, nn.Identity(), frozen_base=True).train()
    seen = {}
    block = backbone.layers[0].blocks[0]
    for place, module in {"stem": backbone.patch_embed, "norm": block.norm1, "after": block.norm2}.items():
        module.register_forward_hook(lambda _, __, out, place=place: seen.update({place: out.requires_grad}))
    model(torch.randn(2, 3, 112, 112), torch.rand(2))
    assert seen == {"stem": False, "norm": False, "after": True}


def test_compiling_is_told_apart(monkeypatch):
    monkeypatch.setattr(FaceModel, "compile", lambda self: None)
    with nameable():
        args = Namespace(backbone="tiny_of_tests", adapters=["lora"], precision=["fp32"], batch=2, compile=True)
        measured, _ = model_step.build(args, torch.device("cpu"))
    assert [one.row for one in measured] == ["lora, fp32", "lora, fp32, compiled"]
    assert measured[1].compile_seconds > 0


@pytest.mark.slow
def test_a_backbone_in_shares_beside_ddp(capsys):
    small = ["--backbone", "mobilefacenet_nano", "--batch", "2", "--repeats", "1", "--device", "cpu"]
    assert benchmark.main(["sharding", *small]) == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[0].strip() for row in rows] == ["", "DDP", "in shares"]
    assert [row[i].strip() for row in rows[1:2] for i in (2, 4, 6)] == ["1.00"] * 3
    assert all(0.1 < float(rows[2][i]) < 100 for i in (2, 4, 6)), "ratios to DDP"
    for wrong, words in (("--batch=0", "must be 1 or more"), ("--backbone=r5", "did you mean 'r50'")):
        assert benchmark.main(["sharding", *small, wrong]) == 1
        assert words in capsys.readouterr().err
