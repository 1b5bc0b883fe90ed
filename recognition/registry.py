"""Plugins found by name: one file, one decorator, no other edit.

A plugin is a class or function under `@KIND.register("name")` in a file of the kind's package, or the object behind an
entry point of an installed package. Files are read as text until a plugin is made, so that names, summaries and
signatures cost no import.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

KINDS = {
    "backbone": "recognition.backbones",
    "margin": "recognition.margins",
    "objective": "recognition.objectives",
    "adapter": "adapters",
    "scorer": "iqa",
    "gate": "iqa.gates",
    "protocol": "recognition.evaluation.protocols",
}


def nearest(name: str, known: Iterable[str]) -> str:
    """The sentence that ends every 'unknown name' error: the nearest known names, then all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    meant = f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
    return f"{meant} (have: {', '.join(known) or 'none'})"


@dataclass(frozen=True)
class Found:
    """Where a plugin stands. `parameters` and `signature` are None where only an import can tell them."""

    name: str
    place: str
    summary: str
    module: str = ""
    parameters: tuple[str, ...] | None = None
    defaults: Mapping[str, object] = field(default_factory=dict)  # those that are plain literals
    signature: str | None = None
    entry: EntryPoint | None = None
    fault: str = ""  # why it cannot be had: an installed package holds the name, too


class Registry:
    """All plugins of one kind.

    kind: one of KINDS, or a name of one's own together with `package`, the dotted package whose files are searched.
    """

    def __init__(self, kind: str, package: str | None = None) -> None:
        self.kind = kind
        self.package = package or KINDS[kind]
        self._objects: dict[str, Callable] = {}
        self._found: dict[str, Found] | None = None

    def register(self, name: str) -> Callable[[Callable], Callable]:
        """Decorator for a class or function. ValueError if another place holds the name already."""

        def keep(plugin: Callable) -> Callable:
            here = Found(name, _place_of(plugin), _first_line(plugin.__doc__))
            there = self._objects.get(name)
            if there is not None and _place_of(there) != here.place:
                raise ValueError(self._twice(name, _place_of(there), here.place))
            filed = (self._found or {}).get(name)
            if filed is not None and filed.module not in ("", plugin.__module__):
                raise ValueError(self._twice(name, filed.place, here.place))
            self._objects[name] = plugin
            return plugin

        return keep

    def names(self) -> list[str]:
        """Every name that can be had, sorted; nothing is imported."""
        return sorted({*self._search(), *self._objects} - self.doubled().keys())

    def doubled(self) -> dict[str, str]:
        """Names that nobody can have, since an installed package took one that was taken; a sentence for each."""
        return {name: found.fault for name, found in self._search().items() if found.fault}

    def summary(self, name: str) -> str:
        """First line of the plugin's docstring."""
        return self._where(name).summary

    def signature(self, name: str) -> str:
        """Signature as text, such as '(rank: int = 8)'; imports the plugin only where its file does not tell."""
        found = self._where(name)
        return found.signature if found.signature is not None else str(inspect.signature(self.get(name)))

    def check(self, name: str, arguments: Iterable[str]) -> None:
        """ValueError for an unknown name, or for arguments that the plugin's signature does not take."""
        found = self._where(name)
        if found.parameters is not None:
            for argument in arguments:
                if argument not in found.parameters:
                    raise ValueError(
                        f"{self.kind} '{name}': unexpected argument '{argument}'; it takes {found.signature}"
                    )

    def spell_out(self, name: str) -> dict[str, str]:
        """The section that a short form stands for: "onnx:net.onnx" -> {"name": "onnx", "file": "net.onnx"}.

        What follows the colon is the plugin's first argument, as text; a name without a colon comes back alone.
        ValueError for an unknown plugin, one without arguments, and nothing behind the colon.
        """
        plugin, colon, text = name.partition(":")
        if not colon:
            return {"name": name}
        parameters = self.parameters(plugin)
        if not parameters or not text:
            wanted = f"write {plugin}:{parameters[0].upper()}" if parameters else "it takes no arguments"
            raise ValueError(f"{self.kind} '{name}': {wanted}")
        return {"name": plugin, parameters[0]: text}

    def parameters(self, name: str) -> tuple[str, ...]:
        """Names of a plugin's arguments, in order; imports it only where its file does not tell."""
        found = self._where(name)
        return tuple(inspect.signature(self.get(name)).parameters) if found.parameters is None else found.parameters

    def defaults(self, name: str) -> Mapping[str, object]:
        """Default values of a plugin's arguments, as far as its file tells them as plain literals."""
        return self._where(name).defaults

    def get(self, name: str) -> Callable:
        """The class or function itself."""
        found = self._where(name)
        if name not in self._objects:
            if found.entry is not None:
                self._objects[name] = self._load(found.entry)
            else:
                importlib.import_module(found.module)
        return self._objects[name]

    def create(self, name: str, /, **arguments):
        """Make the plugin. ValueError names the nearest plugins, or the signature where the arguments do not fit."""
        plugin = self.get(name)
        try:
            inspect.signature(plugin).bind(**arguments)
        except TypeError as error:
            raise ValueError(f"{self.kind} '{name}': {error}; it takes {inspect.signature(plugin)}") from None
        return plugin(**arguments)

    def _load(self, entry: EntryPoint) -> Callable:
        try:
            plugin = entry.load()
        except (Exception, SystemExit) as error:  # whatever somebody else's module does when it is imported
            raise ValueError(self._unusable(entry, f"{type(error).__name__}: {error}")) from error
        if not callable(plugin):
            raise ValueError(self._unusable(entry, "it is neither a class nor a function"))
        return plugin

    def _unusable(self, entry: EntryPoint, fault: str) -> str:
        return (
            f"{self.kind} '{entry.name}' of the package {_package_of(entry)} cannot be used, {fault} "
            f"(its entry point is {entry.value}): update or uninstall that package, or take another {self.kind}"
        )

    def _where(self, name: str) -> Found:
        found = self._search().get(name)
        if found is not None and found.fault:
            raise ValueError(found.fault)
        if found is not None:
            return found
        if name in self._objects:
            plugin = self._objects[name]
            return Found(name, _place_of(plugin), _first_line(plugin.__doc__))
        raise ValueError(f"unknown {self.kind} '{name}'{nearest(str(name), self.names())}")

    def _search(self) -> dict[str, Found]:
        if self._found is None:
            found: dict[str, Found] = {}
            entries = [
                Found(entry.name, f"entry point {entry.value} of {package}", f"of the package {package}", entry=entry)
                for entry in entry_points(group=f"lrface.{self.kind}s")
                for package in [_package_of(entry)]
            ]
            for plugin in [*_read_package(self.package), *entries]:
                there = found.setdefault(plugin.name, plugin)
                if there is plugin:
                    continue
                fault = self._twice(plugin.name, there.place, plugin.place)
                if plugin.entry is None:
                    raise ValueError(fault)
                package = _package_of(plugin.entry).split()[0]
                found[plugin.name] = replace(there, fault=f"{fault}, or uninstall {package}")
            self._found = found
        return self._found

    def _twice(self, name: str, first: str, second: str) -> str:
        return f"{self.kind} '{name}' is registered twice: in {first} and in {second}; rename one of them"


def registry_of(kind: str) -> Registry:
    """The one registry of a kind; importing its package costs no torch."""
    package = vars(importlib.import_module(KINDS[kind]))
    return next(value for value in package.values() if isinstance(value, Registry))


def _package_of(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else entry.value.partition(":")[0]


def _place_of(plugin: Callable) -> str:
    code = inspect.unwrap(plugin)
    try:
        return f"{inspect.getsourcefile(code)}:{inspect.getsourcelines(code)[1]}"
    except (OSError, TypeError):
        return f"{plugin.__module__}.{plugin.__qualname__}"


def _first_line(docstring: str | None) -> str:
    return (docstring or "").strip().split("\n")[0]


def _read_package(package: str) -> list[Found]:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"'{package}' is not a package, so it cannot hold plugins")
    found = []
    for folder in spec.submodule_search_locations:
        for path in sorted(Path(folder).glob("*.py")):
            tree = ast.parse(path.read_text(), filename=str(path))
            for node in tree.body:
                found += _read_definition(node, f"{package}.{path.stem}", path)
    return found


def _read_definition(node: ast.stmt, module: str, path: Path) -> list[Found]:
    if not isinstance(node, ast.FunctionDef | ast.ClassDef):
        return []
    return [
        Found(
            name=call.args[0].value,
            place=f"{path}:{node.lineno}",
            summary=_first_line(ast.get_docstring(node)),
            module=module,
            **_read_parameters(node),
        )
        for call in node.decorator_list
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "register"
        and call.args
        and isinstance(call.args[0], ast.Constant)
    ]


def _read_parameters(node: ast.FunctionDef | ast.ClassDef) -> dict:
    function, skip = node, 0
    if isinstance(node, ast.ClassDef):
        inits = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
        if not inits:  # inherited or generated: only the import can tell
            return {}
        function, skip = inits[0], 1
    spec = function.args
    if spec.kwarg is not None:
        return {}
    positional = [*spec.posonlyargs, *spec.args][skip:]
    shown = ast.unparse(spec)
    if skip:
        shown = shown.removeprefix("self").removeprefix(", ")
    defaulted = [
        *zip(positional[len(positional) - len(spec.defaults) :], spec.defaults, strict=True),
        *zip(spec.kwonlyargs, spec.kw_defaults, strict=True),
    ]
    return {
        "parameters": tuple(a.arg for a in [*positional, *spec.kwonlyargs]),
        "defaults": {a.arg: default.value for a, default in defaulted if isinstance(default, ast.Constant)},
        "signature": f"({shown})",
    }
