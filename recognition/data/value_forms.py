"""What stands in one value of a database of pictures: an encoded picture, and a label where the value has one.

    a picture                    JPEG, PNG, WebP or BMP as it is; the label lies in the key, or under a key of its own
    msgpack, pickle              (picture, label), in either order, or a map with columns as lists of pictures have them
    Datum (Caffe's protobuf)     an encoded picture, or pixels (channels, height, width), BGR, and a label

Pickles are read as data: whatever is no plain tuple, list, dict, bytes, text, number or array of bytes is refused.
"""

from __future__ import annotations

import math
import struct
from typing import ClassVar

import cv2
import numpy as np

from recognition.data.bin_format import BinArray
from recognition.data.lists import LABEL_COLUMNS, PICTURE_COLUMNS
from recognition.data.numpy_values import PixelArray, names_in_value
from recognition.pickled import PickleError, RefusedName, read_pickle

DEEPEST = 8  # containers within containers
WANTED = (
    "wanted a JPEG, PNG, WebP or BMP; (picture, label) in msgpack or as a plain pickle; or a Datum of Caffe. Write it "
    "anew in one of these forms, or as a folder per identity"
)
Labelled = tuple[bytes, str]  # label "": it does not stand in the value


def picture_ending(data: bytes) -> str:
    """.jpg, .png, .webp or .bmp by the first bytes; "" for anything else."""
    if data.startswith(b"\xff\xd8\xff"):
        return ".jpg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return ".png"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return ".webp"
    if data.startswith(b"BM") and len(data) >= 26 and data[6:10] == b"\0\0\0\0":
        return ".bmp"
    return ""


def unwrap(value: bytes) -> Labelled:
    """Picture and label of a value. ValueError saying what it looks like instead."""
    if picture_ending(value):
        return value, ""
    for reads, read in ((_looks_msgpack, _msgpack), (_looks_pickled, _pickle), (_looks_datum, _datum)):
        if reads(value):
            return read(value)
    raise ValueError(f"{describe(value)}; {WANTED}")


def label_text(label: object) -> str | None:
    """A label as text; None for what is none."""
    if isinstance(label, bool):
        return None
    if isinstance(label, float) and label.is_integer() and abs(label) < 2**53:
        label = int(label)
    if isinstance(label, int) and abs(label) < 2**63:
        return str(label)
    if isinstance(label, bytes):
        try:
            label = label.decode()
        except UnicodeDecodeError:
            return None
    if not isinstance(label, str) or len(label) > 1000 or not label.strip().isprintable():
        return None
    return label.strip() or None


def describe(value: bytes) -> str:
    """What bytes look like, for whoever has to find out."""
    if not value:
        return "it is empty"
    if b"\xff\xff\xff\xff" in value[:32] and value[:1] != b"\xff":
        return f"{len(value)} bytes that look like pyarrow.serialize, deprecated since pyarrow 2.0"
    if value[:2] in (b"\x1f\x8b", b"PK", b"\x28\xb5"):
        return f"{len(value)} bytes that look compressed"
    if value[:80].isascii() and value[:80].decode().isprintable():
        return f"the text {value[:40].decode()!r}"
    return f"{len(value)} bytes that begin with {value[:8].hex(' ')}"


def _labelled(content: object, kind: str) -> Labelled:
    """Picture and label of what was unpacked."""
    if isinstance(content, dict):
        plain = {k.decode("latin1") if isinstance(k, bytes) else k: v for k, v in content.items()}
        picture = next((plain[name] for name in PICTURE_COLUMNS if name in plain), None)
        label = next((plain[name] for name in LABEL_COLUMNS if name in plain), None)
        pair = [picture, label]
    elif isinstance(content, list | tuple):
        pair = list(content)
    else:
        pair = [content]
    pair = [part.data if isinstance(part, BinArray) else part for part in pair]
    if len(pair) == 2 and not _is_picture(pair[0]) and _is_picture(pair[1]):
        pair.reverse()
    label = label_text(pair[1]) if len(pair) == 2 else None
    if len(pair) != 2 or not _is_picture(pair[0]) or label is None:
        inside = ", ".join(type(part).__name__ for part in pair[:6])
        raise ValueError(f"{kind} of ({inside}), in which no picture and one label were found; {WANTED}")
    return pair[0], label


def _is_picture(part: object) -> bool:
    return isinstance(part, bytes) and bool(picture_ending(part))


def _looks_pickled(value: bytes) -> bool:
    older = value[:1] in (b"(", b"}", b"]")  # protocols 0 and 1 begin with a tuple, dict or list
    return value[-1:] == b"." and (older or (value[:1] == b"\x80" and value[1:2] in b"\2\3\4\5"))


def _pickle(value: bytes) -> Labelled:
    try:
        content, _ = read_pickle(value, names_in_value(len(value)))
    except RefusedName as error:
        raise ValueError(f"a pickle that asks for {error}; nothing of a pickle is run here; {WANTED}") from None
    except PixelArray as error:
        raise ValueError(f"a pickle with {error}; {WANTED}") from None
    except PickleError as error:
        raise ValueError(f"a damaged pickle: {error}") from None
    return _labelled(content, "a pickle")


def _looks_msgpack(value: bytes) -> bool:
    return value[:1] in (b"\x92", b"\x82", b"\xdc")  # an array or a map of two, an array of 16 bits


def _msgpack(value: bytes) -> Labelled:
    content, at = _Msgpack(value).take(0, 0)
    if at != len(value):
        raise ValueError(f"msgpack with {len(value) - at} bytes behind its end; {WANTED}")
    return _labelled(content, "msgpack")


class _Msgpack:
    """A reader of what (picture, label) takes: containers, texts, bytes, numbers; no extensions."""

    NUMBERS: ClassVar = {
        **{0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q"},
        **{0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"},
    }
    BYTES: ClassVar = {0xC4: ">B", 0xC5: ">H", 0xC6: ">I", 0xD9: ">B", 0xDA: ">H", 0xDB: ">I"}
    PLAIN: ClassVar = {0xC0: None, 0xC2: False, 0xC3: True}

    def __init__(self, data: bytes) -> None:
        self.data = data

    def take(self, at: int, depth: int) -> tuple[object, int]:
        """The object at a byte, and the byte behind it. Texts stay bytes, as older writers did not tell them apart."""
        code = self.data[at] if at < len(self.data) else -1
        if code < 0 or depth > DEEPEST:
            raise ValueError("msgpack that is cut short or nested too deep")
        at += 1
        if code < 0x80 or code >= 0xE0:
            return (code if code < 0x80 else code - 256), at
        if code in self.PLAIN:
            return self.PLAIN[code], at
        if code in self.NUMBERS:
            return self.number(self.NUMBERS[code], at)
        if 0xA0 <= code < 0xC0:
            return self.run(code & 31, at)
        if code in self.BYTES:
            return self.run(*self.number(self.BYTES[code], at))
        if code >> 4 == 9 or code == 0xDC:
            return self.several(*((code & 15, at) if code != 0xDC else self.number(">H", at)), depth)
        if code >> 4 == 8:
            flat, at = self.several(2 * (code & 15), at, depth)
            keys = flat[::2]
            if not all(isinstance(key, bytes | int) for key in keys):
                raise ValueError("msgpack with a key that is no text")
            return dict(zip(keys, flat[1::2], strict=True)), at
        raise ValueError(f"msgpack of type 0x{code:02x}, which is not read here; {WANTED}")

    def number(self, form: str, at: int) -> tuple[int | float, int]:
        end = at + struct.calcsize(form)
        if end > len(self.data):
            raise ValueError("msgpack that is cut short")
        return struct.unpack_from(form, self.data, at)[0], end

    def run(self, length: int, at: int) -> tuple[bytes, int]:
        if at + length > len(self.data):
            raise ValueError(f"msgpack that is cut short: {length} bytes must follow, {len(self.data) - at} do")
        return self.data[at : at + length], at + length

    def several(self, count: int, at: int, depth: int) -> tuple[list[object], int]:
        found = []
        for _ in range(count):
            one, at = self.take(at, depth + 1)
            found.append(one)
        return found, at


def _looks_datum(value: bytes) -> bool:
    return value[:1] in (b"\x08", b"\x22", b"\x2a") and len(value) > 4


def _datum(value: bytes) -> Labelled:
    """Caffe's Datum: 1 channels, 2 height, 3 width, 4 data, 5 label, 6 floats, 7 encoded."""
    try:
        fields = _protobuf(value)
    except ValueError as error:
        raise ValueError(f"{describe(value)}, no sound Datum of Caffe ({error}); {WANTED}") from None
    data, label = fields.get(4, b""), fields.get(5, 0)
    if not isinstance(data, bytes) or not isinstance(label, int):
        raise ValueError(f"{describe(value)}, no Datum of Caffe; {WANTED}")
    text = str(label - 2**64 if label >= 2**63 else label)
    if picture_ending(data):
        return data, text
    shape = [fields.get(number, 0) for number in (1, 2, 3)]
    sound = shape[0] in (1, 3) and all(isinstance(side, int) for side in shape) and math.prod(shape) == len(data)
    if not data or not sound:
        raise ValueError(f"a Datum of Caffe with {len(data)} bytes for {shape} pixels, no picture; {WANTED}")
    pixels = np.frombuffer(data, np.uint8).reshape(shape).transpose(1, 2, 0)
    done, png = cv2.imencode(".png", np.ascontiguousarray(pixels))
    if not done:
        raise ValueError(f"a Datum of Caffe with {shape} pixels, which cannot be encoded")
    return png.tobytes(), text


def _protobuf(data: bytes) -> dict[int, int | bytes]:
    """Fields of a message by their numbers, the last of each."""
    found: dict[int, int | bytes] = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        field, kind = tag >> 3, tag & 7
        if not 1 <= field <= 7:
            raise ValueError(f"field {field}")
        if kind == 0:
            found[field], at = _varint(data, at)
            continue
        size, at = _varint(data, at) if kind == 2 else ({1: 8, 5: 4}.get(kind, -1), at)
        if size < 0 or at + size > len(data):
            raise ValueError(f"field {field} is cut short")
        found[field] = data[at : at + size]
        at += size
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        number |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return number, at
    raise ValueError("a number that does not end")
