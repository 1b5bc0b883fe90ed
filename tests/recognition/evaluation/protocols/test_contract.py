"""What holds for every protocol, whoever wrote it."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from recognition.evaluation.listed import COUNTS, FAILURES
from recognition.evaluation.protocols import PROTOCOLS
from recognition.evaluation.sets import open_sets

ROOT = Path(__file__).parents[4]
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
        open_sets({"sets": [absent]})
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        (FileNotFoundError, ValueError, IsADirectoryError), match=r"evaluation set 'mine': .*(empty|p\.csv)"
    ):
        open_sets({"sets": [{**absent, first: str(tmp_path / "empty")}]})


@pytest.mark.parametrize("name", [name for name in PROTOCOLS.names() if name not in EITHER])
def test_a_set_without_data_says_so(name: str) -> None:
    with pytest.raises(ValueError, match=r"evaluation set 'mine'.*(missing a required argument|lacks)"):
        open_sets({"sets": [{"name": "mine", "kind": name}]})


@pytest.mark.parametrize("key", ["failures", "counts"])
@pytest.mark.parametrize("name", PROTOCOLS.names())
def test_a_rule_that_is_none_is_refused(name: str, key: str, tmp_path: Path) -> None:
    if key not in PROTOCOLS.parameters(name):
        return
    (tmp_path / "a.png").write_bytes(b"")
    wrong = {"name": "mine", "kind": name, "data": str(tmp_path), key: "perhaps"}
    with pytest.raises((ValueError, FileNotFoundError)):  # some look for their lists first
        open_sets({"sets": [wrong]})


def test_the_page_of_protocols_has_all_of_them() -> None:
    table = re.findall(r"^\| (`.*?) \|", (ROOT / "docs/protocols.md").read_text(), re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(table))) == set(PROTOCOLS.names())
