"""Reads a Python config without running it: its assignments to `config`, statement by statement."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from recognition.migration.found import Setting, Unknown
from recognition.migration.python_calls import METHODS, Calls, change, mentioned, shown
from recognition.migration.python_values import Marker, Section, evaluate, section_of

LARGEST_FILE = 2**20  # bytes; a config has a few thousand
MODULES = {"easydict": "easydict", "os": "os", "os.path": "os.path"}
MEMBERS = {("easydict", "EasyDict"): "EasyDict", ("os", "path"): "os.path", ("os.path", "join"): "os.path.join"}
NOT_RUN = "a config is read here, never run: write the plain values"


def read_config(
    path: Path, imported: Callable[[str], Mapping[str, Setting] | None]
) -> tuple[dict[str, Setting], list[str]]:
    """(settings that it writes, notes on what was not run).

    imported: gives the settings of NAME.py beside it, for a config that imports `config` from there; None = not there.
    ValueError naming file, line and what was found, where running it would be the only way to know a setting.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes: that is no config")
    try:
        with warnings.catch_warnings(action="ignore", category=SyntaxWarning):  # "C:\\data" is no fault of ours
            tree = ast.parse(path.read_bytes(), str(path))
        reader = _Reader(path.name, imported)
        reader.run(tree.body)
        config = reader.names.get("config")
        settings = config.flat() if isinstance(config, Section) else {}
    except SyntaxError as error:
        raise ValueError(f"{path} line {error.lineno}: {error.msg}: this is no Python") from None
    except (ValueError, RecursionError, MemoryError) as error:
        text = str(error) if isinstance(error, ValueError) else "its expressions are too deep"
        raise ValueError(text if path.name in text else f"{path}: {text}") from None
    if isinstance(config, Unknown):
        raise ValueError(f"{path}: its config is known to {config.why} only; {NOT_RUN}, or have the file beside it")
    if not isinstance(config, Section):
        raise ValueError(f"{path} makes no `config = edict()`: it is no config of arcface_torch or FaceMoE")
    return settings, reader.notes


@dataclass
class _Reader:
    file: str
    imported: Callable[[str], Mapping[str, Setting] | None]
    names: dict[str, object] = field(default_factory=lambda: {"__name__": "config"})
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.calls = Calls(self.names)

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
        if fault := self.calls.faults(node):
            raise self._refuse(node, fault)
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
                found = self._value(value)
                for target in targets:
                    self._assign(target, found, value)
            case ast.AnnAssign(target=target, value=value) if value is not None:
                self._assign(target, self._value(value), value)
            case ast.AugAssign(target=target, op=op, value=value):
                self._changed(node, target, op, value)
            case ast.If(test=test, body=body, orelse=other):
                held = self._value(test)
                if isinstance(held, Unknown):
                    raise self._refuse(node, f"`if {ast.unparse(test)}` depends on {held.why}")
                self.run(body if held else other)
            case ast.With(items=items, body=body):
                for item in items:
                    self._value(item.context_expr)
                    self._not_run(node, f"`with {ast.unparse(item.context_expr)}`")
                    if item.optional_vars is not None:
                        self._assign(item.optional_vars, Unknown(f"`{ast.unparse(item.context_expr)}`"))
                self.run(body)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                self._defined(node, name)
            case ast.Expr(value=ast.Constant()) | ast.Pass() | ast.AnnAssign():
                pass
            case ast.Expr(value=ast.Call() as call):
                self._call(node, call)
            case ast.Assert(test=test):
                self._value(test)
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
        beside = self.imported(module.rpartition(".")[2]) if member in ("config", "*") and not known else None
        if known:
            self.names[name] = Marker(known)
        elif beside is not None:
            section = section_of({}, "")
            for key, setting in beside.items():
                section.put(key, setting.value, setting.place)
            self.names["config" if member == "*" else name] = section
            if member == "*":
                self.names.setdefault("edict", Marker("EasyDict"))  # as every config of theirs names it
        elif member == "*":
            self.names["config"] = Unknown(f"the import {module}.*")
            self._not_run(node, f"from {module} import *")
        else:
            self.names[name] = Unknown(f"the import {module}.{member}")
            self._not_run(node, f"from {module} import {member}")

    def _defined(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, name: str) -> None:
        """A function or a class: its body is not looked at before something calls it; a class's runs at once."""
        self.calls.define(name, node)
        run = set().union(*(mentioned(one) for one in node.decorator_list))
        run |= {name} if isinstance(node, ast.ClassDef) else set()
        for value in [] if isinstance(node, ast.ClassDef) else [*node.args.defaults, *node.args.kw_defaults]:
            if value is not None:
                self._value(value)
        if inner := self.calls.reached(run):
            raise self._refuse(node, f"{name} runs what names {inner} and may change it")
        self.names[name] = Unknown(f"{name}(), made in line {node.lineno}")
        self._not_run(node, f"{name}()")

    def _changed(self, node: ast.stmt, target: ast.expr, op: ast.operator, value: ast.expr) -> None:
        """`target += value`, which changes a list in place, under each of its names."""
        before = ast.copy_location(ast.parse(ast.unparse(target), mode="eval").body, node)
        found, more = self._value(before), self._value(value)
        if isinstance(found, list) and isinstance(op, ast.Add):
            if not change(found, "extend", [more]):
                self.calls.forget(found, shown(node))
                found = Unknown(shown(node))
            self._assign(target, found, value)
            return
        both = ast.fix_missing_locations(ast.copy_location(ast.BinOp(before, op, value), node))
        self._assign(target, self._value(both), value)

    def _assign(self, target: ast.expr, value: object, written: ast.expr | None = None) -> None:
        match target:
            case ast.Name(id=name):
                self.names[name] = value
                if written is not None:
                    self.calls.define(name, written)
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
        """A call on a line of its own: a config's update and a list's methods are carried out, others are named."""
        for one in (*call.args, *(one.value for one in call.keywords)):
            self._value(one.value if isinstance(one, ast.Starred) else one)
        of = self._value(call.func.value) if isinstance(call.func, ast.Attribute) else None
        plain = not any(isinstance(one, ast.Starred) for one in call.args)
        if isinstance(of, Section) and call.func.attr == "update" and plain:
            self._update(node, call, of)
        elif isinstance(of, list) and call.func.attr in METHODS:
            values = [self._value(one) for one in call.args]
            if not plain or call.keywords or not change(of, call.func.attr, values):
                self.calls.forget(of, shown(call))
        elif fault := self.calls.faults(call):
            raise self._refuse(node, fault)
        else:
            self._not_run(node, f"`{ast.unparse(call)}`")

    def _update(self, node: ast.stmt, call: ast.Call, of: Section) -> None:
        values = [self._value(one) for one in call.args]
        named = {one.arg: self._value(one.value) for one in call.keywords}
        if None in named or len(values) > 1:
            raise self._refuse(node, f"{shown(call)} may change any setting")
        if values and not isinstance(values[0], dict):
            raise self._refuse(node, f"{shown(call)} with what only running it would tell")
        for key, value in {**(values[0] if values else {}), **named}.items():
            of.put(str(key), value, self._place(node))
