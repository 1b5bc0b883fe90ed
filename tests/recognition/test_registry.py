import importlib
import re
import sys

import pytest

from adapters import ADAPTERS
from recognition.config import BASE, ConfigError, load
from recognition.registry import KINDS, registry_of
from tools import train

PLUGIN = '''
from plugins_of_test import THINGS

@THINGS.register("{name}")
class Thing:
    """{summary}"""

    def __init__(self, rank: int = 8, *, scaling: float = 1.0) -> None:
        self.rank = rank
'''


@pytest.fixture
def things(tmp_path, monkeypatch):
    """A package of plugins on disk, and a function that drops another file into it."""
    package = tmp_path / "plugins_of_test"
    package.mkdir()
    (package / "__init__.py").write_text(
        'from recognition.registry import Registry\nTHINGS = Registry("thing", __name__)\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))

    def drop(file, name, summary="One line."):
        (package / f"{file}.py").write_text(PLUGIN.format(name=name, summary=summary))

    yield drop
    for module in [m for m in sys.modules if m.startswith("plugins_of_test")]:
        del sys.modules[module]


def install(folder, name, points, kind="things"):
    """The metadata of a package of that name, version 1.0, with entry points."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[lrface.{kind}]\n{points}\n")


def registry():
    from plugins_of_test import THINGS

    return THINGS


def test_a_dropped_file_is_found_without_import_and_made(things):
    things("alpha", "alpha", "The first one.")
    found = registry()
    assert found.names() == ["alpha"] and found.summary("alpha") == "The first one."
    assert found.signature("alpha") == "(rank: int=8, *, scaling: float=1.0)"
    assert "plugins_of_test.alpha" not in sys.modules
    assert found.create("alpha", rank=3).rank == 3


def test_a_name_in_two_files_names_both_places(things):
    things("alpha", "same")
    things("beta", "same")
    with pytest.raises(ValueError) as error:
        registry().names()
    assert "alpha.py" in str(error.value) and "beta.py" in str(error.value)


def test_a_name_registered_again_at_run_time_names_both_places(things):
    things("alpha", "same")
    found = registry()
    found.create("same")
    with pytest.raises(ValueError, match="registered twice"):

        @found.register("same")
        class Other:
            """Another."""


def test_wrong_names_and_arguments_are_answered_with_neighbours(things):
    things("alpha", "quality_lora")
    found = registry()
    with pytest.raises(ValueError, match="did you mean 'quality_lora'"):
        found.create("quality_lroa")
    with pytest.raises(ValueError, match=r"rnak.*rank: int"):
        found.create("quality_lora", rnak=8)
    with pytest.raises(ValueError, match=r"unexpected argument 'rnak'; it takes \(rank"):
        found.check("quality_lora", ["rnak"])
    found.check("quality_lora", ["rank", "scaling"])


def test_entry_points_of_installed_packages_are_plugins(things, tmp_path, monkeypatch):
    (tmp_path / "third_party.py").write_text('class Mine:\n    """From elsewhere."""\n\n    size = 5\n')
    install(tmp_path, "third-party", "mine = third_party:Mine")
    things("alpha", "alpha")
    found = registry()
    assert found.names() == ["alpha", "mine"] and found.create("mine").size == 5


def test_a_name_that_a_package_takes_again_breaks_that_name_alone(things, tmp_path):
    (tmp_path / "third_party.py").write_text('class Mine:\n    """From elsewhere."""\n\n    size = 5\n')
    install(tmp_path, "third-party", "beta = third_party:Mine\nmine = third_party:Mine\nown = third_party:Mine")
    install(tmp_path, "fourth-party", "own = third_party:Mine")
    things("alpha", "alpha")
    things("beta", "beta")
    found = registry()
    assert found.names() == ["alpha", "mine"]
    assert found.create("alpha").rank == 8 and found.create("mine").size == 5
    importlib.import_module("plugins_of_test.beta")  # for the sake of something else in that file
    told = found.doubled()
    assert [*told] == ["beta", "own"]
    assert re.search(r"'beta' is registered twice: in .*beta\.py:\d+ and in entry point third_party:Mine", told["beta"])
    assert told["beta"].endswith("of third-party 1.0; rename one of them, or uninstall third-party")
    for ask in (found.get, found.create, found.summary, found.signature, lambda name: found.check(name, [])):
        with pytest.raises(ValueError, match=r"registered twice.*uninstall third-party"):
            ask("beta")
    with pytest.raises(ValueError, match=r"third-party.*fourth-party|fourth-party.*third-party"):
        found.get("own")


def test_an_adapter_of_ours_that_a_package_takes_is_listed_with_its_fault(tmp_path, monkeypatch):
    install(tmp_path, "third-party", "lora = third_party:Mine", "adapters")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(ADAPTERS, "_found", None)
    shown = [line for line in train.list_plugins().splitlines() if line.split()[:1] in (["lora"], ["dual_lora"])]
    assert len(shown) == 2 and "registered" not in shown[0]
    assert shown[1].startswith("  lora               adapter 'lora' is registered twice: in ")
    assert load(BASE, ["adapter.name=dual_lora"]).adapter.name == "dual_lora"
    with pytest.raises(ConfigError, match=r"^config\.adapter: adapter 'lora' is registered.*uninstall third-party$"):
        load(BASE, ["adapter.name=lora"])


@pytest.mark.parametrize("kind", KINDS)
def test_every_shipped_plugin_has_a_summary(kind):
    found = registry_of(kind)
    for name in found.names():
        assert len(found.summary(name)) > 10, f"{kind} '{name}' needs a docstring whose first line tells what it is"


def test_a_short_form_names_the_first_argument(things):
    things("alpha", "alpha")
    assert registry().spell_out("alpha:12") == {"name": "alpha", "rank": "12"}
    assert registry().spell_out("alpha:C:\\x.onnx") == {"name": "alpha", "rank": "C:\\x.onnx"}
    assert registry().spell_out("alpha") == {"name": "alpha"}
    assert "plugins_of_test.alpha" not in sys.modules
    with pytest.raises(ValueError, match="unknown thing 'alfa'; did you mean 'alpha'"):
        registry().spell_out("alfa:12")
    with pytest.raises(ValueError, match="thing 'alpha:': write alpha:RANK"):
        registry().spell_out("alpha:")


def test_a_short_form_of_a_plugin_without_arguments_is_an_error(things):
    things("alpha", "alpha")

    @registry().register("bare")
    def bare():
        """Takes nothing."""

    with pytest.raises(ValueError, match="thing 'bare:1': it takes no arguments"):
        registry().spell_out("bare:1")


def test_a_plugin_of_another_package_that_cannot_be_imported_breaks_no_other(things, tmp_path, monkeypatch):
    (tmp_path / "third_broken.py").write_text("import a_package_that_is_not_here\n")
    (tmp_path / "third_number.py").write_text("mine = 5\n")
    (tmp_path / "third_script.py").write_text("raise SystemExit('usage: mine')\n")
    points = ("broken = third_broken:Mine", "absent = third_number:Absent", "number = third_number:mine")
    install(tmp_path, "third-broken", "\n".join([*points, "script = third_script:Mine"]))
    things("alpha", "alpha")
    found = registry()
    assert found.names() == ["absent", "alpha", "broken", "number", "script"] and found.create("alpha").rank == 8
    assert found.summary("broken") == "of the package third-broken 1.0"
    faults = {
        "broken": "No module named 'a_pack",
        "absent": "no attribute",
        "number": "neither",
        "script": "SystemExit",
    }
    for name, fault in faults.items():
        with pytest.raises(ValueError, match=rf"thing '{name}' of the package third-broken 1\.0 cannot.*{fault}"):
            found.create(name)
