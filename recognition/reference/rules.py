"""The rules that a protocol states, read from its file: they are given to it when its data is opened."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import fields
from types import ModuleType

from recognition.evaluation.compared import PAIR_RULES
from recognition.evaluation.protocol import Rules

NAMES = tuple(field.name for field in fields(Rules))


def rules_of(plugin: Callable) -> dict[str, str]:
    """Rule's name -> phrase. What data or arguments decide stands as an ellipsis, or as both of two choices."""
    found: dict[str, str] = {}
    whole = False  # stated anew, not laid over others
    for module in _modules(inspect.getmodule(plugin)):
        tree = ast.parse(inspect.getsource(module))
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in ("Rules", "replace"):
                whole |= call.func.id == "Rules"
                for name, text in _phrases(call, module):
                    others = found.get(name)
                    found[name] = text if others in (None, text) else f"{text}; or {others}"
        if found:
            break
    modules = [*_modules(inspect.getmodule(plugin))]
    shared = [vars(module)[name] for module in modules for name in _named(module, plugin)]
    for rules in shared or ([] if whole else [PAIR_RULES]):  # Compared's own
        for name in NAMES:
            if getattr(rules, name):
                found.setdefault(name, getattr(rules, name))
    return {name: found[name] for name in NAMES if found.get(name)}


def _modules(module: ModuleType) -> Iterator[ModuleType]:
    """The plugin's own, then helpers beside it that it imports."""
    yield module
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ImportFrom) and node.module and ".protocols._" in node.module:
            yield importlib.import_module(node.module)


def _named(module: ModuleType, plugin: Callable) -> list[str]:
    """Names of shared rules in the plugin's own source; else in its module; pairs' where it names none."""
    holds = [name for name, value in vars(module).items() if isinstance(value, Rules)]
    text = inspect.getsource(plugin)
    own = [name for name in holds if name in text]
    return own or (["PAIR_RULES"] if "PAIR_RULES" in holds else holds)


def _phrases(call: ast.Call, module: ModuleType) -> Iterator[tuple[str, str]]:
    for keyword in call.keywords:
        if keyword.arg in NAMES:
            text = _text(keyword.value, module)
            if text.strip(" ….;"):
                yield keyword.arg, text


def _text(node: ast.expr, module: ModuleType) -> str:
    """A phrase as far as the file tells it."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, module) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return _text(node.value, module)
    if isinstance(node, ast.BinOp):
        return _text(node.left, module) + _text(node.right, module)
    if isinstance(node, ast.IfExp):
        choices = [text for text in (_text(node.body, module), _text(node.orelse, module)) if text]
        return " or ".join(choices)
    if (
        isinstance(node, ast.Call)
        and node.args
        and isinstance(node.args[0], ast.Name)
        and node.args[0].id == "failures"
    ):
        return "as the argument `failures` says"
    if isinstance(node, ast.Name | ast.Attribute):
        return _constant(node, module)
    return "…"


def _constant(node: ast.Name | ast.Attribute, module: ModuleType) -> str:
    value: object = module
    for part in ast.unparse(node).split("."):
        value = getattr(value, part, None)
    return value if isinstance(value, str) else "…"
