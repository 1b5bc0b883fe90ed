"""Pictures as SVG on a ground of their own, light or dark as the reader's system is; no script, no font files."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterable

import numpy as np

from recognition.page.markup import Markup, element, join
from recognition.page.style import DARK, LIGHT

WIDTH = 760
BLUE, ORANGE, GREEN = "c1", "c2", "c3"  # as in the report's charts: told apart by colour-blind readers


def _style() -> str:
    def colours(ground: str, box: str, line: str, text: str, soft: str, series: Iterable[str]) -> str:
        lines = (
            f".ground{{fill:{ground}}}.box{{fill:{box};stroke:{line}}}.line{{fill:none;stroke:{line}}}"
            f"text{{fill:{text}}}.soft{{fill:{soft}}}.arrow{{fill:none;stroke:{soft};stroke-width:1.5}}"
            f".head{{fill:{soft}}}.on{{fill:{ground};font-weight:600}}"
        )
        return lines + "".join(
            f".c{number}{{fill:{colour}}}.s{number}{{fill:none;stroke:{colour};stroke-width:2}}"
            for number, colour in enumerate(series)
        )

    light = colours("#ffffff", "#f5f6f8", "#c9ced6", "#1b1f24", "#545b64", LIGHT[:4])
    dark = colours("#15181c", "#1f242a", "#454d57", "#e8eaed", "#b0b7c0", DARK[:4])
    fonts = "text{font:13px system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}.title{font-weight:600;font-size:15px}"
    return (
        f"{light}{fonts}.mono{{font-family:ui-monospace,Consolas,monospace}}@media(prefers-color-scheme:dark){{{dark}}}"
    )


def picture(title: str, told: str, height: int, parts: Iterable[Markup]) -> str:
    """The file. title: at its head. told: what it shows, for who cannot see it."""
    drawn = [
        element("title", told),
        element("style", Markup(_style())),
        element("rect", x=0.5, y=0.5, width=WIDTH - 1, height=height - 1, rx=10, class_="ground"),
        text(20, 28, title, "title"),
        *parts,
    ]
    whole = element(
        "svg", *drawn, xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH} {height}", width=WIDTH, height=height,
        role="img",
    )  # fmt: skip
    return str(whole).replace("><", ">\n<") + "\n"


def text(x: float, y: float, words: object, kind: str = "", anchor: str = "start") -> Markup:
    """A line of text; anchor: start, middle or end."""
    return element("text", words, x=_number(x), y=_number(y), class_=kind or None, text_anchor=anchor)


def lines(x: float, y: float, words: Iterable[object], kind: str = "", anchor: str = "start") -> Markup:
    """Text of several lines."""
    return join(text(x, y + 17 * number, line, kind, anchor) for number, line in enumerate(words))


def box(x: float, y: float, width: float, height: float, kind: str = "box", opacity: float | None = None) -> Markup:
    """A rectangle with round corners."""
    return element(
        "rect", x=_number(x), y=_number(y), width=_number(width), height=_number(height), rx=4, class_=kind,
        fill_opacity=None if opacity is None else f"{opacity:.2f}",
    )  # fmt: skip


def labelled(x: float, y: float, width: float, height: float, *words: str) -> Markup:
    """A box with lines of text in its middle."""
    top = y + height / 2 + 4.5 - 8.5 * (len(words) - 1)
    return join([box(x, y, width, height), lines(x + width / 2, top, words, anchor="middle")])


def arrow(*points: tuple[float, float]) -> Markup:
    """A line through the points, upright or level at its end, with a head there."""
    (x0, y0), (x, y) = points[-2:]
    path = "M" + "L".join(f"{_number(px)} {_number(py)}" for px, py in points)
    if x == x0:
        tip = f"M{_number(x)} {_number(y)}l-4 {-7 if y > y0 else 7}h8z"
    else:
        tip = f"M{_number(x)} {_number(y)}l{-7 if x > x0 else 7} -4v8z"
    return join([element("path", d=path, class_="arrow"), element("path", d=tip, class_="head")])


def curve(points: Iterable[tuple[float, float]], kind: str, dashes: str = "") -> Markup:
    """A line through points."""
    path = "M" + "L".join(f"{_number(x)} {_number(y)}" for x, y in points)
    return element("path", d=path, class_=kind, stroke_dasharray=dashes or None)


def pixels(x: float, y: float, side: float, image: np.ndarray) -> Markup:
    """A picture, every pixel as a square. image: (H, W, 3) uint8 RGB."""
    where = f"data:image/png;base64,{base64.b64encode(png(image)).decode()}"
    return element(
        "image", x=_number(x), y=_number(y), width=_number(side), height=_number(side), href=where,
        style="image-rendering:pixelated",
    )  # fmt: skip


def png(image: np.ndarray) -> bytes:
    """The picture as PNG without compression, so that it is the same whichever zlib there is."""
    height, width, _ = image.shape
    rows = b"".join(b"\0" + row.tobytes() for row in np.ascontiguousarray(image))
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", _stored(rows)),
        (b"IEND", b""),
    )
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def _stored(data: bytes) -> bytes:
    blocks = [data[at : at + 65535] for at in range(0, len(data), 65535)]
    told = b"".join(
        struct.pack("<BHH", number == len(blocks) - 1, len(block), len(block) ^ 0xFFFF) + block
        for number, block in enumerate(blocks)
    )
    return b"\x78\x01" + told + struct.pack(">I", zlib.adler32(data))


def _number(value: float) -> str:
    return f"{round(value, 1):g}"
