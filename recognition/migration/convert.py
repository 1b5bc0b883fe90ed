"""Settings of another program as a recipe of ours: what each becomes, what is dropped and why, what nobody knows."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from recognition import config as ours
from recognition.migration import facemoe, laid_over
from recognition.migration.found import Found, Unknown
from recognition.migration.recipe import render
from recognition.migration.rules import Made, Need, Program, shown
from recognition.migration.sources import PROGRAMS, near


@dataclass(frozen=True)
class Row:
    """What became of a setting. becomes: settings of ours as texts; () = dropped.

    into: the same as values. origin: "" = the config or command line says it, else "base.py" or "default".
    """

    setting: str
    value: str
    becomes: tuple[str, ...]
    remark: str = ""
    into: Mapping[str, object] = field(default_factory=dict)
    origin: str = ""


@dataclass
class Conversion:
    """A recipe, and the story of every setting."""

    found: Found
    text: str = ""
    rows: list[Row] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)  # settings that were left out, by name
    dropped: list[str] = field(default_factory=list)


def convert(found: Found, out: Path, overrides: Sequence[str] = (), allow_unknown: bool = False) -> Conversion:
    """The recipe for what was found, as the file `out` is to hold it; nothing is written there.

    overrides: section.setting=value of ours, laid over and written into it; a setting of theirs that they stand in
    for need not be convertible. allow_unknown: leave out settings that are not known here, and name them.
    ValueError lists every setting that cannot be, with its place.
    """
    program = PROGRAMS[found.program]
    done = Conversion(found)
    layer: dict[str, object] = {}
    faults: list[str] = []
    given = [text.partition("=")[0] for text in overrides]
    for key, setting in found.settings.items():
        if key.startswith("("):
            continue
        if key in program.dropped:
            _drop(done, key, program.dropped[key])
        elif key not in program.rules:
            (done.unknown if allow_unknown else faults).append(_unknown(done, key, program, allow_unknown))
        elif laid_over.covered(given, program.rules[key].covers) and not (made := _try(found, key, program)):
            done.rows.append(Row(key, _value(found, key), (), "given on this command line", origin=_origin(found, key)))
        else:
            try:
                made = _make(found, key, program)
            except ValueError as error:
                faults.append(f"{setting.place}: {key} = {_value(found, key)}: {error}")
                continue
            layer |= made.into
            done.rows.append(Row(key, _value(found, key), _texts(made), made.remark, made.into, _origin(found, key)))
    for what, made in program.own(found):
        layer |= {key: value for key, value in made.into.items() if key not in layer}
        done.rows.append(Row("(its program)", what, _texts(made), made.remark, made.into))
    if faults:
        if any("not a setting that is known" in fault for fault in faults):
            faults.append("--allow-unknown leaves unknown settings out, and names them")
        raise ValueError("\n".join(faults))
    done.text, config = _checked(found, layer, out, overrides, done.dropped)
    for number, row in enumerate(done.rows):
        if told := laid_over.told(row.into, config, given):
            done.rows[number] = replace(row, remark=f"overridden: {told}{f'; {row.remark}' if row.remark else ''}")
    return done


def _origin(found: Found, key: str) -> str:
    setting = found.settings[key]
    return "default" if setting.default else "base.py" if setting.inherited else ""


def _value(found: Found, key: str) -> str:
    value = found.settings[key].value
    return f"(known to {value.why} only)" if isinstance(value, Unknown) else shown(key, value)


def _texts(made: Made) -> tuple[str, ...]:
    return tuple(f"{key}={value!r}" for key, value in made.into.items())


def _drop(done: Conversion, key: str, why: str) -> None:
    if done.found.written(key):
        origin = _origin(done.found, key)
        done.rows.append(Row(key, _value(done.found, key), (), why, origin=origin))
        done.dropped += [] if origin else [key]


def _unknown(done: Conversion, key: str, program: Program, allowed: bool) -> str:
    if not allowed:
        place = done.found.settings[key].place
        return f"{place}: {key} is not a setting that is known of {program.name}{near(key, program)}"
    done.rows.append(Row(key, _value(done.found, key), (), "not known here: left out", origin=_origin(done.found, key)))
    return key


def _make(found: Found, key: str, program: Program) -> Made:
    value = found.settings[key].value
    if isinstance(value, Unknown) and not program.rules[key].unread:
        raise ValueError(
            value.help or "a config is read here, never run: write the plain value, or give ours on this command line"
        )
    return program.rules[key].make(value, found)


def _try(found: Found, key: str, program: Program) -> Made | None:
    try:
        return _make(found, key, program)
    except ValueError:
        return None


def _checked(
    found: Found, layer: dict[str, object], out: Path, overrides: Sequence[str], dropped: list[str]
) -> tuple[str, dict]:
    """(the recipe's text, its settings), once recognition.config has loaded it without a fault."""
    sections: dict[str, dict[str, object]] = {}
    for key, value in layer.items():
        section, _, setting = key.partition(".")
        sections.setdefault(section, {})[setting] = value
    sections = {section: _named_first(values) for section, values in sections.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / out.name

        def loaded(*texts: str):
            path.write_text(render(found, str(out), sections, [], dropped), encoding="utf-8")
            return ours.load(path, texts)

        if overrides:
            config = loaded(*overrides)
            for text in overrides:
                section, _, rest = text.partition("=")[0].partition(".")
                setting = rest.partition(".")[0]
                if section in ours.PLUGINS or not rest:
                    sections[section] = _plain(config[section])
                else:
                    sections.setdefault(section, {})[setting] = _plain(config[section][setting])
        config = loaded()
        text = render(found, str(out), sections, _needs(found, config), dropped)
        path.write_text(text, encoding="utf-8")
        return text, ours.load(path)


def _named_first(values: dict[str, object]) -> dict[str, object]:
    return {**({"name": values["name"]} if "name" in values else {}), **values}


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else copy.deepcopy(value)


def _needs(found: Found, config: dict) -> list[Need]:
    """The files that the recipe names."""
    needs = [
        Need(
            path,
            "the records that its program reads are read as they are; folders of pictures through: python "
            "tools/make_records.py FOLDER DIR",
        )
        for path in config.data.records
    ]
    if config.backbone.weights:
        folder = str(found.get("pretrained") or "FOLDER")
        at_hand = "the weights that training starts from: its model.pt"
        moe = facemoe.BASE_HELP.format(folder=folder if facemoe.stage(found) == "fc" else "FOLDER")
        needs.append(Need(config.backbone.weights, moe if found.program == "FaceMoE" else at_hand))
    start = config.adapter.weights
    if start and start.startswith("runs/"):
        needs.append(Need(f"{start}/model/adapter.safetensors", "the first stage: convert and train its config first"))
    needs += [
        Need(
            one["path"], "a verification set, which comes with the records; without it, take it out of evaluation.sets"
        )
        for one in config.evaluation.sets
        if one.get("kind") == "bin"
    ]
    return needs
