"""Reads a Python config without running it: its assignments to `config`, statement by statement."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from recognition.migration.found import Setting, Unknown
from recognition.migration.python_values import Marker, Section, evaluate, section_of

LARGEST_FILE = 2**20  # bytes; a config has a few thousand
MODULES = {"easydict": "easydict", "os": "os", "os.path": "os.path"}
MEMBERS = {("easydict", "EasyDict"): "EasyDict", ("os", "path"): "os.path", ("os.path", "join"): "os.path.join"}
NOT_RUN = "a config is read here, never run: write the plain values"


def read_config(path: Path, base: Callable[[], Mapping[str, Setting]]) -> tuple[dict[str, Setting], list[str]]:
    """(settings that it writes, notes on what was not run).

    base: gives the settings of base.py, for a config that imports `config` from there.
    ValueError naming file, line and what was found, where running it would be the only way to know a setting.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes: that is no config")
    try:
        with warnings.catch_warnings(action="ignore", category=SyntaxWarning):  # "C:\\data" is no fault of ours
            tree = ast.parse(path.read_bytes(), str(path))
        reader = _Reader(path.name, base)
        reader.run(tree.body)
    except SyntaxError as error:
        raise ValueError(f"{path} line {error.lineno}: {error.msg}: this is no Python") from None
    except (ValueError, RecursionError, MemoryError) as error:
        text = str(error) if isinstance(error, ValueError) else "its expressions are too deep"
        raise ValueError(text if path.name in text else f"{path}: {text}") from None
    config = reader.names.get("config")
    if not isinstance(config, Section):
        raise ValueError(f"{path} makes no `config = edict()`: it is no config of arcface_torch or FaceMoE")
    return config.flat(), reader.notes


@dataclass
class _Reader:
    file: str
    base: Callable[[], Mapping[str, Setting]]
    names: dict[str, object] = field(default_factory=lambda: {"__name__": "config"})
    notes: list[str] = field(default_factory=list)

    def run(self, body: list[ast.stmt]) -> None:
        for node in body:
            self._statement(node)

    def _place(self, node: ast.AST) -> str:
        return f"{self.file} line {node.lineno}"

    def _refuse(self, node: ast.AST, what: str) -> ValueError:
        return ValueError(f"{self._place(node)}: {what}; {NOT_RUN}")

    def _not_run(self, node: ast.AST, what: str) -> None:
        self.notes.append(f"{self._place(node)}: {what} is not run")

    def _value(self, node: ast.expr) -> object:
        return evaluate(node, self.names, self._place(node))

    def _statement(self, node: ast.stmt) -> None:
        match node:
            case ast.Import(names=many):
                for one in many:
                    self._import(node, one.name, one.asname or one.name.partition(".")[0], MODULES.get(one.name))
            case ast.ImportFrom(module=module, names=many):
                for one in many:
                    self._import_from(node, module or "", one.name, one.asname or one.name)
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    self._assign(target, self._value(value))
            case ast.AnnAssign(target=target, value=value) if value is not None:
                self._assign(target, self._value(value))
            case ast.AugAssign(target=target, op=op, value=value):
                before = ast.copy_location(ast.parse(ast.unparse(target), mode="eval").body, node)
                both = ast.fix_missing_locations(ast.copy_location(ast.BinOp(before, op, value), node))
                self._assign(target, self._value(both))
            case ast.If(test=test, body=body, orelse=other):
                held = self._value(test)
                if isinstance(held, Unknown):
                    raise self._refuse(node, f"`if {ast.unparse(test)}` depends on {held.why}")
                self.run(body if held else other)
            case ast.With(items=items, body=body):
                for item in items:
                    self._not_run(node, f"`with {ast.unparse(item.context_expr)}`")
                    if item.optional_vars is not None:
                        self._assign(item.optional_vars, Unknown(f"`{ast.unparse(item.context_expr)}`"))
                self.run(body)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                self.names[name] = Unknown(f"{name}(), made in line {node.lineno}")
                self._not_run(node, f"{name}()")
            case ast.Expr(value=ast.Constant()) | ast.Pass() | ast.AnnAssign():
                pass
            case ast.Expr(value=ast.Call() as call):
                self._call(node, call)
            case ast.Assert():
                self._not_run(node, "assert")
            case _:
                kind = type(node).__name__.lower()
                raise self._refuse(node, f"`{ast.unparse(node).splitlines()[0]}` ({kind})")

    def _import(self, node: ast.stmt, module: str, name: str, known: str | None) -> None:
        whole = known if name != "os" or module == "os" else "os"  # `import os.path` gives the name os
        self.names[name] = Marker(whole) if known else Unknown(f"the import {module}")
        if not known:
            self._not_run(node, f"import {module}")

    def _import_from(self, node: ast.stmt, module: str, member: str, name: str) -> None:
        if module == "__future__":
            return
        known = MEMBERS.get((module, member))
        if known:
            self.names[name] = Marker(known)
        elif module.rpartition(".")[2] == "base" and member == "config":
            self.names[name] = section_of({}, "")
            for key, setting in self.base().items():
                self.names[name].put(key, setting.value, setting.place)
        else:
            self.names[name] = Unknown(f"the import {module}.{member}")
            self._not_run(node, f"from {module} import {member}")

    def _assign(self, target: ast.expr, value: object) -> None:
        match target:
            case ast.Name(id=name):
                self.names[name] = value
            case ast.Attribute(value=of, attr=name):
                self._put(target, self._value(of), name, value)
            case ast.Subscript(value=of, slice=index):
                self._put(target, self._value(of), self._value(index), value)
            case ast.Tuple(elts=targets) | ast.List(elts=targets):
                many = isinstance(value, list | tuple) and len(value) == len(targets)
                for number, one in enumerate(targets):
                    self._assign(one, value[number] if many else Unknown(f"`{ast.unparse(target)} = ...`"))
            case _:
                raise self._refuse(target, f"`{ast.unparse(target)} = ...`")

    def _put(self, target: ast.expr, of: object, name: object, value: object) -> None:
        if isinstance(of, Section) and isinstance(name, str):
            of.put(name, value, self._place(target))
        elif isinstance(of, Unknown | Marker):
            self._not_run(target, f"`{ast.unparse(target)} = ...`")
        else:
            raise self._refuse(target, f"`{ast.unparse(target)} = ...`")

    def _call(self, node: ast.stmt, call: ast.Call) -> None:
        """A call on a line of its own: config.update(...) is taken, others are named, unless they get the config."""
        shown = f"`{ast.unparse(call)}`"
        of = self._value(call.func.value) if isinstance(call.func, ast.Attribute) else None
        given = [*call.args, *(one.value for one in call.keywords)]
        values = [self._value(one.value if isinstance(one, ast.Starred) else one) for one in given]
        named = {one.arg: value for one, value in zip(call.keywords, values[len(call.args) :], strict=True)}
        if isinstance(of, Section) and call.func.attr == "update" and None not in named and len(call.args) <= 1:
            if call.args and not isinstance(values[0], dict):
                raise self._refuse(node, f"{shown} with what only running it would tell")
            for key, value in {**(values[0] if call.args else {}), **named}.items():
                of.put(str(key), value, self._place(node))
        elif isinstance(of, Section) or any(isinstance(value, Section) for value in values):
            raise self._refuse(node, f"{shown} may change any setting")
        else:
            self._not_run(node, shown)
