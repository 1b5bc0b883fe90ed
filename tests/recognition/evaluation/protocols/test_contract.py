"""What holds for every protocol, whoever wrote it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from recognition.evaluation.listed import COUNTS, FAILURES
from recognition.evaluation.protocols import PROTOCOLS
from recognition.evaluation.protocols.rfw import GROUPS
from recognition.evaluation.sets import open_sets
from tests.recognition.evaluation.protocols import (
    retrieving,
    test_briar,
    test_ijb,
    test_ijbs,
    test_scface,
    test_survface,
    test_tinyface,
)
from tests.recognition.evaluation.protocols.seeing import write_angles, write_lfw

ROOT = Path(__file__).parents[4]
RECORDS = {"pairs", "drawn"}  # of record files, whose tests are those of the evaluation
EITHER = {"lfw_low_res", "edc"}  # a .bin, or a folder or records: none of their arguments is needed by itself


@pytest.mark.parametrize("name", PROTOCOLS.names())
def test_arguments_are_named_and_explained(name: str) -> None:
    plugin = PROTOCOLS.get(name)
    told = inspect.getdoc(plugin) or ""
    if inspect.isclass(plugin):
        told += inspect.getdoc(plugin.__init__) or ""
    if as_of := re.search(r"[Aa]rguments as of `(\w+)`|as of (?:the kind )?`?(\w+)`?", told):
        told += inspect.getdoc(PROTOCOLS.get(as_of[1] or as_of[2])) or ""
    for parameter in inspect.signature(plugin).parameters.values():
        assert parameter.kind is parameter.POSITIONAL_OR_KEYWORD, f"{name}: {parameter} has no name in a recipe"
        assert re.search(rf"\b{parameter.name}\b", told), f"{name}: nothing is said of '{parameter.name}'"
    parameters = PROTOCOLS.parameters(name)
    assert inspect.signature(plugin).parameters[parameters[0]].default in (inspect.Parameter.empty, "")
    for key, allowed in (("failures", FAILURES), ("counts", COUNTS)):
        if key in parameters:
            assert inspect.signature(plugin).parameters[key].default in allowed
    assert len(PROTOCOLS.summary(name)) > 20


@pytest.mark.parametrize("name", PROTOCOLS.names())
def test_data_that_are_not_there_are_named(name: str, tmp_path: Path) -> None:
    first = PROTOCOLS.parameters(name)[0]
    others = {"pairs": {"pairs": "p.csv"}, "drawn": {"count": 20}}.get(name, {})
    absent = {"name": "mine", "kind": name, first: str(tmp_path / "absent"), **others}
    with pytest.raises((FileNotFoundError, ValueError), match=r"^evaluation set 'mine': .*(absent|p\.csv)"):
        open_sets({"ranks": [1], "sets": [absent]})
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        (FileNotFoundError, ValueError, IsADirectoryError), match=r"evaluation set 'mine': .*(empty|p\.csv)"
    ):
        open_sets({"ranks": [1], "sets": [{**absent, first: str(tmp_path / "empty")}]})


@pytest.mark.parametrize("name", [name for name in PROTOCOLS.names() if name not in EITHER])
def test_a_set_without_data_says_so(name: str) -> None:
    with pytest.raises(ValueError, match=r"evaluation set 'mine'.*(missing a required argument|lacks)"):
        open_sets({"ranks": [1], "sets": [{"name": "mine", "kind": name}]})


def _insightface_bins(folder: Path) -> dict[str, object]:
    folder.mkdir()
    write_angles(folder / "lfw.bin", [10, 80] * 20, [True, False] * 20)
    return {}


def _pairs(folder: Path) -> dict[str, object]:
    write_lfw(folder, [10, 10, 80, 80] * 10, 10, 2)
    return {}


def _rfw(folder: Path) -> dict[str, object]:
    for group in GROUPS:
        write_lfw(folder / group, [10, 10, 80, 80] * 10, 10, 2)
        (folder / "txts" / group).mkdir(parents=True)
        (folder / group / "pairs.txt").rename(folder / "txts" / group / f"{group}_pairs.txt")
    return {"pictures": str(folder)}


def _xqlfw(folder: Path) -> dict[str, object]:
    write_lfw(folder, [10, 10, 80, 80] * 10, 10, 2)
    (folder / "pairs.txt").rename(folder / "xqlfw_pairs.txt")
    return {}


def _survface(folder: Path) -> dict[str, object]:
    test_survface.write_verification(folder)
    test_survface.write_identification(folder)
    return {}


def _scface(folder: Path) -> dict[str, object]:
    retrieving.write(folder, [*test_scface.MUGSHOTS, *test_scface.PROBES])
    return {}


def _tinyface(folder: Path) -> dict[str, object]:
    retrieving.write(folder / "Probe", test_tinyface.PROBES)
    retrieving.write(folder / "Gallery_Match", test_tinyface.MATES)
    retrieving.write(folder / "Gallery_Distractor", test_tinyface.OTHERS)
    return {}


def _template(module: ModuleType, *arguments: object, **settings: object) -> Callable[[Path], dict[str, object]]:
    def write(folder: Path) -> dict[str, object]:
        module.write(folder, *arguments)
        return settings

    return write


MINIATURES: dict[str, Callable[[Path], dict[str, object]]] = {
    "insightface_bins": _insightface_bins,
    "pairs_txt": _pairs,
    "lfw_low_res": _pairs,
    "fruits": _pairs,
    "rfw": _rfw,
    "xqlfw": _xqlfw,
    "survface": _survface,
    "scface": _scface,
    "tinyface": _tinyface,
    "ijbb": _template(test_ijb, "ijbb", ranks=(1,)),
    "ijbc": _template(test_ijb, "ijbc", ranks=(1,)),
    "ijbs": _template(test_ijbs, ranks=(1,)),
    "briar": _template(test_briar, [row[:5] for row in test_briar.PROBES], "distance", ranks=(1,)),
}


@pytest.mark.parametrize("key", ["failures", "counts", "resampled"])
@pytest.mark.parametrize("name", PROTOCOLS.names())
def test_a_rule_that_is_none_is_refused(name: str, key: str, tmp_path: Path) -> None:
    """Over a miniature that opens, so that nothing else can be what is refused."""
    if key not in PROTOCOLS.parameters(name) or (name in RECORDS and key == "resampled"):
        return
    folder = tmp_path / "data"
    settings = MINIATURES[name](folder)
    settings |= {"counts": "any"} if "counts" in PROTOCOLS.parameters(name) else {}
    sound = {"name": "mine", "kind": name, "data": str(folder), **settings}
    (one,) = open_sets({"ranks": [1], "sets": [sound]})
    assert len(one.protocol.images)
    with pytest.raises(ValueError, match=rf"^evaluation set 'mine': {key} is 'perhaps'; it must be one of \w+, \w+"):
        open_sets({"ranks": [1], "sets": [{**sound, key: "perhaps"}]})


def test_the_page_of_protocols_has_all_of_them() -> None:
    table = re.findall(r"^\| (`.*?) \|", (ROOT / "docs/protocols.md").read_text(), re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(table))) == set(PROTOCOLS.names())
