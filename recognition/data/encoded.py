"""Encoded pictures: what their first bytes state, and their pixels where they are sound."""

from __future__ import annotations

import cv2
import numpy as np

LEAST_SIDE = 4  # pixels: the smallest faces of surveillance sets (QMUL-SurvFace) are 5 x 6
MOST_PIXELS = 1 << 24  # 4096 x 4096: 4 KiB of JPEG can state 32767 x 32767, which takes 3 GiB and 8 s to decode

_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 .. SOF15
_BARE = frozenset((0x00, 0x01, *range(0xD0, 0xD8)))  # markers without a length, and what is no marker


class PictureError(ValueError):
    """Bytes that are no picture to train on. problem: what is wrong, without the place and without advice."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}; `python tools/inspect_records.py PATH --decode` lists every such record")
        self.problem = problem


def read_picture(encoded: bytes, where: str, least_side: int = 1) -> np.ndarray:
    """Encoded picture -> uint8 (H, W, 3) BGR in its own size.

    Whatever the file's channels, they become BGR as OpenCV does it: grey is repeated, CMYK is converted, 16 bits keep
    their upper 8, and of an alpha channel nothing is seen: pixels have the colour stored beneath it.
    where: the record's file and key, for the message. least_side: pixels below which a picture counts as damaged.
    PictureError where the bytes are no readable picture, too small, or state more than MOST_PIXELS.
    """
    size = stated_size(encoded)
    if size is not None and (problem := size_problem(*size, least_side)):
        raise PictureError(where, problem)
    try:
        picture = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR) if encoded else None
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(f"{where}: no memory to decode it") from None
        picture = None
    if picture is None:
        raise PictureError(where, f"{len(encoded)} bytes that do not decode as an image (truncated or damaged)")
    if size is None and (problem := size_problem(*picture.shape[:2], least_side)):
        raise PictureError(where, problem)
    return picture


def size_problem(height: int, width: int, least_side: int) -> str:
    """Why a picture of this size, in pixels, is not taken: too small for a face, or too large for memory; or empty."""
    if min(height, width) < least_side:
        return f"{height} x {width} pixels; a face takes at least {least_side} x {least_side}"
    if height * width > MOST_PIXELS:
        return f"it states {height} x {width} pixels; more than {MOST_PIXELS:,} are no face"
    return ""


def stated_size(encoded: bytes) -> tuple[int, int] | None:
    """Height and width in pixels that a JPEG or PNG states; None where it states none, and for other formats.

    Stray bytes between a JPEG's markers are passed over as decoders do, so that no picture hides its size behind them.
    """
    if encoded[:8] == b"\x89PNG\r\n\x1a\n" and len(encoded) >= 24:
        return int.from_bytes(encoded[20:24], "big"), int.from_bytes(encoded[16:20], "big")
    if encoded[:2] != b"\xff\xd8":
        return None
    at = 2
    while (at := encoded.find(b"\xff", at)) >= 0 and at + 9 <= len(encoded):
        marker = encoded[at + 1]
        if marker in _FRAMES:
            return _size(encoded, at + 5)
        if marker == 0xFF:
            at += 1
        elif marker in _BARE:
            at += 2
        else:
            at += 2 + int.from_bytes(encoded[at + 2 : at + 4], "big")
    return None


def plain_jpeg_size(encoded: bytes) -> tuple[int, int] | None:
    """Height and width in pixels of a complete 8-bit grey or YCbCr JPEG without EXIF; None for anything else.

    Reads the markers only (Rec. ITU-T T.81, annex B): 3 us, against 100 us for decoding 112 x 112 pixels.
    """
    if encoded[:2] != b"\xff\xd8":
        return None
    at, size = 2, None
    while at + 4 <= len(encoded) and encoded[at] == 0xFF:
        marker, length = encoded[at + 1], int.from_bytes(encoded[at + 2 : at + 4], "big")
        if marker in (0xC0, 0xC1, 0xC2) and at + 10 <= len(encoded):  # baseline, extended, progressive
            named_rgb = encoded[at + 10 : at + 19 : 3] == b"RGB"
            if size is not None or encoded[at + 4] != 8 or encoded[at + 9] not in (1, 3) or named_rgb:
                return None
            size = _size(encoded, at + 5)
        elif marker == 0xDA:  # the scan: its data hold no end marker but the real one
            return size if encoded.rfind(b"\xff\xd9", at) > 0 else None
        elif marker == 0xE1 and encoded[at + 4 : at + 8] == b"Exif":
            return None
        elif marker == 0xEE and encoded[at + 4 : at + 9] == b"Adobe" and encoded[at + 15 : at + 16] != b"\x01":
            return None  # not YCbCr
        at += 2 + length
    return None


def _size(encoded: bytes, at: int) -> tuple[int, int]:
    return int.from_bytes(encoded[at : at + 2], "big"), int.from_bytes(encoded[at + 2 : at + 4], "big")
