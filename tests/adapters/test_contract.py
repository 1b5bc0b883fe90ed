"""What every registered adapter promises, tested on what it declares: a new file in adapters/ is tested by existing."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from adapters import ADAPTERS, attach, layers, load, merge, state
from recognition.activation_checkpoint import checkpoint_blocks
from recognition.gate import Gate
from tests.launch import run_processes
from tests.tiny import Scoped, Tiny, TinyViT

NAMES = ADAPTERS.names()
ON_TWO = os.environ.get("LRFACE_ADAPTERS_ON_TWO", "").split() or NAMES  # of test_two_processes_equal_one
GATED = [name for name in NAMES if ADAPTERS.get(name).needs_gate]
FROZEN = [name for name in NAMES if ADAPTERS.get(name).freezes_base]
OPTIONS = {  # beside the defaults, which every adapter is tested with
    "lora": [{"rank": 2, "alpha": 6.0, "targets": ["**"]}, {"rank": 3, "head_rank": 2}],
    "dual_lora": [
        {"rank": 2, "scaling": 2.0, "targets": ["**"]},
        {"rank": 3, "head": True},
        {"alpha": 2.0, "scaling_rule": "rank_stabilized", "ranks": {"pointwise": 3}, "head": True, "gated": False},
    ],
    "mixture_lora": [{"branches": 3, "rank": 2, "targets": ["**"]}, {"branches": 2, "head": True, "init": "kaiming"}],
    "dora": [{"rank": 2, "alpha": 4.0, "targets": ["**"]}, {"rank": 3, "head_rank": 2, "init": "kaiming"}],
    "norms_only": [{"biases": False}, {"alive": True}],
    "partial": [{"blocks": 2, "head": False}, {"alive": True}],
    "bottleneck": [
        {"place": "blocks", "width": 3},
        {"place": "blocks", "form": "parallel", "scaling": 0.1, "modules": ["blocks.*.attn", "blocks.1"]},
        {"place": "blocks", "modules": ["stem", "blocks.0.mlp.0"]},
        {"width": 5},
    ],
    "prompt": [{"deep": True}, {"tokens": 1, "deep": True}],
    "vera": [{"rank": 7, "seed": 3, "targets": ["**"]}, {"rank": 300, "head": True}],
    "gs_lora": [{"rank": 2, "alpha": 4.0, "targets": ["**"], "sparsity": 0.1}, {"sparsity": 0.0, "init": "gaussian"}],
    "moe": [{"experts": 4, "top_k": 1, "mixing": "logits", "targets": ["**"]}, {"train": "all"}],
}
EXPORTED_LIKE = {  # the same graph but for numbers, to torch.export, which takes seconds; by trace all are exported
    **dict.fromkeys(("norms_only", "partial", "head_only"), "full"),
    **dict.fromkeys(("lora", "gs_lora", "vera"), "dora"),
    "dual_lora": "mixture_lora",
}
CASES = [(name, options) for name in NAMES for options in [{}, *OPTIONS.get(name, [])]]


def takes(kind: type[nn.Module], name: str) -> bool:
    try:
        attach(kind(), ADAPTERS.create(name), Gate())
    except ValueError:
        return False
    return True


# The tiny backbone that each adapter is tested on: the first that it does not refuse.
KIND = {name: next((kind for kind in (Tiny, TinyViT) if takes(kind, name)), Tiny) for name in NAMES}


def base(name: str) -> nn.Module:
    torch.manual_seed(1)
    return KIND[name]()


def build(
    name: str,
    options: dict | None = None,
    started: bool = False,
    dtype: torch.dtype = torch.float32,
    blocks: int | None = None,
) -> Scoped:
    """The tiny backbone with the adapter, its modes as in training. started: moved away from the first step.

    blocks: so many of its alike ones only.
    """
    backbone, gate = base(name).to(dtype), Gate()
    del backbone.blocks[len(backbone.blocks) if blocks is None else blocks :]
    adapter = ADAPTERS.create(name, **(options or {}))
    attach(backbone, adapter, gate)
    if started:
        with torch.no_grad():
            for parameter in backbone.parameters():
                if parameter.requires_grad:
                    parameter += 0.1 * torch.randn(parameter.shape, dtype=dtype)
    return in_training(Scoped(backbone, gate), adapter)


def in_training(model: Scoped, adapter) -> Scoped:
    model.eval()
    for _, layer in layers(model.backbone):
        layer.train()
    return model


def draw(batch: int = 3, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, 3, 16, 16, dtype=dtype), torch.linspace(-0.2, 1.3, batch)


def train_step(model: Scoped, x: Tensor, value: Tensor) -> None:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(x, value).square().mean().backward()
    optimizer.step()


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    trained = {key: parameter for key, parameter in model.named_parameters() if parameter.requires_grad}
    return dict(zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True))


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    assert found.keys() == wanted.keys()
    for key in wanted:
        scale = wanted[key].abs().max().item()
        torch.testing.assert_close(found[key], wanted[key], rtol=0, atol=tolerance * max(scale, 1e-3), msg=key)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_first_output_is_the_bases_bit_for_bit(name: str, options: dict) -> None:
    if not ADAPTERS.create(name, **options).identity_at_start:
        pytest.skip("the adapter declares another start")
    x, value = draw()
    model = build(name, options).eval()
    assert torch.equal(model(x, value), base(name).eval()(x))
    assert any(not torch.equal(a, b) for a, b in zip(base(name).parameters(), KIND[name]().parameters(), strict=True))


@pytest.mark.parametrize(("name", "options"), CASES)
def test_base_keys_and_values_stay(name: str, options: dict) -> None:
    if not ADAPTERS.get(name).keeps_base_keys:
        pytest.skip("the adapter declares other keys")
    before, after = base(name).state_dict(), build(name, options).backbone.state_dict()
    assert [key for key in after if key in before] == list(before), "same keys in the same order"
    for key, tensor in before.items():
        assert torch.equal(after[key], tensor), key


@pytest.mark.parametrize("name", FROZEN)
def test_only_the_adapters_own_parameters_train(name: str) -> None:
    backbone = build(name).backbone
    adapted = tuple(f"{key}." for key, _ in layers(backbone))
    trained = {key for key, parameter in backbone.named_parameters() if parameter.requires_grad}
    assert trained and trained <= state(backbone).keys()
    assert all(key.startswith(adapted) for key in trained), "every trained parameter stands in a reported layer"


def test_asking_for_names_imports_no_torch() -> None:
    script = "import sys, adapters; adapters.ADAPTERS.names(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], timeout=60).returncode == 0


@pytest.mark.parametrize("name", FROZEN)
def test_a_frozen_base_stands_still_over_training_steps(name: str) -> None:
    model, before = build(name), base(name).state_dict()
    for _ in range(2):
        train_step(model, *draw(8))
    after = model.backbone.state_dict()
    own = state(model.backbone)
    for key, tensor in before.items():
        replaced = key not in after and not ADAPTERS.get(name).keeps_base_keys
        assert replaced or key in own or torch.equal(after[key], tensor), f"{key} moved"
    moved = [key for key in own if not torch.equal(own[key], build(name).backbone.state_dict()[key])]
    assert moved, "something trains"


@pytest.mark.parametrize("name", FROZEN)
def test_dropout_and_droppath_of_a_frozen_base_are_off(name: str) -> None:
    model, (x, value) = build(name, started=True), draw()
    assert torch.equal(model(x, value), model(x, value))


@pytest.mark.parametrize(("name", "options"), CASES)
def test_state_saves_loads_and_is_small(name: str, options: dict, tmp_path: Path) -> None:
    x, value = draw()
    trained, fresh = build(name, options, started=True).eval(), build(name, options).eval()
    wanted = trained(x, value)
    assert not torch.equal(fresh(x, value), wanted)
    save_file(state(trained.backbone), tmp_path / "adapter.safetensors")
    load(fresh.backbone, load_file(tmp_path / "adapter.safetensors"))
    assert torch.equal(fresh(x, value), wanted)
    kept = set(state(trained.backbone))
    everything = {key for key in trained.backbone.state_dict() if not key.endswith("num_batches_tracked")}
    assert kept < everything if ADAPTERS.create(name, **options).freezes_base else kept == everything


@pytest.mark.parametrize("name", NAMES)
def test_a_state_that_does_not_fit_is_refused_and_nothing_changes(name: str) -> None:
    model = build(name)
    before = copy.deepcopy(model.backbone.state_dict())
    tensors = state(build(name, started=True).backbone)
    first = next(iter(tensors))
    wrong = {**tensors, f"{first}x": tensors[first], first: tensors[first].new_zeros(7, 7, 7)}
    with pytest.raises(ValueError, match=rf"'{first}x' is not expected \(nearest: '{first}'\).*shape \(7, 7, 7\)"):
        load(model.backbone, wrong)
    del wrong[first]
    with pytest.raises(ValueError, match=f"'{first}' is missing"):
        load(model.backbone, wrong)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.backbone.state_dict().items())


@pytest.mark.parametrize(("name", "options"), CASES)
def test_merged_weights_give_the_same_output(name: str, options: dict) -> None:
    kind = ADAPTERS.create(name, **options).mergeable
    model = build(name, options, started=True, dtype=torch.float64).eval()
    x, value = draw(dtype=torch.float64)
    if kind == "none":
        with pytest.raises(ValueError, match="cannot be merged"):
            merge(model.backbone)
        return
    gate_value = 0.3 if kind == "at_gate" else None
    if kind == "at_gate":
        value = torch.full((3,), gate_value, dtype=torch.float64)
    wanted = model(x, value)
    assert (wanted - base(name).double().eval()(x)).abs().max() > 1e-3
    wrong = 0.3 if gate_value is None else None
    with pytest.raises(ValueError, match="gate_value"):
        merge(model.backbone, wrong)
    merge(model.backbone, gate_value)
    assert (model.backbone(x) - wanted).abs().max() < 1e-10
    assert list(model.backbone.state_dict()) == list(base(name).state_dict())
    assert all(type(a) is type(b) for a, b in zip(model.backbone.modules(), base(name).modules(), strict=True))
    assert all(parameter.requires_grad for parameter in model.backbone.parameters())
    attach(model.backbone, ADAPTERS.create(name, **options), model.gate)  # and again


def one(model: nn.Module, x: Tensor, value: Tensor) -> Tensor:
    return model(x, value).square().sum()


def two(model: nn.Module, x: Tensor, value: Tensor) -> Tensor:
    return one(model, x, value) + 3 * one(model, x.flip(0), 1 - value)


def one_with_another_between(model: nn.Module, x: Tensor, value: Tensor) -> Tensor:
    loss = one(model, x, value)
    model(x.flip(0), 5 * value)
    return loss


@pytest.mark.parametrize("loss", [one, two, one_with_another_between])
@pytest.mark.parametrize("name", NAMES)
def test_same_gradients_with_checkpointing(name: str, loss) -> None:
    (x, value), found = draw(), []
    for checkpointed in (False, True):
        model = build(name, started=True).eval()  # no dropout, so that both draw the same
        torch.manual_seed(2)
        if checkpointed:
            checkpoint_blocks(model.backbone, model.gate, model.backbone.checkpoint_blocks)
        found.append(gradients(model, loss(model, x, value)))
    assert_same(found[1], found[0])


@pytest.mark.parametrize("name", NAMES)
def test_compiles_as_one_graph_and_follows_another_gate(name: str, uncollected: None) -> None:
    model, graphs = build(name, started=True).eval(), []

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend=count)
    for batch in (3, 4, 5):
        x, value = draw(batch)
        for v in (value, 1 - value):
            torch.testing.assert_close(compiled(x, v), model(x, v))
    assert len(graphs) <= 2
    assert_same(gradients(model, two(compiled, x, value)), gradients(model, two(model, x, value)))


@pytest.mark.parametrize("name", GATED)
def test_an_images_gate_moves_its_own_row_only(name: str) -> None:
    model, (x, value) = build(name, {"targets": ["**"]}, started=True).eval(), draw(4)
    moved = value.clone()
    moved[0] += 0.25
    assert (model(x, moved) != model(x, value)).any(1).tolist() == [True, False, False, False]


@pytest.mark.parametrize("name", GATED)
def test_outside_a_scope_it_raises_in_words(name: str) -> None:
    with pytest.raises(RuntimeError, match="ran without a gate: call the FaceModel"):
        build(name).backbone(draw()[0])


@pytest.mark.parametrize("name", [n for n in NAMES if "targets" in ADAPTERS.signature(n)])
def test_a_wrong_target_raises_with_neighbours_and_leaves_the_layers(name: str) -> None:
    backbone = base(name)
    adapter = ADAPTERS.create(name, targets=["pointwise", "blocks.*.attn.qvk"])
    with pytest.raises(ValueError, match=r"'blocks\.\*\.attn\.qvk' names no .*'blocks\.\*\.attn\.qkv'"):
        attach(backbone, adapter, Gate())
    assert type(backbone.pointwise) is nn.Conv2d


@pytest.mark.parametrize("name", FROZEN)
def test_no_backward_below_the_first_adapted_layer(name: str) -> None:
    model, (x, value), needs = build(name, started=True), draw(), {}
    adapted = {key for key, _ in layers(model.backbone)}
    for key, module in model.backbone.named_modules():
        if key in adapted or not list(module.children()):
            module.register_forward_hook(lambda _m, _i, out, key=key: needs.update({key: needs.get(key, out)}))
    embedding = model(x, value)
    needs = {key: first_output.requires_grad for key, first_output in needs.items()}
    first = next(i for i, key in enumerate(needs) if any(key == a or key.startswith(f"{a}.") for a in adapted))
    assert not any(list(needs.values())[:first]), "a frozen layer below the first adapted one keeps a graph"
    assert embedding.requires_grad and list(needs.values())[first]


@pytest.mark.parametrize("name", NAMES)
def test_a_second_adapter_is_refused(name: str) -> None:
    model = build(name)
    with pytest.raises(RuntimeError, match=r"carries a .* already"):
        attach(model.backbone, ADAPTERS.create(name), model.gate)


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_stands_alone(name: str) -> None:
    model, (x, value) = build(name, started=True).eval(), draw()
    twin, wanted = copy.deepcopy(model), model(x, value)
    train_step(twin, x, value)
    assert torch.equal(model(x, value), wanted) and not torch.equal(twin(x, value), wanted)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dynamo"),
    [(name, dynamo) for name in NAMES for dynamo in (False, True) if not dynamo or name not in EXPORTED_LIKE],
)
def test_exports_to_onnx_with_any_batch_and_follows_another_gate(
    name: str, dynamo: bool, tmp_path: Path, uncollected: None
) -> None:
    everywhere = {"targets": ["**"]} if "targets" in ADAPTERS.signature(name) else {}
    blocks = 1 if dynamo else None  # it takes seconds for each
    model = build(name, everywhere, started=True, blocks=blocks).eval()
    checkpoint_blocks(model.backbone, model.gate, model.backbone.checkpoint_blocks)
    path, example = str(tmp_path / "model.onnx"), draw(2)
    names = {"input_names": ["image", "gate"], "output_names": ["embedding"]}
    if dynamo:
        batch = torch.export.Dim("batch", min=1)
        shapes = {"image": {0: batch}, "value": {0: batch}}
        options = {"dynamo": True, "dynamic_shapes": shapes, "opset_version": 18, "verbose": False}
    else:
        options = {"dynamo": False, "dynamic_axes": {key: {0: "batch"} for key in ("image", "gate", "embedding")}}
    with torch.no_grad():
        torch.onnx.export(model, example, path, **names, **options)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    fed = {tensor.name for tensor in session.get_inputs()}
    assert ("gate" in fed) == ADAPTERS.get(name).needs_gate or fed == {"image", "gate"}
    for size in (1, 2, 7):
        x, value = draw(size)
        for v in (value, 1 - value):
            inputs = {k: t.numpy() for k, t in (("image", x), ("gate", v)) if k in fed}
            found = session.run(None, inputs)[0]
            with torch.no_grad():
                np.testing.assert_allclose(found, model(x, v).numpy(), atol=2e-5)


def ddp_gradients(rank: int, x: Tensor, value: Tensor) -> dict[str, dict[str, Tensor]]:
    found = {}
    for name in ON_TWO:
        model = build(name, started=True).eval()
        wrapped = DistributedDataParallel(model)
        mine = slice(2 * rank, 2 * rank + 2)
        two(wrapped, x[mine].clone(), value[mine]).backward()
        found[name] = {key: p.grad for key, p in model.named_parameters() if p.requires_grad}
        del wrapped
    return found


@pytest.mark.slow
def test_two_processes_equal_one() -> None:
    x, value = draw(4)
    wanted = {}
    for name in ON_TWO:
        model = build(name, started=True).eval()
        loss = (two(model, x[:2], value[:2]) + two(model, x[2:], value[2:])) / 2
        wanted[name] = gradients(model, loss)
    for found in run_processes(2, ddp_gradients, x, value):
        for name in ON_TWO:
            assert_same(found[name], wanted[name])
