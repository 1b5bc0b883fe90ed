"""Recipes: Python files laid over configs/base.py, checked key by key and type by type before torch is imported."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from easydict import EasyDict

from recognition.recipes import BASE, ConfigError, find, or_shipped, read, spelled, with_parents
from recognition.registry import nearest, registry_of
from recognition.values import as_default, fits, kind_of, numbers, parse

PLUGINS = {"backbone": "backbone", "adapter": "adapter", "scorer": "scorer", "margin": "margin"}
LEAST = {
    "run.seed": 0,
    "data.batch_size": 1,
    "data.workers": 0,
    "data.hold_out": 0,
    "data.most_classes": 0,
    "data.bad_record_limit": 0,
    "optim.accumulate": 1,
    "optim.clip": 0,
    "schedule.warmup_epochs": 0,
    "train.keep": 0,
    "train.log_every": 1,
    "train.save_every": 0,
    "train.save_every_updates": 0,
    "train.save_every_minutes": 0,
    "train.non_finite_limit": 1,
    "train.timeout_minutes": 0.01,
    "evaluation.batch_size": 1,
    "evaluation.bootstrap": 0,
    "evaluation.every": 0,
}
SHORT_NAMES = ("scorer",)  # sections whose name may carry the first argument, such as pyiqa:musiq
OWN_KEYS = {  # not arguments of the plugin
    "backbone": ("name", "weights"),
    "adapter": ("name", "weights"),
    "objectives": ("name", "weight"),
}


def load(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> EasyDict:
    """The settings of a recipe: base.py, its parents, the recipe, then overrides such as "optim.lr=1e-4".

    path: a file, or the name of a recipe that ships with the project: demo, configs/demo.py; see find().
    A recipe defines `config`, an EasyDict, and may name another recipe to stand on, of its folder or a shipped one:
    `parent = "x.py"`. run.name is filled in from the file name where it is empty.
    ConfigError lists every fault at once.
    """
    path = find(path)
    faults: list[str] = []
    config = defaults()
    for recipe, defined in with_parents(path):
        layer = defined.get("config")
        if not isinstance(layer, dict):
            raise ConfigError(f"{recipe} defines no `config`: a recipe holds an EasyDict of that name")
        _lay(config, layer, "", faults)
    base = config.backbone.get("weights")
    # a plugin's name first: its arguments would fall away with the old name's
    for text in sorted(overrides, key=lambda text: not text.partition("=")[0].endswith(".name")):
        _override(config, text, faults)
    faults += [*_limit_faults(config), *plugin_faults(config)]
    if faults:
        raise ConfigError("\n".join(faults))
    config.run.name = config.run.name or path.stem
    if config.backbone.weights != base:  # the recipe's own base is not needed where another is named
        config.needs = [need for need in config.needs if str(need["path"]) != base]
    return config


def defaults() -> EasyDict:
    """The settings of configs/base.py alone."""
    return read(BASE)["config"]


def from_json(path: str | Path) -> EasyDict:
    """The resolved settings that a run saved. ConfigError where the file holds something else."""
    try:
        found = json.loads(Path(path).read_text())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no run's settings: {error}") from None
    base = read(BASE)["config"]
    if not isinstance(found, dict):
        raise ConfigError(f"{path} is no run's settings: it holds no sections")
    for key, section in base.items():
        if isinstance(section, dict) and not isinstance(found.get(key), dict):
            raise ConfigError(f"{path} is no run's settings: its section {key} is missing or no section")
        if isinstance(section, dict) and not isinstance(found[key].get("name", ""), str):
            raise ConfigError(f"{path} is no run's settings: {key}.name is {found[key]['name']!r}")
    found["adapter"].setdefault("weights", base.adapter.weights)
    if found["classifier"].get("filter_threshold"):
        found["classifier"].setdefault("filter_mode", "zero")  # what filtering was before it had a mode
    for name, section in base.items():  # settings that are younger than the run; plugins' arguments are not ours
        if isinstance(section, dict) and name not in PLUGINS:
            for key, value in section.items():
                found[name].setdefault(key, copy.deepcopy(value))
    return EasyDict(found)


def run_of(path: str | Path) -> Path:
    """The run folder of a run or of one of its checkpoints. FileNotFoundError where there is none."""
    path = Path(path)
    for folder in (path, *path.absolute().parents[1:2]):
        if (folder / "config.json").is_file():
            return folder
    raise FileNotFoundError(
        f"{path} is no run folder: it holds no config.json; train first, tools/train.py CONFIG. A checkpoint is named "
        "as RUN/checkpoints/step_000000100, or RUN/checkpoints/best"
    )


def to_json(config: EasyDict) -> str:
    """The settings as JSON text."""
    return json.dumps(config, indent=2) + "\n"


def arguments(section: dict, kind: str) -> dict:
    """A plugin section's arguments: all its keys but those that are ours."""
    own = OWN_KEYS.get(kind, ("name",))
    return {key: value for key, value in section.items() if key not in own}


def missing_needs(config: EasyDict) -> list[str]:
    """A sentence for each file that the recipe needs and that is not there."""
    return [f"missing {need['path']}: {spelled(need['help'])}" for need in config.needs if _lacks(str(need["path"]))]


def _lacks(path: str) -> bool:
    """False for an address on the hub, too: whether it can be had is told when it is fetched."""
    return not path.startswith("hf:/") and not or_shipped(path).exists()


def describe_settings() -> str:
    """Every setting of base.py with its default and its line of why."""
    lines = []
    for line in BASE.read_text().splitlines():
        match = re.match(r"config\.(\S+) = (.*?)  # (.*)", line)
        if match:
            value = re.sub(r'^edict\(name="(\w+)".*\)$', r"\1", match[2])
            lines.append(f"  {match[1] + '=' + value:<42} {match[3]}")
    return "\n".join(lines)


def plugin_faults(config: EasyDict) -> list[str]:
    """What the registries say against the plugins chosen and their arguments, without importing any."""
    chosen = [(section, kind, config[section]) for section, kind in PLUGINS.items()]
    chosen += [("objectives", "objective", section) for section in config.objectives]
    faults = []
    for section, kind, values in chosen:
        if not isinstance(values, dict) or "name" not in values:
            faults.append(f"config.{section}: {values!r} has no name; write a dict of name and arguments")
            continue
        registry, given = registry_of(kind), arguments(values, section)
        try:
            registry.check(values["name"], given)
        except ValueError as error:
            faults.append(f"config.{section}: {error}")
            continue
        for key, default in registry.defaults(values["name"]).items():
            if key in given and default is not None and not fits(given[key], default):
                wanted = f"it takes {kind_of(default)}, such as its default {default!r}"
                faults.append(f"config.{section}.{key} is {given[key]!r}; {wanted}")
    return faults


def override(config: EasyDict, texts: Iterable[str]) -> None:
    """Lay texts such as "optim.lr=1e-4" over settings in place. ConfigError lists every fault."""
    faults: list[str] = []
    for text in texts:
        _override(config, text, faults)
    if faults := [*faults, *_limit_faults(config)]:
        raise ConfigError("\n".join(faults))


def differences(one: dict, two: dict, free: Collection[str] = ()) -> list[str]:
    """Settings that differ, as "optim.lr: 0.1, was 0.2" (one's value first).

    free: settings or whole sections that may differ.
    """
    left, right = _flat(one), _flat(two)
    keys = [key for key in dict.fromkeys([*left, *right]) if left.get(key) != right.get(key)]
    return [
        f"{key}: {left.get(key)!r}, was {right.get(key)!r}"
        for key in keys
        if not any(key == name or key.startswith(f"{name}.") for name in free)
    ]


def _flat(section: dict, where: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in json.loads(json.dumps(section)).items():  # tuples and lists alike
        flat |= _flat(value, f"{where}{key}.") if isinstance(value, dict) else {f"{where}{key}": value}
    return flat


def _limit_faults(config: EasyDict) -> list[str]:
    faults = []
    for name, least in LEAST.items():
        section, key = name.split(".")
        if not least <= config[section][key] < float("inf"):  # NaN neither
            faults.append(f"config.{name} is {config[section][key]}; it must be at least {least}, and finite")
    if not 0 < config.schedule.epochs < float("inf"):
        faults.append(f"config.schedule.epochs is {config.schedule.epochs:g}; it must be above 0, and finite")
    return faults


def _lay(below: EasyDict, above: dict, where: str, faults: list[str]) -> None:
    """Lay `above` over `below` in place; in a plugin section another name starts a section of its own."""
    for key, value in above.items():
        name = f"{where}{key}"
        section = where.rstrip(".")
        if section in PLUGINS and key not in below:
            below[key] = value
        elif key not in below:
            faults.append(_unknown(name, key, below, where))
        elif section in PLUGINS and isinstance(below[key], dict) and isinstance(value, dict):
            below[key] = copy.deepcopy(value)  # one argument, such as adapter.ranks: its keys are no settings
        elif isinstance(below[key], dict) and isinstance(value, dict):
            if name in SHORT_NAMES:
                value = _spell_out(value, name, faults)
            if name in PLUGINS and value.get("name", below[key].name) != below[key].name:
                kept = {own: below[key][own] for own in OWN_KEYS.get(name, ()) if own in below[key]}
                below[key] = EasyDict({**kept, **copy.deepcopy(value)})
            else:
                _lay(below[key], value, f"{name}.", faults)
        elif section in PLUGINS and key not in OWN_KEYS.get(section, ()):
            below[key] = copy.deepcopy(value)
        elif name in ("gate.midpoint", "gate.slope") and value == "auto":
            below["fit"] = below["fit"] or "roles"  # one rule gives both, when a run starts
        elif name in ("gate.midpoint", "gate.slope") and numbers(value):
            below[key] = [float(number) for number in value]  # of a scorer that gives several scores
        elif fits(value, below[key]):
            below[key] = as_default(value, below[key])
        else:
            faults.append(
                f"config.{name} is {value!r}; it takes {kind_of(below[key])}, such as its default {below[key]!r}"
            )


def _spell_out(values: dict, section: str, faults: list[str]) -> dict:
    """The same section with a name such as onnx:net.onnx taken apart, so that settings hold one form only."""
    given = values.get("name")
    if not isinstance(given, str) or ":" not in given:
        return values
    others = {key: value for key, value in values.items() if key != "name"}
    registry = registry_of(PLUGINS[section])
    try:
        short = registry.spell_out(given)
    except ValueError as error:
        faults.append(f"config.{section}: {error}")
        return others
    name = short.pop("name")
    for key, text in short.items():
        if key in others:
            faults.append(f"config.{section}.name is '{given}' and {key} is {others[key]!r}: write the {key} once")
        default = registry.defaults(name).get(key)
        others[key] = text if default is None else parse(text, default)
    return {"name": name, **others}


def _override(config: EasyDict, text: str, faults: list[str]) -> None:
    name, equals, written = text.partition("=")
    if not equals:
        faults.append(f"'{text}' is no override: write section.setting=value, such as optim.lr=1e-4")
        return
    *path, last = name.split(".")
    section = config
    for depth, part in enumerate(path):
        if not isinstance(section.get(part), dict):
            faults.append(_unknown(name, part, section, ".".join([*path[:depth], ""])))
            return
        section = section[part]
    value = parse(written, section.get(last))
    layer: dict = {last: value}
    for part in reversed(path):
        layer = {part: layer}
    _lay(config, layer, "", faults)


def _unknown(name: str, key: str, section: dict, where: str) -> str:
    near = nearest(key, section).replace("'", "")
    return f"unknown setting config.{name}{near.replace('did you mean ', f'did you mean config.{where}')}"
