"""What stands in InsightFace's verification .bin files: encoded images and booleans, in a pickle."""

from __future__ import annotations

import math

from recognition.pickled import Holder, Maker, Names, PickleError, RefusedName, read_pickle, shown

SINGLE_BYTES = ("u1", "|u1", "b1", "|b1")


class BinArray(Holder):
    """A numpy array of single bytes along one axis; data is empty until its state was read."""

    data = b""

    def set_state(self, state: object) -> None:
        """state: (version, shape, dtype, whether in Fortran's order, content)."""
        match state:
            case (int(), tuple() as shape, BinType(), bool() | int(), bytes() as data):
                self.data = _along_one_axis(data, shape)
            case _:
                raise PickleError("an array whose content is no bytes")


class BinType(Holder):
    """numpy.dtype of uint8 or bool."""

    def set_state(self, state: object) -> None:
        """Byte order and flags, which single bytes do not have."""


def unpack_bin(data: bytes) -> tuple[list[bytes], list[bool]]:
    """The encoded images and the booleans of a .bin file's bytes; equal images may be one object.

    Entries may be bytes or arrays, as protocols 0 to 5 write them from Python 2 or 3 and numpy 1 or 2.
    RefusedName where the pickle asks for anything else than these, ValueError for damage and for other content.
    """
    content, _ = read_pickle(data, plain_names(len(data)))
    match content:
        case [list() as entries, same]:
            return [_image(entry, i) for i, entry in enumerate(entries)], _booleans(same)
    raise ValueError("holds no pair of (images, booleans), so it is no verification .bin")


def plain_names(size: int) -> Names:
    """What the names in a pickle of `size` bytes stand for that holds encoded images, as bytes or as numpy arrays."""
    left = size  # of the bytes that texts may become: each text of a real file stands in it and is used once

    def encode(arguments: tuple) -> bytes:
        """_codecs.encode(text, "latin1"): how protocols 0 to 2 write bytes."""
        nonlocal left
        match arguments:
            case (str() as text, "latin1" | "latin-1" | b"latin1" | b"latin-1"):
                left -= len(text)
                if left < 0:
                    raise PickleError("it unpacks to more bytes than the file has")
                return text.encode("latin1")
            case (str(), str() | bytes() as codec):
                raise RefusedName(f"_codecs.encode with '{shown(codec)}'")
        raise RefusedName("_codecs.encode of something else than a text")

    core = ("numpy.core", "numpy._core")
    return {
        ("_codecs", "encode"): Maker(encode),
        ("numpy", "ndarray"): "numpy.ndarray",
        ("numpy", "dtype"): Maker(_dtype),
        **{(f"{c}.multiarray", "_reconstruct"): Maker(lambda _: BinArray()) for c in core},
        **{(f"{c}.multiarray", "scalar"): Maker(_scalar) for c in core},
        **{(f"{c}.numeric", "_frombuffer"): Maker(_from_buffer) for c in core},
    }


def _dtype(arguments: tuple) -> BinType:
    match arguments:
        case (str() | bytes() as code, *_):
            code = code.decode("latin1") if isinstance(code, bytes) else code
            if code in SINGLE_BYTES:
                return BinType()
            raise RefusedName(f"numpy.dtype('{shown(code)}')")
    raise RefusedName("numpy.dtype of something else than a text")


def _scalar(arguments: tuple) -> bool:
    match arguments:
        case (BinType(), bytes() as data) if len(data) == 1:
            return data != b"\x00"
    raise PickleError("a scalar that is no boolean")


def _from_buffer(arguments: tuple) -> BinArray:
    """Arrays in protocol 5: (content, dtype, shape, order)."""
    match arguments:
        case (bytes() as data, BinType(), tuple() as shape, str()):
            array = BinArray()
            array.data = _along_one_axis(data, shape)
            return array
    raise PickleError("an array whose content is no bytes")


def _along_one_axis(data: bytes, shape: tuple) -> bytes:
    """data itself: a copy for each array would let a small file fill the memory."""
    if len(shape) > 32 or not all(isinstance(side, int) and side >= 0 for side in shape):
        raise PickleError("an array of a shape that cannot be")
    if math.prod(shape) != len(data) or (data and max(shape, default=1) != len(data)):
        raise PickleError("an array whose content is not of its shape, or goes along more than one axis")
    return data


def _image(entry: object, i: int) -> bytes:
    if isinstance(entry, BinArray):
        entry = entry.data
    if not isinstance(entry, bytes) or not entry:
        raise ValueError(f"entry {i} is no encoded image but {type(entry).__name__} (empty or another type)")
    return entry


def _booleans(entries: object) -> list[bool]:
    if isinstance(entries, BinArray):
        entries = [*entries.data]
    if not isinstance(entries, list | tuple) or not all(isinstance(e, int) and e in (0, 1) for e in entries):
        raise ValueError("holds no list of booleans (one person or two) beside its images")
    return [bool(e) for e in entries]
