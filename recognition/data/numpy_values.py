"""What numpy puts into the pickles of a database: numbers such as int64(3), and arrays, which must hold single bytes.

Read as data through a table of names, see recognition.pickled; numpy itself unpickles nothing.
"""

from __future__ import annotations

import numpy as np

from recognition.data.bin_format import SINGLE_BYTES, BinArray, BinType, plain_names
from recognition.pickled import Holder, Maker, Names, PickleError, RefusedName, shown

NUMBERS = {f"{kind}{size}": size for kind in "iu" for size in (1, 2, 4, 8)} | {"b1": 1, "f2": 2, "f4": 4, "f8": 8}


class PixelArray(PickleError):
    """An array of several axes, or of larger numbers than bytes: pixels, no encoded picture."""


class NumberType(Holder):
    """numpy.dtype of a number."""

    order = "<"

    def __init__(self, code: str) -> None:
        self.code = code.lstrip("|<>=")
        if code[:1] in "<>":
            self.order = code[0]

    def set_state(self, state: object) -> None:
        """state: (version, byte order, and what a plain number has none of)."""
        match state:
            case (int(), "<" | ">" | b"<" | b">" as order, *_):
                self.order = order if isinstance(order, str) else order.decode()
            case (int(), "|" | "=" | b"|" | b"=", *_):
                pass
            case _:
                raise PickleError("a numpy.dtype whose state is none of a number's")

    def number(self, data: bytes) -> int | float:
        return np.frombuffer(data, np.dtype(f"{self.order}{self.code}"))[0].item() + 0  # True is 1


class ByteType(NumberType, BinType):
    """numpy.dtype of single bytes, of which an encoded picture may be an array."""


class ValueArray(BinArray):
    """An array within a value."""

    def set_state(self, state: object) -> None:
        """As BinArray. PixelArray for what holds no encoded picture, whose order of colours nothing states."""
        match state:
            case (_, tuple() as shape, NumberType() as kind, *_):
                _refuse_pixels(shape, kind)
        super().set_state(state)


def names_in_value(size: int) -> Names:
    """What the names in a pickle of `size` bytes stand for that holds an encoded picture and its label."""
    names = dict(plain_names(size))
    names["numpy", "dtype"] = Maker(_dtype)
    for core in ("numpy.core", "numpy._core"):
        from_buffer = names[f"{core}.numeric", "_frombuffer"].make
        names[f"{core}.multiarray", "_reconstruct"] = Maker(lambda _: ValueArray())
        names[f"{core}.multiarray", "scalar"] = Maker(_scalar)
        names[f"{core}.numeric", "_frombuffer"] = Maker(lambda given, then=from_buffer: _from_buffer(given, then))
    return names


def _dtype(arguments: tuple) -> NumberType:
    match arguments:
        case (str() | bytes() as code, *_):
            code = code.decode("latin1") if isinstance(code, bytes) else code
            if code in SINGLE_BYTES:
                return ByteType(code)
            if (code[1:] if code[:1] in "|<>=" else code) in NUMBERS:
                return NumberType(code)
            raise RefusedName(f"numpy.dtype('{shown(code)}')")
    raise RefusedName("numpy.dtype of something else than a text")


def _scalar(arguments: tuple) -> int | float:
    match arguments:
        case (NumberType() as kind, bytes() as data) if len(data) == NUMBERS[kind.code]:
            return kind.number(data)
    raise PickleError("a numpy number that is none")


def _from_buffer(arguments: tuple, then: object) -> object:
    match arguments:
        case (bytes(), NumberType() as kind, tuple() as shape, *_):
            _refuse_pixels(shape, kind)
    return then(arguments)


def _refuse_pixels(shape: tuple, kind: NumberType) -> None:
    sides = [side for side in shape if isinstance(side, int) and side > 1]
    if len(sides) > 1 or not isinstance(kind, ByteType):
        extent = " x ".join(str(side) for side in shape[:4] if isinstance(side, int))
        raise PixelArray(
            f"an array of {extent} numbers ({kind.code}), pixels instead of an encoded picture: encode them first "
            "(cv2.imencode), as nothing says in which order their colours are"
        )
