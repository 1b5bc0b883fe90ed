"""convert_checkpoint on 20,000 mutated files of each kind it reads: refused in words, or weights that load strictly."""

from __future__ import annotations

import io
import json
import random
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from adapters import Adapters
from recognition.backbones import BACKBONES
from recognition.gate import Gate
from recognition.registry import Found
from recognition.weights import load_strictly, read_weights, write_weights
from recognition.weights.arcface_set import read_set
from tests.fuzz import fuzz, mutate, pickle_tokens
from tests.weight_files import mxnet_file
from tools.convert_checkpoint import convert

COUNT = 20_000
SPECK = "speck_of_this_test"


class Speck(nn.Module):
    """A backbone of eleven tensors, so that 20,000 of them are made in seconds."""

    input_size = 112
    adapter_targets = ("fc",)
    head_targets = ("out",)
    checkpoint_blocks = ()

    def __init__(self, embedding_size: int = 3, drop: float = 0.0, mask: bool = True) -> None:
        super().__init__()
        self.embedding_size = embedding_size
        self.norm = nn.BatchNorm1d(2)
        self.mlp = nn.Sequential(nn.Linear(2, 3), nn.GELU(), nn.Linear(3, 2))
        self.fc = nn.Linear(2, 4)
        self.out = nn.Linear(4, embedding_size, bias=False)


@pytest.fixture
def speck() -> Iterator[str]:
    BACKBONES.register(SPECK)(Speck)
    # as a file of the package would be found, or its source would be looked up 40,000 times
    BACKBONES._search()[SPECK] = Found(SPECK, __file__, "", parameters=("embedding_size", "drop", "mask"))
    yield SPECK
    del BACKBONES._objects[SPECK], BACKBONES._search()[SPECK]


def state() -> dict[str, Tensor]:
    return {k: v for k, v in Speck().state_dict().items() if not k.endswith("num_batches_tracked")}


def saved(thing: object, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(thing, buffer, **options)
    return buffer.getvalue()


def seeds(tmp_path: Path) -> list[tuple[str, bytes, bytes]]:
    """(file name, content, card) of each kind."""
    lora = {f"fc.trainable_lora_{side}.weight": torch.randn(shape) for side, shape in SIDES.items()}
    dense = {k: v for k, v in state().items() if k.startswith("mlp.")}
    experts = {k.replace("mlp.", f"mlp.experts.{i}."): v + i for k, v in dense.items() for i in range(2)}
    moe = {k: v for k, v in state().items() if k not in dense} | experts | {"mlp.router.gate.weight": torch.ones(2, 2)}
    peft = {f"net.{k.replace('fc.', 'fc.base_layer.')}": v for k, v in state().items()}
    peft |= {
        f"net.fc.lora_{side}.default.weight": torch.randn(SIDES[end]) for side, end in (("A", "down"), ("B", "up"))
    }
    wrapped = {"state_dict_backbone": {f"module.{k}": v for k, v in state().items()}, "epoch": 3}
    shared = state() | {"out.weight": torch.randn(20)[2:14].view(4, 3).T, "fc.bias": torch.ones(4).half()}
    write_weights(tmp_path / "x.safetensors", state(), {})
    card = json.dumps({"backbone": SPECK, "arguments": {"embedding_size": 3, "mask": False}, "licence": "MIT"})
    params = mxnet_file(tmp_path / "x.params", {f"arg:{k}": v.numpy() for k, v in state().items()})
    older = {"_use_new_zipfile_serialization": False}
    return [
        ("zip.pt", saved(state()), b""),
        ("zip.pt", saved(wrapped, pickle_protocol=4), b""),
        ("zip.pt", saved(shared), b""),
        ("zip.pt", saved({**state(), **lora}), b""),
        ("zip.pt", saved(moe), b""),
        ("zip.pt", saved(peft), b""),
        ("older.pt", saved(state(), **older), b""),
        ("older.pt", saved(wrapped, **older), b""),
        ("older.pt", saved({k: nn.Parameter(v) for k, v in shared.items()}, **older, pickle_protocol=4), b""),
        ("x.safetensors", (tmp_path / "x.safetensors").read_bytes(), b""),
        ("x.safetensors", (tmp_path / "x.safetensors").read_bytes(), card.encode()),
        ("x.params", params.read_bytes(), b""),
    ]


SIDES = {"down": (2, 2), "up": (4, 2)}
JSON_TOKENS = [
    *(b'"F32"', b'"F8_E4M3"', b'"I64"', b"[1e9]", b"-1", b"1152921504606846976", b'"__class__"', b"NaN", b"[" * 300),
    *(b"{}", b"null", b'"data_offsets"', b'"shape"', b"[0,0]", b'"../../x"', b"true", b'"embedding_size"', b"9" * 5000),
]


def mutated(name: str, data: bytes, rng: random.Random, tokens: list[bytes]) -> bytes:
    """The bytes as they are, or in half of the zip files one entry of it, so that its checksum is right again."""
    if name != "zip.pt" or rng.random() < 0.5:
        return mutate(data, rng, tokens)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        chosen = rng.choice([*old.namelist(), *[n for n in old.namelist() if n.endswith("data.pkl")] * 20])
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename == chosen:
                content = mutate(content, rng, tokens)
            kind = zipfile.ZIP_DEFLATED if rng.random() < 0.01 else zipfile.ZIP_STORED
            new.writestr(zipfile.ZipInfo(entry.filename), content, kind)  # without the time of day
    return out.getvalue()


@pytest.mark.slow
def test_twenty_thousand_mutated_weights(current_folder: Path, speck: str) -> None:
    folder = current_folder
    marker, out = Path("made"), folder / "out" / "out.safetensors"
    files, pickles = seeds(folder), pickle_tokens(marker)
    for name, data, card in files:
        put(folder / name, data, card)
        convert(folder / name, out, speck)
        shutil.rmtree(folder / "out" / "out_adapter", ignore_errors=True)

    def check(seed: int) -> str:
        rng = random.Random(seed)
        name, data, card = files[seed % len(files)]
        source = folder / name
        if card and rng.random() < 0.7:
            card = mutate(card, rng, JSON_TOKENS)
        else:
            data = mutated(name, data, rng, pickles if name.endswith(".pt") else JSON_TOKENS)
        put(source, data, card)
        try:
            convert(source, out, None if card and rng.random() < 0.5 else speck)
        except ValueError as error:
            assert "out.safetensors" not in str(error) and len(str(error)) < 3000, error
            assert str(source.with_suffix("")) in str(error), error
            return f"refused ({source.suffix})"
        finally:
            assert not marker.exists(), "the payload ran"
        read = read_weights(out)
        assert all(tensor.isfinite().all() for tensor in read.tensors.values())
        base = Speck(**read.card["arguments"])
        load_strictly(base, read.tensors, out)
        if (folder / "out" / "out_adapter").is_dir():
            bank = Adapters(base, Gate())
            bank.load("it", folder / "out" / "out_adapter")
            bank.activate("it")
            shutil.rmtree(folder / "out" / "out_adapter")
        return f"{compared(source, read.tensors)} ({source.suffix})"

    words = fuzz(check, COUNT, name="convert_checkpoint", folder=folder)
    for suffix in (".pt", ".safetensors", ".params"):
        assert words[f"refused ({suffix})"] > 100
    assert words["as torch reads it (.pt)"] > 100
    assert words["read (.safetensors)"] > 100 and words["read (.params)"] > 20


def small_set() -> list[bytes]:
    """Two ranks of arcface_torch with five classes."""
    files = []
    for rows in (3, 2):
        backbone, centres = Speck(), nn.Parameter(torch.randn(rows, 3))
        optimizer = torch.optim.SGD([{"params": backbone.parameters()}, {"params": [centres]}], lr=0.1, momentum=0.9)
        for parameter in (*backbone.parameters(), centres):
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        content = {"epoch": 1, "global_step": 7, "state_dict_backbone": backbone.state_dict()}
        content |= {"state_dict_softmax_fc": {"weight": centres.detach()}, "state_optimizer": optimizer.state_dict()}
        plan = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=9)
        files.append(saved({**content, "state_lr_scheduler": plan.state_dict()}))
    return files


@pytest.mark.slow
def test_five_thousand_mutated_checkpoint_sets(current_folder: Path) -> None:
    folder = current_folder
    files, marker = small_set(), Path("made")
    tokens = [*pickle_tokens(marker), b"N", b"\x88", b"]", b"}", b"K\x00\x85", b"G\x7f\xf0\0\0\0\0\0\0"]
    for rank, data in enumerate(files):
        (folder / f"checkpoint_gpu_{rank}.pt").write_bytes(data)
    assert read_set(folder).centres.shape == (5, 3)

    def check(seed: int) -> str:
        changed = seed % 2
        for rank, data in enumerate(files):
            data = mutated("zip.pt", data, random.Random(seed), tokens) if rank == changed else data
            (folder / f"checkpoint_gpu_{rank}.pt").write_bytes(data)
        try:
            found = read_set(folder)
        except ValueError as error:
            assert str(folder) in str(error) and len(str(error)) < 1000, error
            return "refused"
        finally:
            assert not marker.exists(), "the payload ran"
        assert found.centres.dim() == 2 and len(found.centres) == 5
        assert len(found.states) == len(found.groups[0]["params"])
        return "read"

    words = fuzz(check, 5_000, name="checkpoint sets", folder=folder)
    assert words["refused"] > 1000 and words["read"] > 100


def put(source: Path, data: bytes, card: bytes) -> None:
    source.write_bytes(data)
    source.with_suffix(".json").unlink(missing_ok=True)
    if card:
        source.with_suffix(".json").write_bytes(card)


def compared(source: Path, tensors: dict[str, Tensor]) -> str:
    """Against what torch.load makes of the same file, where it makes anything of it."""
    if source.suffix != ".pt":
        return "read"
    try:
        theirs = torch.load(source, weights_only=True)
    except Exception as error:
        return f"read, where torch raises {type(error).__name__}"
    theirs = theirs.get("state_dict_backbone", theirs)
    for key, tensor in theirs.items():
        own = tensors.get(key.removeprefix("module.").removeprefix("module."))
        if own is not None:
            assert own.dtype == tensor.dtype and torch.equal(own, tensor)
    return "as torch reads it"
