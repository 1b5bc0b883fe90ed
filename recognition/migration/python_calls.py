"""What calls in a Python config may change. Nothing is called: what may reach the settings is refused by its line."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

from recognition.migration.found import Unknown
from recognition.migration.python_values import LONGEST, PURE, Marker, Section, evaluate

METHODS = ("append", "extend", "insert", "reverse", "sort")  # of a list, which are carried out
LOOKING = ("get", "keys", "values", "items", "copy", "index", "count")  # these change nothing
HARMLESS = (*PURE, "print", "dict", "isinstance", "range", "enumerate", "zip", "any", "all", "set")
ANYTHING = ("exec", "eval", "globals", "locals", "vars", "setattr", "delattr")


def mentioned(node: ast.AST) -> set[str]:
    """Every name in it."""
    names = {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
    return names.union(*(one.names for one in ast.walk(node) if isinstance(one, ast.Global)))


def shown(node: ast.AST) -> str:
    """A statement's first line."""
    return f"`{ast.unparse(node).splitlines()[0]}`"


@dataclass
class Calls:
    """Looks at the calls of a config.

    names: what each name stands for so far. made: names that stand for something to be called -> names in its body.
    """

    names: dict[str, object]
    made: dict[str, set[str]] = field(default_factory=dict)

    def define(self, name: str, node: ast.AST) -> None:
        """Note a function, a class, or a value that holds one."""
        inside = mentioned(node)
        callable_ = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if callable_ or inside & {*self.made} or any(isinstance(one, ast.Lambda) for one in ast.walk(node)):
            self.made[name] = inside
        else:
            self.made.pop(name, None)

    def reached(self, names: set[str]) -> str:
        """A list, dict or config that calling what these names stand for may change, "" = none."""
        seen: set[str] = set()
        todo = [*names]
        while todo:
            name = todo.pop()
            if name in seen or name not in self.made:
                continue
            seen.add(name)
            for inner in sorted(self.made[name]):
                if isinstance(self.names.get(inner), list | dict) or inner in ANYTHING:
                    return inner
                todo.append(inner)
        return ""

    def faults(self, node: ast.expr) -> str:
        """Why an expression cannot be read without running it, "" = it can.

        Lists and dicts that go into calls are unknown afterwards.
        """
        for one in ast.walk(node):
            if isinstance(one, ast.NamedExpr):
                return f"{shown(one)} sets a name within an expression"
            if isinstance(one, ast.Attribute) and one.attr.startswith("__"):
                return f"{shown(one)} reaches behind the settings"
            if isinstance(one, ast.Call) and (fault := self._fault(one)):
                return fault
        return ""

    def _fault(self, call: ast.Call) -> str:
        function = call.func
        name = function.id if isinstance(function, ast.Name) and function.id not in self.names else ""
        if name in ANYTHING:
            return f"{shown(call)} may change any setting"
        if name in HARMLESS or isinstance(self._now(function), Marker):
            return ""
        if inner := self.reached(mentioned(call)):
            return f"{shown(call)} runs what names {inner} and may change it"
        if isinstance(function, ast.Attribute):
            of = self._now(function.value)
            if isinstance(of, list | dict) and function.attr not in LOOKING:
                return f"{shown(call)} may change {'any setting' if isinstance(of, Section) else 'what it belongs to'}"
            if isinstance(of, list | dict):
                return ""
        for given in (*call.args, *(one.value for one in call.keywords)):
            value = self._now(given.value if isinstance(given, ast.Starred) else given)
            if isinstance(value, Section):
                return f"{shown(call)} may change any setting"
            if isinstance(value, list | dict):
                self.forget(value, shown(call))
        return ""

    def _now(self, node: ast.expr) -> object:
        try:
            return evaluate(node, self.names, "")
        except ValueError:
            return None

    def forget(self, value: object, why: str) -> None:
        """What holds this list or dict is unknown from here on."""
        unknown = Unknown(f"{why}, which may change it")

        def holds(one: object) -> bool:
            return one is value or (type(one) in (list, tuple) and any(holds(inner) for inner in one))

        def within(section: dict) -> None:
            for key, one in section.items():
                if holds(one):
                    section[key] = unknown
                elif isinstance(one, dict):
                    within(one)

        within(self.names)


def change(of: list, method: str, values: list) -> bool:
    """Carry a list's method out in place. False where it cannot be told what would come of it."""
    added = values[0] if method == "extend" and values and isinstance(values[0], list | tuple) else values
    nested = any(isinstance(one, list | tuple | dict) for one in added)  # it might come to hold itself
    if any(isinstance(one, Unknown) for one in values) or nested or method not in METHODS:
        return False
    if method == "extend" and not (len(values) == 1 and isinstance(values[0], list | tuple)):
        return False
    if len(of) + (len(values[0]) if method == "extend" else 1) > LONGEST:
        return False
    try:
        getattr(of, method)(*([list(values[0])] if method == "extend" else values))
    except TypeError:
        return False
    return True
