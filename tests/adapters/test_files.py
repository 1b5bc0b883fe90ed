"""An adapter's folder: what it holds, what its README says, folders from before, and faults in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import adapters
from adapters import ADAPTERS, attach, load, read_folder, state, whole_arguments, write_folder
from adapters._files import GATE
from recognition import config as settings
from recognition import delivery, model, runs, weights
from recognition.evaluation.results import save_results
from recognition.gate import Gate
from recognition.hashes import DERIVED
from tests.tiny import Tiny, TinyViT
from tests.training import recipe_with_base

MEASURED = {
    "lfw": {
        "112": {"accuracy": {"value": 0.9, "lo": 0.85, "hi": 0.95}, "tar@0.01": {"value": 0.5, "lo": None, "hi": None}},
        "112-14": {"accuracy": {"value": 0.7, "lo": 0.6, "hi": 0.8}},
    }
}
CARD = {
    "backbone": "tiny",
    "arguments": {"width": 16},
    "adapter": {"name": "dual_lora", "rank": 2},
    "base_weights": "weights/base.safetensors",
    "base_sha256": "a" * 64,
    "base_tensors_sha256": "b" * 64,
    "gate": {"midpoint": 1.5, "slope": 0.25, "shape": "linear"},
    "scorer": {"name": "sharpness"},
    "preprocessing": {"colour_order": "RGB", "image_range": [-1.0, 1.0], "image_size": 112, "input_size": 120},
    "records": "c" * 64,
    "results": {"before": {"lfw": {"112": {"accuracy": {"value": 0.8, "lo": 0.7, "hi": 0.9}}}}, "after": MEASURED},
    "licence": "CC0",
    "lrface": "0.1.0",
}


def made(name: str = "dual_lora", kind: type = Tiny, **options: object) -> torch.nn.Module:
    backbone = kind()
    attach(backbone, ADAPTERS.create(name, **options), Gate())
    return backbone


def test_names_that_stand_in_two_places_agree() -> None:
    assert model.GATE == GATE and weights.DERIVED == DERIVED
    assert f"{delivery.FOLDER}/{adapters._files.TENSORS}" == delivery.MODEL


def test_what_is_written_is_read(tmp_path: Path) -> None:
    backbone = made(rank=2)
    tensors = state(backbone) | {f"{GATE}midpoint": torch.tensor(1.5), f"{GATE}slope": torch.tensor(0.25)}
    path = write_folder(tmp_path / "run" / "model", tensors, CARD)
    assert sorted(file.name for file in path.parent.iterdir()) == ["README.md", "adapter.json", "adapter.safetensors"]
    for place in (path, path.parent, tmp_path / "run"):
        found = read_folder(place)
        assert (found.name, found.arguments) == ("dual_lora", {"rank": 2}) and found.path == path
        assert {key: value.item() for key, value in found.gate.items()} == {"midpoint": 1.5, "slope": 0.25}
        assert found.card == {"format": 1, **CARD}
        load(backbone, found.tensors)


def test_the_readme_says_it_to_people(tmp_path: Path) -> None:
    write_folder(tmp_path, state(made(rank=2)), CARD)
    text = (tmp_path / "README.md").read_text()
    wanted = (
        "# tiny: dual_lora\n",
        "| adapter | `dual_lora` rank=2 |",
        "| backbone | `tiny` width=16 |",
        "| base | `weights/base.safetensors` |",
        f"| base, SHA-256 of the file | `{'a' * 64}` |",
        f"| trained on records | `{'c' * 64}` |",
        "aligned, 112 x 112 px, resized inside to 120, RGB, values in [-1, 1]",
        '| gate | midpoint=1.5, slope=0.25, shape="linear"; 0 = low quality, 1 = high |',
        '| scorer | name="sharpness", of what the network sees |',
        "| lfw, accuracy | 112 | 112-14 |\n|---|---|---|\n| base | 80.0 [70.0, 90.0] | – |\n"
        "| with the adapter | 90.0 [85.0, 95.0] | 70.0 [60.0, 80.0] |\n",
        "| lfw, tar@0.01 | 112 |\n|---|---|\n| base | – |\n| with the adapter | 50.0 |\n",
        "## Use\n\n```python\nfrom lrface import LRFace\n",
        'model = LRFace.load("THIS_FOLDER", "BASE.safetensors")\nembeddings = model.embed(',
        "load_adapters(",
        "Of the base: CC0.",
    )
    for part in wanted:
        assert part in text, part
    write_folder(tmp_path, state(made("full")), {"backbone": "tiny", "adapter": {"name": "full"}})
    text = (tmp_path / "README.md").read_text()
    assert "None were measured." in text and "not stated by its file" in text and "config.backbone.weights" in text
    assert "scorer" not in text and "trained from random weights" in text
    assert 'model = LRFace.load("THIS_FOLDER")\n' in text


def test_arguments_are_kept_with_their_defaults() -> None:
    found = whole_arguments("dual_lora", {"rank": 3})
    assert found["rank"] == 3 and found["dropout_at"] == "input" and found["targets"] is None
    assert whole_arguments("full", {}) == {}
    for name in ADAPTERS.names():
        ADAPTERS.create(name, **json.loads(json.dumps(whole_arguments(name, {}))))


@pytest.mark.parametrize("name", ADAPTERS.names())
def test_every_adapter_is_planned_without_memory(name: str) -> None:
    """So that sizes in a card cost nothing before its tensors bear them out."""
    faults = []
    for kind in (Tiny, TinyViT):
        try:
            real = made(name, kind)
        except ValueError as error:  # it does not fit this one
            faults.append(error)
            continue
        with torch.device("meta"):
            plan = made(name, kind)
        assert all(tensor.is_meta for tensor in plan.state_dict().values())
        adapters.check(plan, state(real))
        return
    raise AssertionError(faults)


def test_folders_from_before_and_converted_files_are_read(tmp_path: Path) -> None:
    tensors = state(made("lora"))
    save_file(tensors, tmp_path / "adapter.safetensors")
    old = {"backbone": "tiny", "arguments": {}, "base_sha256": "d" * 64, "adapter": {"name": "lora", "rank": 8}}
    (tmp_path / "adapter.json").write_text(json.dumps(old))
    assert read_folder(tmp_path).card == old and read_folder(tmp_path).gate == {}
    save_file(tensors, tmp_path / "petal_adapter.safetensors")
    (tmp_path / "petal_adapter.json").write_text(json.dumps({"adapter": "lora", "arguments": {"rank": 8}}))
    found = read_folder(tmp_path / "petal_adapter.safetensors")
    assert (found.name, found.arguments) == ("lora", {"rank": 8}) and "arguments" not in found.card


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("[1]", "a JSON list, not an object"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        (" " * 9_000_000, "9,000,000 bytes"),
        ('{"format": 2}', "its format is 2; this version reads 1"),
        ("{}", "its entry adapter is None"),
        ('{"adapter": {"rank": 3}}', "its entry adapter is {'rank': 3}"),
        ('{"adapter": {"name": "lroa"}}', "unknown adapter 'lroa'; did you mean 'lora'"),
        ('{"adapter": {"name": "lora", "rnak": 3}}', "unexpected argument 'rnak'"),
        ('{"adapter": {"name": "lora"}, "base_sha256": 3}', "its entry base_sha256 is 3; wanted a str"),
        ('{"adapter": {"name": "lora"}, "gate": []}', r"its entry gate is \[\]; wanted a dict"),
    ],
)
def test_a_card_that_is_none_is_refused(card: str, message: str, tmp_path: Path) -> None:
    write_folder(tmp_path, state(made("lora")), {"adapter": {"name": "lora"}})
    (tmp_path / "adapter.json").write_text(card)
    with pytest.raises(ValueError, match=f"adapter\\.json: .*{message}"):
        read_folder(tmp_path)


def test_damaged_and_missing_files_are_refused(tmp_path: Path) -> None:
    path = write_folder(tmp_path, state(made("lora")), {"adapter": {"name": "lora"}})
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="damaged or cut short"):
        read_folder(tmp_path)
    (tmp_path / "adapter.json").unlink()
    with pytest.raises(ValueError, match=r"adapter\.json: there is no such file"):
        read_folder(tmp_path)
    with pytest.raises(ValueError, match="is no adapter: wanted a folder"):
        read_folder(tmp_path / "nowhere")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run of dual_lora that has ended, its adapter moved away from the start."""
    return finished(tmp_path, "adapter.name=dual_lora", "adapter.rank=2", "gate.midpoint=0.25")


def finished(folder: Path, *overrides: str, name: str = "run") -> Path:
    config = settings.load(recipe_with_base(folder), overrides)
    made = model.assemble(config).model
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    run = folder / name
    items = {"correct": torch.tensor([True]).numpy(), "same": torch.tensor([True]).numpy()}
    measured = {"lfw": {side: {**found, "pairs": 1, "items": items} for side, found in MEASURED["lfw"].items()}}
    save_results(run / "report" / "after", measured)
    delivery.write_start(run, config, "fingerprint")
    delivery.write_model(run, config, made, "fingerprint")
    return run


def test_a_run_delivers_the_whole_card(run: Path, tmp_path: Path) -> None:
    found, base = read_folder(run), tmp_path / "base.safetensors"
    card = found.card
    assert found.arguments["rank"] == 2 and found.arguments["dropout_at"] == "input"
    assert card["backbone"] == "mobilefacenet_nano" and card["arguments"] == {"embedding_size": 32}
    assert card["base_sha256"] == weights.sha256(base)
    assert card["base_tensors_sha256"] == adapters.hash_tensors(load_file(base))
    assert card["gate"] == {"midpoint": 0.25, "slope": 0.7, "shape": "linear"} and card["records"] == "fingerprint"
    assert card["scorer"] == {"name": "sharpness"} and card["results"] == {"after": MEASURED}
    assert f"{GATE}midpoint" in card["buffers"] and not any(key.endswith("lora_a") for key in card["buffers"])
    assert card["preprocessing"]["image_size"] == card["preprocessing"]["input_size"] == 112
    assert "| with the adapter | 90.0 [85.0, 95.0] |" in (run / "model" / "README.md").read_text()


@torch.no_grad()
def test_the_base_of_a_run_is_known_by_file_and_by_tensors(run: Path, tmp_path: Path) -> None:
    base = tmp_path / "base.safetensors"
    image = torch.rand(1, 3, 112, 112) * 2 - 1
    wanted = runs.load_run(run).embed(image)
    tensors = {key: tensor.clone() for key, tensor in load_file(base).items()}
    torch.save(tensors, base)  # the same weights in another kind of file, by the same name
    assert torch.equal(runs.load_run(run).embed(image), wanted)
    tensors["conv_sep.layers.0.weight"][0] += 0.01
    torch.save(tensors, base)
    trained_on = read_folder(run).card["base_sha256"]
    with pytest.raises(
        ValueError, match=f"trained on another base: on {trained_on}, and .* has {weights.sha256(base)}"
    ):
        runs.load_run(run)
    with pytest.raises(ValueError, match=f"on SHA-256 .*, and this backbone's is {adapters.hash_tensors(tensors)}"):
        runs.load_adapters({"it": run}, base)
    card = json.loads((run / "model" / "adapter.json").read_text())
    for key in ("base_tensors_sha256", "format", "preprocessing", "results", "buffers"):  # as cards were before
        card.pop(key)
    card["adapter"] = {"name": "dual_lora", "rank": 2}
    (run / "model" / "adapter.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match="SHA-256 differs"):
        runs.load_run(run)


@torch.no_grad()
def test_a_run_from_before_gates_were_delivered_takes_that_of_its_settings(run: Path) -> None:
    image = torch.rand(1, 3, 112, 112) * 2 - 1
    wanted = runs.load_run(run).embed(image)
    model_folder, found = run / "model", read_folder(run)
    save_file(found.tensors, model_folder / "adapter.safetensors")
    with pytest.raises(RuntimeError, match="Missing key"):
        runs.load_run(run)
    found.card.pop("format")
    (model_folder / "adapter.json").write_text(json.dumps(found.card))
    assert torch.equal(runs.load_run(run).embed(image), wanted)


@torch.no_grad()
def test_folders_make_one_model_of_several_adapters(run: Path, tmp_path: Path) -> None:
    other = finished(tmp_path, "adapter.name=lora", "adapter.rank=3", name="plain")
    image = torch.rand(1, 3, 112, 112) * 2 - 1
    base = tmp_path / "base.safetensors"
    built, bank = runs.load_adapters({"gated": run, "plain": other / "model"}, base)
    for name, folder in (("gated", run), ("plain", other), ("gated", run)):
        bank.activate(name)
        assert torch.equal(built.embed(image), runs.load_run(folder).embed(image))
    bank.disable()
    assert torch.equal(built.embed(image), runs.load_run(run, base=True).embed(image, torch.ones(1)))
    card = json.loads((run / "model" / "adapter.json").read_text())
    (run / "model" / "adapter.json").write_text(
        json.dumps({**card, "scorer": {"name": "brisque", "weights": "/dev/x"}})
    )
    with pytest.raises(ValueError, match="'brisque' reads weights='/dev/x', and a path in a card is never opened"):
        runs.load_adapters({"gated": run}, base)
    for inner in ("onnx:/dev/x", {"name": "onnx", "file": "/dev/x"}, {"name": "several", "scorers": ["onnx:/dev/x"]}):
        several = {"name": "several", "scorers": ["sharpness", inner]}
        (run / "model" / "adapter.json").write_text(json.dumps({**card, "scorer": several}))
        with pytest.raises(ValueError, match="'several' reads file='/dev/x', and a path in a card is never opened"):
            runs.load_adapters({"gated": run}, base)
    built, bank = runs.load_adapters({"gated": run}, base, {"name": "constant"})
    assert type(built.scorer).__name__ == "Constant"
    (run / "model" / "adapter.json").write_text(json.dumps({**card, "gate": {"midpoint": "x"}}))
    with pytest.raises(ValueError, match="its card tells no midpoint, slope and shape of a gate"):
        runs.load_adapters({"gated": run}, base)
    (run / "model" / "adapter.json").write_text(json.dumps({**card, "backbone": "r18"}))
    with pytest.raises(ValueError, match=r"backbone mobilefacenet_nano and .* of r18: one model has one"):
        runs.load_adapters({"gated": run, "plain": other}, base)
