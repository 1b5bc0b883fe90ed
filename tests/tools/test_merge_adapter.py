"""tools/merge_adapter.py: runs and folders into plain weights that every tool reads, and refusals in words."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import adapters
from recognition import config as settings
from recognition import delivery, distributed
from recognition.evaluation.results import load_measures
from recognition.gate import Gate
from recognition.model import FaceModel, assemble, build_backbone
from recognition.runs import load_run
from recognition.weights import read_weights, sha256, write_weights
from tests.training import recipe_with_base
from tools import convert_checkpoint, evaluate
from tools import merge_adapter as door

ROOT = Path(__file__).parents[2]
LORA = ("adapter.name=lora", "adapter.rank=2", "adapter.targets=['**']")
DUAL = ("adapter.name=dual_lora", "adapter.rank=2", "adapter.head=True")


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    with torch.no_grad():
        yield
    distributed.stop()


def finished(folder: Path, *overrides: str, name: str = "run", noise: float = 0.1) -> Path:
    """A run that has ended, its adapter moved away from the start."""
    config = settings.load(recipe_with_base(folder), overrides)
    model = assemble(config).model
    torch.manual_seed(3)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter += noise * torch.randn_like(parameter)
    run = folder / name
    delivery.write_start(run, config, "fingerprint")
    delivery.write_model(run, config, model, "fingerprint")
    return run


def merged(path: Path) -> FaceModel:
    """As tools build a model from a file of weights with its card."""
    read = read_weights(path)
    config = settings.load(ROOT / "configs" / "demo.py", [f"backbone.name={read.card['backbone']}"])
    return FaceModel(build_backbone(config, path)).eval()


def image() -> Tensor:
    torch.manual_seed(5)
    return torch.rand(1, 3, 112, 112) * 2 - 1


def at_gate(model: FaceModel, value: float) -> Tensor:
    with model.gate.scope(torch.full((1,), value)):
        return model.backbone(image())


def close(found: Tensor, wanted: Tensor) -> None:
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def differ(one: Tensor, two: Tensor) -> bool:
    return bool((one - two).abs().max() > 0.1 * two.abs().max())


def test_lora_of_a_run_and_of_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run, out = finished(tmp_path, *LORA), tmp_path / "out" / "plain.safetensors"
    base = tmp_path / "base.safetensors"
    assert door.main([str(run), str(out), "--images", "2"]) == 0
    said = capsys.readouterr().out
    assert "over 2 drawn pictures" in said and "lowest cosine 1.0000" in said and "no adapter" in said
    wanted = load_run(run).embed(image())
    close(merged(out).embed(image()), wanted)
    assert differ(wanted, load_run(run, base=True).embed(image()))
    card = read_weights(out).card
    assert card["backbone"] == "mobilefacenet_nano" and card["arguments"] == {"embedding_size": 32}
    assert card["base_sha256"] == sha256(base) and card["merged"]["adapter"]["name"] == "lora"
    assert 0 <= card["merged"]["largest_error"] < 1e-5 and card["merged"]["gate"] is None
    shutil.move(run / "model", tmp_path / "download")
    again = tmp_path / "again.safetensors"
    assert door.main([str(tmp_path / "download"), str(again)]) == 2
    assert "name the base's weights by --base" in capsys.readouterr().err
    assert door.main([str(tmp_path / "download"), str(again), "--base", str(base), "--images", "1"]) == 0
    first, second = read_weights(out).tensors, read_weights(again).tensors
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    changed = {key: tensor * 1.01 for key, tensor in read_weights(base).tensors.items()}
    write_weights(tmp_path / "other.safetensors", changed, {})
    assert door.main([str(tmp_path / "download"), str(again), "--base", str(tmp_path / "other.safetensors")]) == 2
    assert "was trained on another base" in capsys.readouterr().err


def test_one_gated_adapter_becomes_a_gallery_and_a_probe_model(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = finished(tmp_path, *DUAL)
    assert door.main([str(run), str(tmp_path / "no.safetensors")]) == 2
    said = capsys.readouterr().err
    assert "weighs its branches per image" in said and "--gate 0.2" in said
    model = load_run(run)
    records = str(tmp_path / "train.rec")
    embeddings = []
    for name, gate in (("gallery", 0.9), ("probe", 0.2)):
        out = tmp_path / f"{name}.safetensors"
        assert door.main([str(run), str(out), "--gate", str(gate), "--records", records, "--images", "2"]) == 0
        said = capsys.readouterr().out
        assert f"at gate {gate:g}, over 2 records" in said and "against each picture's own gate" in said
        embeddings.append(merged(out).embed(image()))
        close(embeddings[-1], at_gate(model, gate))
        assert read_weights(out).card["merged"]["gate"] == gate
    assert differ(*embeddings)
    assert not (tmp_path / "no.safetensors").exists()


def test_the_licence_of_the_base_goes_along(tmp_path: Path) -> None:
    run, out = finished(tmp_path, *LORA), tmp_path / "out.safetensors"
    base = tmp_path / "base.safetensors"
    write_weights(base, {k: t.clone() for k, t in read_weights(base).tensors.items()}, {"licence": "CC0"})
    door.merge_adapter(run, out, images=1)
    assert read_weights(out).card["licence"] == "CC0"


def test_other_tools_read_what_it_writes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run, out = finished(tmp_path, *LORA), tmp_path / "plain.safetensors"
    assert door.main([str(run), str(out), "--images", "1"]) == 0
    assert convert_checkpoint.main([str(out), str(tmp_path / "converted.safetensors")]) == 0
    assert read_weights(tmp_path / "converted.safetensors").card["source"] == "plain.safetensors"
    recipe, report = str(tmp_path / "small.py"), str(tmp_path / "report")
    assert evaluate.main([str(out), "--config", recipe, "--output", report, "--set", "low_res=[14]"]) == 0
    of_weights = load_measures(tmp_path / "report" / "weights")["small"]["14"]
    assert evaluate.main([str(run), "--set", "low_res=[14]"]) == 0
    of_run = load_measures(run / "evaluation" / "after")["small"]["14"]
    assert of_weights["accuracy"] == of_run["accuracy"]


def test_a_whole_backbone_and_one_with_norms_trained(tmp_path: Path) -> None:
    full, norms = finished(tmp_path), finished(tmp_path, "adapter.name=norms_only", name="norms")
    for run in (full, norms):
        out = tmp_path / f"{run.name}.safetensors"
        assert door.main([str(run), str(out), "--images", "1"]) == 0
        assert torch.equal(merged(out).embed(image()), load_run(run).embed(image()))
    assert door.main([str(full / "model"), str(tmp_path / "again.safetensors"), "--images", "1"]) == 0
    assert torch.equal(merged(tmp_path / "again.safetensors").embed(image()), load_run(full).embed(image()))


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    bottleneck = finished(tmp_path, "adapter.name=bottleneck", name="bottleneck")
    lora, out = finished(tmp_path, *LORA), tmp_path / "out.safetensors"
    broken = finished(tmp_path, *LORA, name="broken", noise=float("inf"))
    cases = {
        "it cannot be merged; tools/export_onnx.py": [str(bottleneck), str(out)],
        "has no gate: leave --gate out (got 0.5)": [str(lora), str(out), "--gate", "0.5"],
        "leave --base out": [str(lora), str(out), "--base", "x"],
        "not finite": [str(broken), str(out)],
        "is no adapter: wanted a folder": [str(tmp_path / "nowhere"), str(out), "--base", "x"],
    }
    for message, arguments in cases.items():
        assert door.main([*arguments, "--images", "1"]) == 2
        assert message in capsys.readouterr().err
    for message, arguments in {
        "a gate lies in [0, 1]": [str(lora), str(out), "--gate", "1.5"],
        "written as .safetensors": [str(lora), "out.pt"],
        "at least 1": [str(lora), str(out), "--images", "0"],
    }.items():
        with pytest.raises(SystemExit):
            door.main(arguments)
        assert message in capsys.readouterr().err
    assert not out.exists()


def test_other_embeddings_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, out, merge = finished(tmp_path, *LORA), tmp_path / "out.safetensors", adapters.merge

    def wrong(backbone: torch.nn.Module, gate_value: float | None = None) -> None:
        merge(backbone, gate_value)
        next(backbone.parameters()).mul_(1.5)

    monkeypatch.setattr(adapters, "merge", wrong, raising=False)
    with pytest.raises(RuntimeError, match=r"at most 0\.001 wanted: nothing was written"):
        door.merge_adapter(run, out, images=1)
    assert not out.exists()


def test_an_adapter_without_a_gates_settings_merges_on_a_base_that_is_believed(tmp_path: Path) -> None:
    """As one converted from a published file: its card tells neither base nor midpoint."""
    config = settings.load(recipe_with_base(tmp_path))
    base, out = tmp_path / "base.safetensors", tmp_path / "out.safetensors"
    write_weights(
        base, read_weights(base).tensors, {"backbone": "mobilefacenet_nano", "arguments": {"embedding_size": 32}}
    )
    backbone, gate = build_backbone(config, base), Gate()
    adapters.attach(backbone, adapters.ADAPTERS.create("dual_lora", rank=2), gate)
    for key, parameter in backbone.named_parameters():
        if key.endswith("lora_b"):
            parameter.normal_(std=0.1)
    card = {"adapter": "dual_lora", "arguments": {"rank": 2}, "base": "base.safetensors"}
    write_weights(tmp_path / "published_adapter.safetensors", adapters.state(backbone), card)
    source = tmp_path / "published_adapter.safetensors"
    with pytest.raises(ValueError, match="does not tell which base it is of; with any_base=True"):
        door.merge_adapter(source, out, 0.4, base, images=1)
    assert "lowest cosine" in door.merge_adapter(source, out, 0.4, base, images=1, any_base=True)[0]
    close(merged(out).embed(image()), at_gate(FaceModel(backbone, gate).eval(), 0.4))


def test_help_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; from tools.merge_adapter import parse; parse(['--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "--gate" in done.stdout, done.stderr
