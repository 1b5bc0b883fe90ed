"""Backbones: contract over the registry's names, published figures, masks and drops against plain derivations."""

from __future__ import annotations

import json
import math
from functools import cache

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from adapters._targets import find, matching
from recognition.backbones import BACKBONES
from recognition.backbones._layers import DropPath, PReLU
from recognition.backbones.ir import IR
from recognition.backbones.iresnet import IResNet
from recognition.backbones.mobilefacenet import MobileFaceNet
from recognition.backbones.swin import Block, SwinTransformer
from recognition.backbones.vit import VisionTransformer
from recognition.types import COLOUR_ORDER, IMAGE_RANGE, IMAGE_SIZE
from recognition.weights import load_strictly, read_weights, without_memory
from tests.oracles.fill import fill, images

slow = pytest.mark.slow
NAMES = BACKBONES.names()
LARGEST_RUN = 30_000_000  # parameters; larger networks are looked at on the meta device only
PARAMETERS = {
    "r18": 24_025_600,
    "r50": 43_590_848,
    "r100": 65_156_160,
    "vit_b": 113_833_472,
    "swin_120": 213_666_768,
}
ORACLES = [
    ("af_r18", "r18", {}),
    ("af_mbf", "mbf", {}),
    ("af_vit_t", "vit_t", {}),
    pytest.param("af_r34", "r34", {}, marks=slow),
    pytest.param("af_r50", "r50", {}, marks=slow),
    pytest.param("af_r100", "r100", {}, marks=slow),
    pytest.param("af_vit_s", "vit_s", {}, marks=slow),
    pytest.param("petal_swin_256new", "swin_120", {"shift_mask": False}, marks=slow),
]
# Each family at a size that runs in milliseconds.
SMALL = {
    "iresnet": lambda: IResNet((1, 2, 1, 1), 16),
    "ir": lambda: IR((1, 2, 1, 1), (64, 16, 16, 32), 16, excite=True),
    "mobilefacenet": lambda: MobileFaceNet(16, 16, (16, 32, 64, 32), (2, 1, 1, 1), last=64, input_scale=0.9),
    "vit": lambda: VisionTransformer(32, 2, 4, 16, mask_ratio=0.25),
    "swin": lambda: SwinTransformer(60, 6, 16, (2, 1), (2, 4), 5, 16),
}


@cache
def on_meta(name: str) -> nn.Module:
    with without_memory():
        return BACKBONES.create(name)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def pictures(n: int, model: nn.Module) -> Tensor:
    return torch.from_numpy(images(n, model.input_size, 3))


def near(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    return bool((a - b).abs().max() <= tolerance * b.abs().max())


@pytest.fixture(params=SMALL)
def small(request: pytest.FixtureRequest) -> nn.Module:
    return SMALL[request.param]()


@pytest.mark.parametrize("name", NAMES)
def test_declares_layers_that_exist(name):
    model = on_meta(name)
    targets = find(model, model.adapter_targets)
    assert targets.names and not targets.skipped
    head = find(model, model.head_targets)
    assert head.names and all(isinstance(model.get_submodule(layer), nn.Linear) for layer in head.names)
    assert model.get_submodule(head.names[-1]).out_features == model.embedding_size
    modules = [layer for layer, _ in model.named_modules() if layer]
    for pattern in model.checkpoint_blocks:
        assert matching(pattern, modules), pattern
    assert len(model.checkpoint_blocks) > 1


@pytest.mark.parametrize("name", NAMES)
def test_embedding_size_is_an_argument(name):
    with torch.device("meta"):
        model = BACKBONES.create(name, embedding_size=96)
        model.eval()
        assert model.embedding_size == 96
        assert model(torch.empty(2, 3, model.input_size, model.input_size)).shape == (2, 96)


@pytest.mark.parametrize(("name", "number"), PARAMETERS.items())
def test_has_the_published_number_of_parameters(name, number):
    assert count(on_meta(name)) == number


@pytest.mark.parametrize("name", [name for name in NAMES if count(on_meta(name)) < LARGEST_RUN])
def test_an_image_changes_its_own_row_only(name):
    model = BACKBONES.create(name).eval()
    image = pictures(2, model)
    other = image.clone()
    other[0] = image[0].flip(-1)
    with torch.no_grad():
        before, after, alone = model(image), model(other), model(image[1:])
    assert before.shape == (2, model.embedding_size) and alone.shape == (1, model.embedding_size)
    assert before.isfinite().all()
    assert torch.equal(before[1], after[1]) and not torch.allclose(before[0], after[0])
    assert near(alone, before[1:])


@pytest.mark.parametrize(("oracle", "name", "arguments"), ORACLES)
def test_published_figures(oracles, undrawn, oracle, name, arguments):
    shapes = json.loads((oracles / f"{oracle}.keys.json").read_text())
    model = BACKBONES.create(name, **arguments).eval()
    load_strictly(model, {key: torch.from_numpy(fill(key, tuple(shape))) for key, shape in shapes.items()}, oracle)
    wanted = torch.from_numpy(np.load(oracles / f"{oracle}.npz")["embeddings"])
    with torch.no_grad():
        embedding = model(torch.from_numpy(images(2, model.input_size, 7)))
    assert near(embedding, wanted, 1e-4)


def test_published_figures_of_mobilefacenet_y1(oracles, real_data):
    assert COLOUR_ORDER == "RGB" and IMAGE_RANGE == (-1, 1) and IMAGE_SIZE == 112
    path = real_data / "weights" / "mobilefacenet_y1-0000.params"
    model = BACKBONES.create("mobilefacenet_y1").eval()
    load_strictly(model, read_weights(path).tensors, path)
    with np.load(oracles / "mobilefacenet_y1.npz") as oracle:
        image, wanted = torch.from_numpy(oracle["images_rgb_u8"]), torch.from_numpy(oracle["embeddings"])
    with torch.no_grad():
        assert near(model(image.float() / 127.5 - 1), wanted, 1e-4)


def test_nano_is_small_enough_to_ship():
    model = BACKBONES.create("mobilefacenet_nano")
    assert model.embedding_size == 128 and model.input_scale == 1
    assert sum(t.numel() * t.element_size() for t in model.state_dict().values()) < 2_700_000


def test_every_trained_parameter_gets_a_gradient(small):
    small.train()(pictures(4, small)).square().sum().backward()
    without = [name for name, p in small.named_parameters() if p.requires_grad and p.grad is None]
    assert not without, "DDP would wait for these"


def test_eval_repeats_itself_and_training_follows_the_seed(small):
    image = pictures(3, small)
    random = isinstance(small, VisionTransformer | SwinTransformer | IR)
    with torch.no_grad():
        small.eval()
        assert torch.equal(small(image), small(image))
        small.train()
        runs = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            runs.append(small(image))
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2]) != random


def test_bfloat16(small):
    small.eval()
    image = pictures(2, small)
    with torch.no_grad():
        exact = small(image)
        rounded = small.to(torch.bfloat16)(image.bfloat16())
    assert rounded.dtype == torch.bfloat16
    assert torch.cosine_similarity(rounded.float(), exact).min() > 0.99


@slow
@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_compiles_as_one_graph(small, mode, uncollected):
    torch._dynamo.reset()
    small.train(mode)
    compiled = torch.compile(small, fullgraph=True, backend="eager")  # the second batch makes its axis dynamic
    for batch in (2, 5):
        image = pictures(batch, small)
        embedding = compiled(image)
        assert embedding.shape == (batch, 16)
        if not mode:
            assert near(embedding, small(image))


def test_exports_with_a_free_batch_axis(small, tmp_path):
    small.eval()
    path = tmp_path / "network.onnx"
    axes = {"image": {0: "batch"}}
    torch.onnx.export(small, (pictures(2, small),), path, dynamo=False, input_names=["image"], dynamic_axes=axes)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (1, 2, 7):
        image = pictures(batch, small)
        with torch.no_grad():
            wanted = small(image)
        assert near(torch.from_numpy(session.run(None, {"image": image.numpy()})[0]), wanted, 1e-4)


def test_vit_masks_tokens_while_training_only():
    model = VisionTransformer(32, 2, 4, 16, drop_path=0.0, mask_ratio=0.25)
    with torch.no_grad():
        model.mask_token.fill_(7)
        model.pos_embed.mul_(50)
    seen, filled = [], []
    model.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.feature.register_forward_pre_hook(lambda _, inputs: filled.append(inputs[0].unflatten(1, (144, 32))))
    image = pictures(3, model)
    model.train()(image)
    model.eval()(image)
    assert [x.shape[1] for x in seen] == [108, 144]
    hidden = (filled[0] == 7).all(-1)
    assert hidden.sum(1).tolist() == [36, 36, 36] and not torch.equal(hidden[0], hidden[1])
    assert not (filled[1] == 7).all(-1).any()
    # A token that is seen stays at its own place: there it is nearer to its own unmasked self than to any other.
    plain = filled[1]
    for i in range(3):
        places = (~hidden[i]).nonzero().flatten()
        assert torch.equal(torch.cdist(filled[0][i, places], plain[i]).argmin(1), places)


def test_vit_without_masking_leaves_its_token_out():
    model = VisionTransformer(32, 2, 4, 16, mask_ratio=0.0)
    assert not model.mask_token.requires_grad
    model.train()(pictures(2, model)).sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    with pytest.raises(ValueError, match="mask_ratio"):
        VisionTransformer(32, 2, mask_ratio=1.0)


def test_drop_path_drops_whole_images():
    drop = DropPath(0.25)
    x = torch.ones(4000, 3, 2)
    y = drop.train()(x)
    kept = y[:, 0, 0] > 0
    assert torch.equal(y, torch.where(kept[:, None, None], x / 0.75, 0 * x))
    assert abs(kept.float().mean().item() - 0.75) < 5 * math.sqrt(0.25 * 0.75 / 4000)
    assert drop.eval()(x) is x
    with pytest.raises(ValueError, match="drop_path"):
        DropPath(1.0)


def plain_attention(block: Block, x: Tensor, masked: bool) -> Tensor:
    """Attention of each token over those of its window, one by one. x: (S, S, C) float64."""
    side, window, shift, heads = x.shape[0], block.window, block.shift, block.attn.heads
    table = block.attn.relative_position_bias_table.view(2 * window - 1, 2 * window - 1, heads)
    query, key, value = block.attn.qkv(x).view(side, side, 3, heads, -1).unbind(2)
    out = torch.zeros_like(query)
    for r in range(side):
        for c in range(side):
            # The grid of windows starts `shift` tokens in, and wraps around.
            inside_r, inside_c = (r - shift) % side % window, (c - shift) % side % window
            logits, values = [], []
            for i in range(window):
                for j in range(window):
                    other_r, other_c = (r - inside_r + i) % side, (c - inside_c + j) % side
                    wraps = abs(other_r - r) != abs(i - inside_r) or abs(other_c - c) != abs(j - inside_c)
                    if masked and wraps:
                        continue
                    bias = table[inside_r - i + window - 1, inside_c - j + window - 1]
                    logits.append((query[r, c] * key[other_r, other_c]).sum(-1) / math.sqrt(query.shape[-1]) + bias)
                    values.append(value[other_r, other_c])
            weight = torch.stack(logits).softmax(0)  # (neighbours, heads)
            out[r, c] = (weight.unsqueeze(-1) * torch.stack(values)).sum(0)
    return block.attn.proj(out.flatten(2))


@pytest.mark.parametrize(("shift", "shift_mask"), [(0, True), (1, True), (1, False)])
def test_swin_windows_against_a_plain_derivation(shift, shift_mask):
    block = Block(8, 6, 2, 3, shift, 0.0, shift_mask).double()
    nn.init.normal_(block.attn.relative_position_bias_table)
    nn.init.normal_(block.attn.qkv.weight)
    x = torch.randn(2, 6, 6, 8, dtype=torch.float64)
    with torch.no_grad():
        wanted = torch.stack([plain_attention(block, image, masked=shift_mask) for image in x])
        assert near(block._attend(x), wanted, 1e-10)


def test_swin_windows_stay_grouped_by_image():
    model = SMALL["swin"]().eval()
    rows = {}
    for name in find(model, model.adapter_targets).names:
        layer = model.get_submodule(name)
        layer.register_forward_hook(lambda _, inputs, output, name=name: rows.setdefault(name, []).append(inputs[0]))
    image = pictures(3, model)
    changed = image.clone()
    changed[1] = -image[1]
    with torch.no_grad():
        model(image)
        model(changed)
    for name, (before, after) in rows.items():
        same = (before == after).unflatten(0, (3, -1)).flatten(1).all(1)
        assert same.tolist() == [True, False, True], name


def test_swin_refuses_an_image_that_windows_do_not_tile():
    with pytest.raises(ValueError, match="120"):
        SwinTransformer(120, 6, window=4)


def test_derived_buffers_are_not_saved():
    keys = on_meta("swin_120").state_dict()
    assert not [key for key in keys if key.endswith(("relative_position_index", "attn_mask"))]


@pytest.mark.parametrize("shape", [(3, 4), (2, 4, 5, 3)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_prelu_has_torchs_value_and_gradients(shape, layout):
    if len(shape) == 2 and layout is torch.channels_last:
        pytest.skip("channels_last is a layout of four axes")
    ours, theirs = PReLU(4).double(), nn.PReLU(4).double()
    slopes = torch.tensor([0.25, 0.0, -0.5, 2.0], dtype=torch.float64)
    x = torch.randn(shape, dtype=torch.float64).contiguous(memory_format=layout)
    x.flatten()[0] = 0.0
    found = []
    for layer in (ours, theirs):
        layer.weight.data.copy_(slopes)
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        y.pow(3).sum().backward()
        found.append((y, leaf.grad, layer.weight.grad))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(ours, torch.randn(shape, dtype=torch.float64, requires_grad=True))
