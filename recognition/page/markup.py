"""HTML as text that is escaped unless it was made here."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

VOID = ("br", "img", "meta", "path", "line", "circle", "rect", "polyline", "polygon", "hr")


class Markup(str):
    """Text that is HTML already; any other text becomes harmless when it enters an element."""

    __slots__ = ()


def element(name: str, /, *children: object, **attributes: object) -> Markup:
    """<name attributes>children</name>. Children and attribute values that are no Markup are escaped.

    A trailing underscore of an attribute is dropped and others become hyphens; None leaves one out, True sets it bare.
    """
    told = [name]
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            told.append(key)
        elif value is not None and value is not False:
            told.append(f'{key}="{html.escape(str(value), quote=True)}"')
    if name in VOID and not children:
        return Markup(f"<{' '.join(told)}>" if name in ("br", "img", "meta", "hr") else f"<{' '.join(told)}/>")
    return Markup(f"<{' '.join(told)}>{join(children)}</{name}>")


def join(children: Iterable[object], between: str = "") -> Markup:
    """The children one after another; None is nothing."""
    parts = [child if isinstance(child, Markup) else html.escape(str(child)) for child in children if child is not None]
    return Markup(between.join(parts))


def table(
    heads: Sequence[object],
    rows: Iterable[Sequence[object]],
    *,
    caption: object = None,
    marks: Sequence[str] = (),
    label: str = "",
) -> Markup:
    """A table that scrolls inside itself; the first cell of each row is its header.

    marks: a class for each row, or none of them. label: what a screen reader calls it where there is no caption.
    """
    head = element("tr", *(element("th", cell, scope="col") if cell else element("td") for cell in heads))
    lines = []
    for number, row in enumerate(rows):
        first, *rest = row
        cells = [element("th", first, scope="row"), *(element("td", cell) for cell in rest)]
        lines.append(element("tr", *cells, class_=marks[number] or None if number < len(marks) else None))
    whole = element(
        "table",
        None if caption is None else element("caption", caption),
        element("thead", head),
        element("tbody", *lines),
    )
    name = label or (str(caption) if caption is not None and not isinstance(caption, Markup) else "table")
    return element("div", whole, class_="scroll", tabindex="0", role="region", aria_label=name)


def details(summary: object, *children: object, opened: bool = False) -> Markup:
    """A part that the reader opens."""
    return element("details", element("summary", summary), *children, open=opened)


def note(*children: object) -> Markup:
    """A sentence on what is not there, and how to get it."""
    return element("p", *children, class_="note")


def code(text: object) -> Markup:
    """A name or command as it is typed."""
    return element("code", text)


def br() -> Markup:
    """A line's end."""
    return element("br")
