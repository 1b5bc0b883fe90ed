"""What `pip install lrface` gives: the wheel and the sdist, in an environment of their own and from an empty folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import recognition

ROOT = Path(__file__).resolve().parents[1]
PLUGIN = ROOT / "tests" / "plugin_package"
PACKAGES = ("recognition", "adapters", "iqa")
FOLDERS = (*PACKAGES, "tools", "configs", "weights")
DECOYS = ("runs/demo/config.json", "data/train.rec", "tests/test_x.py", "weights/mine.safetensors", ".venv/x.py")
FACES = ("--identities", "10", "--images", "3", "--workers", "1")

pytestmark = pytest.mark.slow


def run(*command: object, cwd: Path, expect: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == expect, (
        f"{command} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    )
    return done


@dataclass
class Environment:
    """A virtual environment that sees the dependencies of this one, but not its editable LRFace."""

    python: Path
    folder: Path  # empty at first, far from the source tree

    def pip(self, *arguments: object) -> None:
        run(sys.executable, "-m", "pip", "--python", self.python, *arguments, cwd=self.folder)

    def lrface(self, *arguments: object, expect: int = 0) -> subprocess.CompletedProcess[str]:
        return run(self.python.with_name("lrface"), *arguments, cwd=self.folder, expect=expect)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source tree, with things in it that no archive may hold."""
    copy = tmp_path_factory.mktemp("source") / "lrface"
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copyfile(path, copy / path.name)
    for decoy in DECOYS:
        (copy / decoy).parent.mkdir(parents=True, exist_ok=True)
        (copy / decoy).write_text("not to be shipped")
    return copy


@pytest.fixture(scope="module")
def archives(tree: Path) -> tuple[Path, Path]:
    """(sdist, wheel); the wheel is built from the sdist."""
    out = tree.parent / "dist"
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, tree, cwd=tree.parent)
    return next(out.glob("*.tar.gz")), next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(archives: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Environment:
    place = tmp_path_factory.mktemp("installed")
    venv.create(place / "venv", symlinks=True)
    (place / "empty").mkdir()
    environment = Environment(place / "venv" / "bin" / "python", place / "empty")
    environment.pip("install", "--quiet", "--no-deps", "--no-index", "--no-compile", archives[1])
    site = next((place / "venv" / "lib").glob("python*")) / "site-packages"
    here = dict.fromkeys(sysconfig.get_paths()[name] for name in ("purelib", "platlib"))
    (site / "dependencies.pth").write_text("\n".join(here))  # a plain line: .pth files there are not looked at
    return environment


def contents(wheel: Path) -> dict[str, int]:
    """Name -> CRC of what is in a wheel, its metadata aside."""
    with zipfile.ZipFile(wheel) as archive:
        return {one.filename: one.CRC for one in archive.infolist() if ".dist-info/" not in one.filename}


def test_the_wheel_holds_every_file_of_the_packages_and_what_ships(tree: Path, archives: tuple[Path, Path]) -> None:
    files = [path for package in PACKAGES for path in (tree / package).rglob("*") if path.is_file()]
    wanted = {str(path.relative_to(tree)) for path in files if "__pycache__" not in path.parts} | {"lrface.py"}
    shipped = [path for folder in ("tools", "configs") for path in (tree / folder).glob("*.py")]
    shipped += [tree / "weights" / "demo_base.safetensors", tree / "weights" / "demo_base.json"]
    tools_of_a_tree = ("describe_", "draw_")
    wanted |= {
        f"recognition/shipped/{path.relative_to(tree)}" for path in shipped if not path.name.startswith(tools_of_a_tree)
    }
    assert contents(archives[1]).keys() == wanted
    assert {f"{package}/py.typed" for package in PACKAGES} | {"iqa/degradation.safetensors"} <= wanted
    with zipfile.ZipFile(archives[1]) as archive:
        info = f"lrface-{recognition.__version__}.dist-info"
        assert f"{info}/licenses/LICENSE" in archive.namelist()
        assert "lrface = recognition.command:main" in archive.read(f"{info}/entry_points.txt").decode()


def test_the_sdist_is_a_source_tree_without_its_tests(archives: tuple[Path, Path]) -> None:
    with tarfile.open(archives[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "SECURITY.md", "setup.py", "lrface.py"}
    assert wanted | {"tools/train.py", "configs/base.py", "weights/demo_base.safetensors", "iqa/py.typed"} <= names
    assert not names & {*DECOYS, "Dockerfile", "Makefile"} and not [name for name in names if "__pycache__" in name]


def test_a_wheel_of_the_tree_is_the_wheel_of_the_sdist(tree: Path, archives: tuple[Path, Path], tmp_path: Path) -> None:
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", tmp_path, tree, cwd=tmp_path)
    assert contents(next(tmp_path.glob("*.whl"))) == contents(archives[1])


def test_an_installed_lrface_is_found_and_tells_its_commands(installed: Environment) -> None:
    code = (
        "import sys, recognition, adapters, iqa, recognition.command, recognition.config as config\n"
        "print(*(m.__file__ for m in (recognition, adapters, iqa)), config.BASE, sep='\\n')\n"
        "assert 'torch' not in sys.modules\n"
    )
    places = run(installed.python, "-c", code, cwd=installed.folder).stdout.split()
    assert all(Path(place).is_relative_to(installed.python.parents[1]) for place in places), places
    assert installed.lrface("--version").stdout == f"lrface {recognition.__version__}\n"
    assert "  train              Trains or adapts" in installed.lrface("--help").stdout
    assert "did you mean 'train'?" in installed.lrface("trian", expect=2).stderr


def test_the_demo_trains_from_an_empty_folder_with_an_adapter_of_another_package(installed: Environment) -> None:
    """And on two processes; what it made is exported. Uninstalled, the adapter is gone."""
    source = installed.folder.parent / "plugin"
    shutil.copytree(PLUGIN, source)
    installed.pip("install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--no-compile", source)
    assert "depthwise_only     of the package lrface-depthwise 1.0" in installed.lrface("train", "--list").stdout

    installed.lrface("make_synthetic", "data/demo", *FACES, "--first-identity", 100000)
    lacking = installed.lrface("train", "demo", expect=2).stderr
    wanted = "lrface make_synthetic data/demo_test --identities 120"
    assert wanted in lacking and "demo_base" not in lacking and "recognition/shipped/configs/demo.py" in lacking
    installed.lrface("make_synthetic", "data/demo_test", *FACES, "--first-identity", 200000)

    torchrun = (installed.python, "-m", "torch.distributed.run", "--no-python", "--nproc-per-node", 2)
    tiny = ("adapter.name=depthwise_only", "schedule.epochs=1", "data.batch_size=8", "evaluation.sets=[]")
    trained = run(*torchrun, installed.python.with_name("lrface"), "train", "demo", *tiny, cwd=installed.folder)
    assert "adapter depthwise_only" in trained.stdout and trained.stderr.count("the recipe that ships") == 1
    assert (installed.folder / "runs/demo/model/adapter.safetensors").is_file()
    installed.lrface("export_onnx", "runs/demo")
    assert (installed.folder / "runs/demo/onnx/demo.onnx").is_file()
    assert '"weights": "weights/demo_base.safetensors"' in (installed.folder / "runs/demo/config.json").read_text()

    installed.pip("uninstall", "--quiet", "--yes", "lrface-depthwise")
    gone = installed.lrface("train", "demo", "adapter.name=depthwise_only", expect=2).stderr
    assert "unknown adapter 'depthwise_only'" in gone


def test_the_contract_tests_run_over_an_adapter_of_another_package(tmp_path: Path) -> None:
    """--target makes what an installed package is: the module, and metadata with its entry point beside it."""
    shutil.copytree(PLUGIN, tmp_path / "source")
    target = (
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "--no-compile",
        "--target",
        tmp_path / "site",
    )
    run(sys.executable, "-m", "pip", "install", *target, tmp_path / "source", cwd=tmp_path)
    code = f"import sys, pytest; sys.path.append({str(tmp_path / 'site')!r}); sys.exit(pytest.main(sys.argv[1:]))"
    chosen = ("tests/adapters/test_contract.py", "-k", "depthwise_only and not onnx", "-p", "no:xdist")
    found = run(sys.executable, "-c", code, *chosen, cwd=ROOT).stdout
    assert " failed" not in found and "." * 15 in found, found
