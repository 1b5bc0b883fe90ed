"""The house itself: layers, silent imports, names, sizes."""

import ast
import subprocess
import sys
from pathlib import Path

import adapters
import iqa

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("recognition", "adapters", "iqa")
CONTRACTS = (
    "registry",
    "gate",
    "config",
    "recipes",
    "values",
    "allocator",
    "distributed",
    "types",
    "files",
    "signals",
    "random_state",
    "pickled",
    "hashes",
    "arrays",
)
PARTS = ("backbones", "margins", "objectives", "data", "partial_fc", "weights")
ASSEMBLY = (
    "model",
    "quality",
    "losses",
    "loss_parts",
    "average",
    "adapter_start",
    "published",
    "activation_checkpoint",
    "inputs",
    "optim",
    "checkpoint",
    "non_finite",
    "sharding",
    "frozen",
    "learner",
    "calibration",
    "degradation_fit",
    "scoring",
    "scoring_share",
    "runs",
    "import_set",
    "meter",
    "delivery",
    "logs",
    "export",
    "evaluation",
    "aligning",
    "answers",
    "page",
    "demo",
    "migration",
    "from_onnx",
    "reference",
)
ENGINE = (
    "trainer",
    "start",
    "evaluations",
    "keeper",
    "plan",
    "doctor",
    "machine",
    "memory",
    "bench",
    "command",
)


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def level(module: str) -> int | None:
    top, *rest = module.split(".")
    if top in ("adapters", "iqa"):
        return 1
    if top == "tools":
        return 4
    if top != "recognition":
        return None
    if not rest:
        return 0
    for number, names in enumerate((CONTRACTS, PARTS, ASSEMBLY, ENGINE)):
        if rest[0] in names:
            return number
    raise AssertionError(f"{module} has no level: add it to tests/test_house.py and docs")


def part(module: str) -> str:
    return ".".join(module.split(".")[:2]) if module.startswith("recognition") else module.split(".")[0]


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the layer"
            found |= {node.module} | {
                f"{node.module}.{alias.name}"
                for alias in node.names
                if (ROOT / node.module.replace(".", "/") / f"{alias.name}.py").exists()
            }
    return found


def test_imports_point_downwards():
    upward = []
    for path in sources():
        here = module_of(path)
        for there in imported(path):
            above = level(there)
            if above is not None and above > level(here):
                upward.append((here, there))
    assert not upward, f"these imports point upwards: {upward}"


def test_parts_do_not_import_one_another():
    crossing = []
    for path in sources():
        here = module_of(path)
        if level(here) != 1:
            continue
        crossing += [(here, there) for there in imported(path) if level(there) == 1 and part(there) != part(here)]
    assert not crossing, f"parts of level 1 import one another: {crossing}"


def test_nobody_imports_configs_or_tools():
    guilty = [
        (path.name, there)
        for path in sources()
        for there in imported(path)
        if there.split(".")[0] in ("configs", "tools", "tests")
    ]
    assert not guilty


def test_the_top_level_names_are_the_projects_own():
    assert Path(adapters.__file__).is_relative_to(ROOT) and Path(iqa.__file__).is_relative_to(ROOT)


def test_importing_everything_is_silent():
    code = f"""
import os, random, sys
sys.path.insert(0, {str(ROOT)!r})
import cv2  # sets variables for its own Qt: its doing, not ours
import numpy, torch, torch.distributed
environment, state = dict(os.environ), torch.get_rng_state()
before, python = numpy.random.get_state()[1].tolist(), random.getstate()
import importlib
for module in {[module_of(path) for path in sources()]!r}:
    importlib.import_module(module)
assert not torch.distributed.is_initialized(), "a process group"
assert torch.equal(state, torch.get_rng_state()) and before == numpy.random.get_state()[1].tolist(), "a seed"
assert python == random.getstate(), "python's seed"
assert not torch.cuda.is_initialized(), "a device"
changed = {{k for k in set(environment) | set(os.environ) if environment.get(k) != os.environ.get(k)}}
assert not changed, changed
"""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT / "tests")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "", done.stdout


def test_no_file_is_a_second_copy_by_name():
    suspicious = ("_v2", "_new", "_old", "_copy", "_iqa", "_final")
    assert not [path for path in sources() if path.stem.endswith(suspicious)]
