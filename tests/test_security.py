"""Nothing that is read executes: every format with payloads in it, and the sources themselves."""

from __future__ import annotations

import ast
import builtins
import io
import json
import os
import pickle
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from iqa._image import read_tensors
from recognition.checkpoint.manifest import DamagedError, read_manifest, verify
from recognition.config import ConfigError, from_json, load
from recognition.data.pairs import read_bin
from recognition.evaluation.results import load_results
from recognition.runs import load_run
from recognition.weights import read_card, read_weights, write_weights
from recognition.weights.torch_files import read_torch
from tests import fuzz

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("recognition", "adapters", "iqa", "tools", "configs")
ENTRIES = [b"\xff\xd8one", b"\xff\xd8two"] * 3
SAME = [True, False, True]


class Call:
    """Runs `function(*arguments)` in a reader that trusts pickle; `state` goes through BUILD."""

    def __init__(self, function: object, *arguments: object, state: object = None) -> None:
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple:
        return self.reduced


def payloads(marker: Path) -> dict[str, object]:
    """Objects whose pickles would make the file or folder `marker`."""
    path, code = str(marker), f"__import__('os').mkdir({str(marker)!r})"
    return {
        "posix call": Call(os.mkdir, path),
        "shell": Call(os.system, f"touch {path}"),
        "eval": Call(builtins.eval, code),
        "exec": Call(builtins.exec, code),
        "nested": Call(getattr, Call(__import__, "os"), "mkdir"),
        "map in a list": Call(list, Call(map, os.mkdir, [path])),
        "numpy's loader": Call(np.load, path, None, True),
        "torch's loader": Call(torch.load, path),
        "object array": np.array([Call(os.mkdir, path)], object),
        "encode": Call(__import__("codecs").encode, "a", "rot13"),
        "a state": Call(io.BytesIO, state=(b"", 0, {"read": Call(os.mkdir, path)})),
        "partial": Call(__import__("functools").partial, os.mkdir, path),
    }


NAMES = [*payloads(Path("nowhere"))]


@pytest.fixture
def marker(tmp_path: Path):
    """What a payload would make; checked to be absent at the end of each test."""
    path = tmp_path / "made"
    yield path
    assert not path.exists(), "the payload ran"


def test_the_payloads_work_where_they_are_let(tmp_path: Path) -> None:
    for name in ("posix call", "shell", "eval", "exec", "map in a list", "object array", "a state"):
        made = tmp_path / name.replace(" ", "_")
        pickle.loads(pickle.dumps(payloads(made)[name]))
        assert made.exists(), name


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("name", NAMES)
def test_a_verification_set(tmp_path: Path, marker: Path, name: str, protocol: int) -> None:
    path, payload = tmp_path / "set.bin", payloads(marker)[name]
    for content in (([*ENTRIES[:5], payload], SAME), (ENTRIES, [True, payload, False]), payload):
        path.write_bytes(pickle.dumps(content, protocol))
        with pytest.raises(ValueError, match=r"set\.bin"):
            read_bin(path)


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_weights_and_optimizer_states_of_torch(tmp_path: Path, marker: Path, name: str, older: bool) -> None:
    path, payload, weight = tmp_path / "checkpoint_gpu_0.pt", payloads(marker)[name], {"a": torch.ones(2)}
    for content in (
        {**weight, "b": payload},
        {"state_dict_backbone": weight, "state_optimizer": {"state": {0: {"momentum_buffer": payload}}}},
        {"state_dict_backbone": weight, "state_lr_scheduler": payload},
    ):
        torch.save(content, path, _use_new_zipfile_serialization=not older)
        with pytest.raises(ValueError, match=r"checkpoint_gpu_0\.pt.*(not unpickled|damaged)"):
            read_torch(path)
        with pytest.raises(ValueError, match=r"checkpoint_gpu_0\.pt"):
            read_weights(path)


@pytest.mark.parametrize("name", NAMES)
def test_a_pickle_under_any_other_name(tmp_path: Path, marker: Path, name: str) -> None:
    content = pickle.dumps(payloads(marker)[name])
    for other in ("x.params", "x.safetensors", "x.pt", "x.npz", "x.onnx"):
        (tmp_path / other).write_bytes(content)
        with pytest.raises(ValueError, match="x"):
            read_weights(tmp_path / other)
    with pytest.raises(ValueError):
        read_tensors(str(tmp_path / "x.npz"), "test", "nowhere")
    write_weights(tmp_path / "card.safetensors", {"a": torch.ones(1)}, {})
    for other in ("card.json", "config.json"):
        (tmp_path / other).write_bytes(content)
    with pytest.raises(ValueError, match="card is not JSON"):
        read_weights(tmp_path / "card.safetensors")
    with pytest.raises(ValueError):
        from_json(tmp_path / "config.json")


def test_a_pickle_inside_a_numpy_archive(tmp_path: Path, marker: Path) -> None:
    objects = np.array([Call(os.mkdir, str(marker))], object)
    np.savez(tmp_path / "items.npz", **{"set/112/correct": objects}, allow_pickle=True)
    (tmp_path / "results.json").write_text('{"set": {"112": {}}}')
    with pytest.raises(ValueError, match=r"[Oo]bject arrays"):
        read_tensors(str(tmp_path / "items.npz"), "test", "nowhere")
    with pytest.raises(ValueError, match=r"[Oo]bject arrays"):
        load_results(tmp_path)


@pytest.mark.parametrize(
    "card",
    [
        {"backbone": ["r18"]},
        {"backbone": "os.system"},
        {"backbone": "../../r18"},
        {"arguments": "text"},
        {"arguments": {"embedding_size": 2**60}},
        {"arguments": {"embedding_size": 10**7}},
        {"arguments": {"embedding_size": -1}},
        {"arguments": {"embedding_size": "512"}},
        {"arguments": {"embedding_size": {"__reduce__": "os.system"}}},
        {"arguments": {"__class__": "os.system"}},
        {"arguments": {"__init__": "os.system"}},
    ],
)
def test_cards_name_known_plugins_and_plain_values_only(tmp_path: Path, card: dict) -> None:
    from tools.convert_checkpoint import convert

    source = tmp_path / "net.safetensors"
    write_weights(source, {"fc.weight": torch.ones(2, 2)}, {"backbone": "r18", **card})

    def check(seed: int) -> str:
        with pytest.raises(ValueError, match=r"net\."):
            convert(source, tmp_path / "out.safetensors")
        return "refused"

    assert fuzz.fuzz(check, 1, name="card") == {"refused": 1}


def test_paths_in_cards_are_never_opened(tmp_path: Path, marker: Path) -> None:
    secret = tmp_path / "secret"
    os.mkfifo(secret)  # whoever opened it for reading would wait for ever
    written = {"base_weights": str(secret), "base": "../secret", "source": str(secret), "adapter": str(marker)}
    write_weights(tmp_path / "net.safetensors", {"a": torch.ones(2)}, written)
    signal.alarm(20)
    assert read_weights(tmp_path / "net.safetensors").card == read_card(tmp_path / "net.safetensors") == written
    with pytest.raises(ValueError, match="no such file"):  # named by hand or by a run's settings, it is still no file
        read_weights(secret)
    signal.alarm(0)
    (tmp_path / "net.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="not JSON"):
        read_weights(tmp_path / "net.safetensors")
    (tmp_path / "net.json").write_text(" " * 9_000_000)
    with pytest.raises(ValueError, match="9,000,000 bytes"):
        read_weights(tmp_path / "net.safetensors")


def test_a_run_s_settings_are_looked_up_and_never_run(tmp_path: Path, marker: Path) -> None:
    code = f"__import__('os').mkdir({str(marker)!r})"
    config = load(ROOT / "configs" / "demo.py")
    for section in ("backbone", "adapter", "scorer"):
        for name in (code, "os.system", "../../iqa/brisque", {"a": 1}, None):
            crafted = json.loads(json.dumps(config))
            crafted[section]["name"] = name
            crafted["adapter"]["name"] = crafted["adapter"]["name"] if section == "adapter" else "dual_lora"
            (tmp_path / "config.json").write_text(json.dumps(crafted))
            (tmp_path / "model").mkdir(exist_ok=True)
            (tmp_path / "model" / "adapter.safetensors").touch()
            with pytest.raises((ValueError, TypeError)):
                load_run(tmp_path)
    with pytest.raises(ConfigError):  # an override is a literal or a text
        load(ROOT / "configs" / "demo.py", [f"optim.lr={code}"])
    assert load(ROOT / "configs" / "demo.py", [f"run.name={code}"]).run.name == code


def test_a_checkpoint_folder(tmp_path: Path, marker: Path) -> None:
    folder = tmp_path / "step_000000001"
    folder.mkdir()
    payload = pickle.dumps(Call(os.mkdir, str(marker)))
    (folder / "manifest.json").write_bytes(payload)
    with pytest.raises(DamagedError, match=r"manifest\.json"):
        read_manifest(folder)
    (tmp_path / "outside").write_bytes(b"secret")
    for name in ("../outside", "/etc/passwd", "a/../../outside", "..", ".hidden", "a\x00b", "a\nb"):
        files = {name: [6, "0" * 64]}
        (folder / "manifest.json").write_text(json.dumps({"format": 1, "files": files}, indent=1) + "\n")
        with pytest.raises(DamagedError, match=r"manifest\.json"):
            verify(folder)
    (folder / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(DamagedError, match=r"manifest\.json"):
        verify(folder)


# what may run code or unpickle: where each may stand, and what for
ALLOWED = {
    "import pickle": {"recognition/data/pairs.py"},  # writes .bin sets, which are pickles; see the next test
    # recipes are code, and trusted; a benchmark runs tools/train.py
    "import runpy": {"recognition/recipes.py", "recognition/bench/first_step.py"},
    # mincore: which pages of a file are in memory; mallopt
    "import ctypes": {"recognition/bench/page_cache.py", "recognition/allocator.py"},
    "importlib.machinery.SourceFileLoader": {"recognition/command.py"},  # our own tools
    # git's commit; a training each; a case each, whose memory is measured; a benchmark each
    "import subprocess": {
        "recognition/logs.py",
        "tools/compare.py",
        "recognition/bench/scoring.py",
        "recognition/bench/suite.py",
        "recognition/bench/classifier_processes.py",
        "recognition/bench/index.py",
        "recognition/bench/start_up.py",
    },
    # plugins and parts of the project
    "importlib.import_module": {
        "recognition/registry.py",
        "recognition/reference/rules.py",
        "recognition/checkpoint/__init__.py",
        "tools/benchmark.py",
    },
    "numpy.load": {"recognition/evaluation/results.py"},  # with allow_pickle=False; a run's own results
}
FORBIDDEN_IMPORTS = {
    *("pickle", "cPickle", "_pickle", "pickletools", "cloudpickle", "dill", "joblib", "marshal", "shelve", "yaml"),
    *("runpy", "subprocess", "code", "codeop", "pty", "ctypes", "cffi"),
}
FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "importlib.import_module", "numpy.load"),
    *("importlib.machinery.SourceFileLoader", "importlib.util.spec_from_file_location"),
    *("torch.load", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter", "torch.export.load"),
    *("numpy.lib.format.read_array", "pandas.read_pickle", "torch.serialization.load"),
}


def sources() -> list[Path]:
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def found(path: Path) -> list[str]:
    """Everything of the lists above that a file imports or calls, by its full name."""
    tree, known, hits = ast.parse(path.read_text()), {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                known[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
                hits += [f"import {alias.name}"] if alias.name.split(".")[0] in FORBIDDEN_IMPORTS else []
        elif isinstance(node, ast.ImportFrom) and node.module:
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            hits += [f"import {node.module}"] if node.module.split(".")[0] in FORBIDDEN_IMPORTS else []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            first, *rest = ast.unparse(node).split(".")
            name = ".".join([known.get(first, first), *rest])
            pickles = "_object" in name and "torch.distributed" in name  # collectives that pickle what they carry
            hits += [name] if name in FORBIDDEN_CALLS or pickles else []
    return hits


def test_no_source_unpickles_or_runs_what_it_reads() -> None:
    guilty = []
    for path in sources():
        where = path.relative_to(ROOT).as_posix()
        guilty += [f"{where}: {hit}" for hit in found(path) if where not in ALLOWED.get(hit, ())]
    assert not guilty, guilty
    assert len(sources()) > 60


def test_the_search_finds_what_it_looks_for(tmp_path: Path) -> None:
    path = tmp_path / "guilty.py"
    path.write_text(
        "import numpy as np\nimport torch, pickle\nfrom torch import load as read\nimport torch.distributed as dist\n"
        "from yaml import safe_load\nnp.load(x)\nread(x)\ntorch.jit.load(x)\neval(x)\ndist.all_gather_object(a, b)\n"
    )
    hits = found(path)
    for hit in ("import pickle", "import yaml", "numpy.load", "torch.load", "torch.jit.load", "eval"):
        assert hit in hits
    assert "torch.distributed.all_gather_object" in hits


def calls(name: str) -> list[tuple[str, ast.Call]]:
    """Every call of `....name(...)` in the sources."""
    return [
        (path.relative_to(ROOT).as_posix(), node)
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == name
    ]


def test_what_is_allowed_is_used_as_it_is_allowed() -> None:
    loads = [
        call for where, call in calls("load") if where in ALLOWED["numpy.load"] and "np." in ast.unparse(call.func)
    ]
    assert len(loads) == 1 and all("allow_pickle=False" in ast.unparse(call) for call in loads)
    pairs = (ROOT / "recognition/data/pairs.py").read_text()
    assert "pickle.dump(" in pairs
    used = {ast.unparse(node) for node in ast.walk(ast.parse(pairs)) if isinstance(node, ast.Attribute)}
    assert {name for name in used if name.startswith("pickle.")} == {"pickle.dump"}


def test_checkpoints_are_read_through_safetensors_only() -> None:
    text = {path.relative_to(ROOT).as_posix(): path.read_text() for path in sources()}
    for word in ("FileSystemReader", "FileSystemWriter", "load_state_dict_from_keys", "dcp_to_torch"):
        assert not [where for where, content in text.items() if word in content], word
    reads = [call for where, call in calls("load") if ast.unparse(call.func).startswith(("dcp.", "checkpoint."))]
    reads = [call for call in reads if "storage_reader" in ast.unparse(call) or ast.unparse(call.func) == "dcp.load"]
    assert reads and all("storage_reader=reader" in ast.unparse(call) for call in reads)
    makers = [ast.unparse(node) for _, node in calls("HuggingFaceStorageReader")]
    assert makers
    assigned = [
        ast.unparse(node.value)
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "reader" and "checkpoint" in path.parts
    ]
    assert assigned and all(value.startswith("HuggingFaceStorageReader(") for value in assigned)
