"""Settings of ours laid over a conversion: what they stand in for, and what of it they leave."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from recognition.config import PLUGINS


def covered(given: Collection[str], covers: Collection[str]) -> bool:
    """Whether one of the settings given stands in for a rule's: margin.name and margin do for ("margin.name",)."""
    return any(name.startswith(cover) or cover.startswith(f"{name}.") for name in given for cover in covers)


def told(into: Mapping[str, object], config: Mapping[str, Mapping], given: Collection[str]) -> str:
    """What became of a row's settings in the recipe as it was loaded, "" = they are what the row says."""
    said, gone = [], []
    for key, value in into.items():
        section, _, name = key.partition(".")
        if not any(_touches(one, key) for one in given):
            continue
        if name not in config[section]:
            gone.append(key)
        elif _plain(config[section][name]) != _plain([value] if key == "data.records" else value):
            said.append(f"{key}={config[section][name]!r}")
    if gone:
        section = gone[0].partition(".")[0]
        new = f"{section}.name={config[section]['name']}"
        said.append(f"with {new} goes {', '.join(gone)}: give again what is meant to stay")
    return ", ".join(said)


def _touches(given: str, key: str) -> bool:
    section = key.partition(".")[0]
    renamed = section in PLUGINS and given == f"{section}.name"
    return renamed or given == key or key.startswith(f"{given}.") or given.startswith(f"{key}.")


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
