"""Values of Python expressions that are plain: nothing is called but a handful of pure functions."""

from __future__ import annotations

import ast
import operator
import posixpath
import re
from collections.abc import Callable

from recognition.migration.found import Setting, Unknown

LARGEST = 10**12  # of a number in a power: 10 ** 10 ** 10 would not come back
LONGEST = 10_000  # characters or items of a value

OPERATIONS: dict[type, Callable] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda one, many: one in many,
    ast.NotIn: lambda one, many: one not in many,
}
PURE: dict[str, Callable] = {
    one.__name__: one for one in (int, float, str, bool, abs, round, min, max, len, sum, list, tuple, sorted)
}
SPECIFICATION = re.compile(r"[<>^]?0?\d{0,2}(\.\d{1,2})?[a-z%]?")  # of a number in an f-string


class Section(dict):
    """What easydict.EasyDict() would be: values, and where each was written."""

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[str, str] = {}

    def put(self, name: str, value: object, place: str) -> None:
        """Set a value; a dict becomes a section and a list is copied, as in an EasyDict."""
        copied = [*value] if type(value) is list else value
        self[name] = section_of(value, place) if type(value) is dict else copied
        self.places[name] = place

    def flat(self, where: str = "") -> dict[str, Setting]:
        """Every setting, nested ones as a.b."""
        found: dict[str, Setting] = {}
        for name, value in self.items():
            if isinstance(value, Section):
                found |= value.flat(f"{where}{name}.")
            else:
                found[f"{where}{name}"] = Setting(value, self.places[name])
        return found


class Marker(str):
    """A name that stands for something imported: "easydict", "EasyDict", "os", "os.path", "os.path.join"."""


def section_of(values: dict, place: str) -> Section:
    """A section that holds the dict's items."""
    section = Section()
    for name, value in values.items():
        section.put(str(name), value, place)
    return section


def evaluate(node: ast.expr, names: dict[str, object], place: str) -> object:
    """The value of an expression, an Unknown where only running it would tell.

    names: what the names in it stand for. place: where it stands. ValueError for what cannot be at all, such as 1 / 0.
    """
    match node:
        case ast.Constant(value=value):
            return Unknown("bytes") if isinstance(value, bytes) else value
        case ast.Name(id=name):
            return names.get(name, Unknown(f"the name {name}, which it does not set"))
        case ast.Tuple(elts=items) | ast.List(elts=items):
            values = [evaluate(item, names, place) for item in items]
            if not _small(values):
                return Unknown(_shown(node))
            return _first_unknown(values) or (tuple(values) if isinstance(node, ast.Tuple) else values)
        case ast.Dict(keys=keys, values=items) if all(keys):
            made = [evaluate(one, names, place) for one in keys]
            values = [evaluate(one, names, place) for one in items]
            if any(not isinstance(key, str | int) for key in made):
                return Unknown(_shown(node))
            return dict(zip(made, values, strict=True))
        case ast.Attribute(value=of, attr=name):
            return _attribute(evaluate(of, names, place), name, node)
        case ast.Subscript(value=of, slice=ast.Slice(lower=lower, upper=upper, step=step)):
            ends = [None if one is None else evaluate(one, names, place) for one in (lower, upper, step)]
            return _item(evaluate(of, names, place), _first_unknown(ends) or slice(*ends), node, place)
        case ast.Subscript(value=of, slice=index):
            return _item(evaluate(of, names, place), evaluate(index, names, place), node, place)
        case ast.BinOp(left=left, op=op, right=right):
            return _apply(op, [evaluate(left, names, place), evaluate(right, names, place)], node, place)
        case ast.UnaryOp(op=op, operand=operand):
            return _apply(op, [evaluate(operand, names, place)], node, place)
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            return _apply(op, [evaluate(left, names, place), evaluate(right, names, place)], node, place)
        case ast.BoolOp(op=op, values=parts):
            return _both_or_either(isinstance(op, ast.And), [evaluate(part, names, place) for part in parts])
        case ast.IfExp(test=test, body=body, orelse=other):
            held = evaluate(test, names, place)
            return held if isinstance(held, Unknown) else evaluate(body if held else other, names, place)
        case ast.JoinedStr(values=parts):
            return _joined(parts, names, place, node)
        case ast.Call():
            return _called(node, names, place)
    return Unknown(_shown(node))


def _shown(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return f"`{text if len(text) <= 60 else text[:57] + '...'}`"


def _first_unknown(values: list) -> Unknown | None:
    return next((value for value in values if isinstance(value, Unknown)), None)


def _small(values: list) -> bool:
    """Whether all that it holds is no more than LONGEST: [a, a] of [b, b] of ... doubles."""
    todo, count = [values], 0
    while todo and count <= LONGEST:
        items = todo.pop()
        count += len(items)
        todo += [one for one in items if isinstance(one, list | tuple)]
    return count <= LONGEST


def _attribute(of: object, name: str, node: ast.Attribute) -> object:
    if isinstance(of, Section):
        return of.get(name, Unknown(f"{_shown(node)}, which is not set before"))
    if isinstance(of, Marker) and f"{of}.{name}" in ("os.path", "os.path.join", "easydict.EasyDict"):
        return Marker("EasyDict" if name == "EasyDict" else f"{of}.{name}")
    return of if isinstance(of, Unknown) else Unknown(_shown(node))


def _item(of: object, index: object, node: ast.Subscript, place: str) -> object:
    if unknown := _first_unknown([of, index]):
        return unknown
    if not isinstance(of, dict | list | tuple | str):
        return Unknown(_shown(node))
    try:
        return of[index]
    except (LookupError, TypeError, ValueError):
        raise ValueError(f"{place}: {_shown(node)} is not there") from None


def _apply(op: ast.AST, values: list, node: ast.expr, place: str) -> object:
    if unknown := _first_unknown(values):
        return unknown
    plain = all(isinstance(value, int | float | str | list | tuple | None) for value in values)
    numbers = all(isinstance(value, int | float) for value in values)
    if type(op) not in OPERATIONS or not plain:
        return Unknown(_shown(node))
    if isinstance(op, ast.Pow) and not (numbers and abs(values[0]) <= LARGEST and abs(values[1]) <= 64):
        return Unknown(_shown(node))
    if isinstance(op, ast.Mult | ast.Mod) and not numbers:  # "a" * 10 ** 10 and "%999999999d" % 1
        return Unknown(_shown(node))
    try:
        value = OPERATIONS[type(op)](*values)
    except (ArithmeticError, TypeError, ValueError) as error:
        raise ValueError(f"{place}: {_shown(node)}: {error}") from None
    too_long = isinstance(value, str | list | tuple) and len(value) > LONGEST
    return Unknown(_shown(node)) if too_long or isinstance(value, complex) else value


def _both_or_either(both: bool, values: list) -> object:
    for value in values[:-1]:
        if isinstance(value, Unknown) or bool(value) != both:
            return value
    return values[-1]


def _joined(parts: list[ast.expr], names: dict[str, object], place: str, node: ast.JoinedStr) -> object:
    text = ""
    for part in parts:
        if isinstance(part, ast.Constant):
            text += str(part.value)
            continue
        value = evaluate(part.value, names, place)
        if isinstance(value, Unknown):
            return value
        spec = part.format_spec
        form = "" if spec is None else evaluate(spec, names, place)
        plain = isinstance(value, str | int | float | None) and isinstance(form, str)
        if not plain or part.conversion not in (-1, ord("s")) or not SPECIFICATION.fullmatch(form):
            return Unknown(_shown(node))
        try:
            text += format(value, form)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{place}: {_shown(node)}: {error}") from None
    return text


def _called(node: ast.Call, names: dict[str, object], place: str) -> object:
    function = node.func
    made = evaluate(function, names, place)
    made = made if isinstance(made, Marker) else None
    pure = PURE.get(function.id) if isinstance(function, ast.Name) and function.id not in names else None
    is_dict = isinstance(function, ast.Name) and function.id == "dict" and "dict" not in names
    if made not in ("EasyDict", "os.path.join") and not pure and not is_dict:
        return Unknown(_shown(node))
    if any(isinstance(one, ast.Starred) for one in node.args) or any(one.arg is None for one in node.keywords):
        return Unknown(_shown(node))
    values = [evaluate(one, names, place) for one in node.args]
    named = {str(one.arg): evaluate(one.value, names, place) for one in node.keywords}
    if made == "EasyDict" or is_dict:
        if len(values) > 1 or not all(isinstance(value, dict) for value in values):
            return Unknown(_shown(node))
        return section_of({**(values[0] if values else {}), **named}, place)
    if unknown := _first_unknown([*values, *named.values()]):
        return unknown
    try:
        return (pure or posixpath.join)(*values, **named)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ValueError(f"{place}: {_shown(node)}: {error}") from None
