"""The record reader on 20,000 mutated sets: a typed error, or records as they were written; no crash, no hang."""

from __future__ import annotations

import random
import re
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from recognition.data.decode import decode
from recognition.data.record_format import MAGIC_BYTES
from recognition.data.recordio import Header, RecordReader, RecordWriter, pack
from recognition.data.records import Records
from recognition.data.survey import BAD, survey
from tests.fuzz import fuzz, mutate

COUNT = 20_000
MAGIC = 0xCED7230A
EXTREMES = (0, 1, 8, 23, 24, 2**16, 2**28, 2**29 - 1, 2**29, 2**31, 2**32 - 1)
TOKENS = [MAGIC_BYTES, MAGIC_BYTES * 3, b"\x00" * 24, b"\t", b"\n", b"0\t0\n", b"\t99999999999999999999\n", b"\xff\xd8"]
Files = dict[str, bytes]  # by ending


def small_sets(folder: Path) -> list[Files]:
    """Two sets of JPEG and PNG pictures, one in InsightFace's layout, one with label vectors and the magic word."""
    sets = []
    for number, name in enumerate("ab"):
        draw = np.random.default_rng(number)
        with RecordWriter(folder / name, checksum=True) as writer:
            if number == 0:
                writer.write(0, pack(Header(0, [5.0, 6.0], 0, 0), b""))
            for key in range(1, 5):
                pixels = cv2.resize(draw.integers(0, 256, (3, 3, 3), dtype=np.uint8), (16 + 4 * key, 20))
                image = cv2.imencode(".png" if key == 4 else ".jpg", pixels)[1].tobytes()
                label = float(key % 3) if number == 0 else [float(key % 3), 0.5, 7.0]
                writer.write(key, pack(Header(0, label, key, 0), image))
            if number == 0:
                writer.write(5, pack(Header(0, [1.0, 5.0], 5, 0), b""))
            else:
                writer.write(5, pack(Header(0, 0.0, MAGIC, 0), b"\xff\xd8" + MAGIC_BYTES * 2 + b"no picture"))
        sets.append({ending: (folder / f"{name}.{ending}").read_bytes() for ending in ("rec", "idx", "crc")})
    return sets


def originals(files: Files) -> list[bytes]:
    """Payloads of a sound file: an independent re-derivation of the format."""
    offsets = [int(line.split()[1]) for line in files["idx"].splitlines()]
    return [plain_record(files["rec"], offset) for offset in offsets]


def plain_record(data: bytes, at: int) -> bytes:
    """The record at an offset, part by part; whatever is wrong is an exception."""
    record, open_record = b"", False
    while True:
        magic, word = struct.unpack_from("<II", data, at)
        kind, length = word // 2**29, word % 2**29
        body = data[at + 8 : at + 8 + length]
        assert magic == MAGIC and len(body) == length and at + 8 + (length + 3) // 4 * 4 <= len(data)
        assert kind in ((2, 3) if open_record else (0, 1)) and (kind in (0, 3) or length % 4 == 0)
        record = record + MAGIC_BYTES + body if open_record else body
        if kind in (0, 3):
            return record
        open_record, at = True, at + 8 + length


def changed(sets: list[Files], rng: random.Random) -> Files:
    """A set with one or a few changes to its files, some of which may be missing."""
    mine = rng.randrange(2)
    files, other = dict(sets[mine]), sets[1 - mine]
    if rng.random() < 0.4:
        del files["crc"]
    if rng.random() < 0.2:
        del files["idx"]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        ending = rng.choice(("rec", "rec", *files))
        if ending not in files:
            continue
        kind = rng.choice(
            ("any", "any", "any", "length", "offset", "size", "swap", "splice", "cut", "nothing", "lines")
        )
        if kind == "any":
            files[ending] = mutate(files[ending], rng, TOKENS)
        elif kind == "length":
            files["rec"] = with_length(files["rec"], rng)
        elif kind == "offset" and "idx" in files:
            files["idx"] = with_offset(files["idx"], len(files["rec"]), rng)
        elif kind == "size":
            files["rec"] = with_size(files["rec"], rng)
        elif kind == "swap" and rng.random() < 0.3:
            files[ending] = other[ending]
        elif kind == "splice":
            at, beyond = rng.randrange(len(files[ending]) + 1), rng.randrange(len(other[ending]) + 1)
            files[ending] = files[ending][:at] + other[ending][beyond:]
        elif kind == "cut":
            files[ending] = files[ending][: rng.randrange(len(files[ending]) + 1)]
        elif kind == "nothing" and rng.random() < 0.2:
            files[ending] = b""
        elif kind == "lines":
            lines = files[ending].splitlines(keepends=True)
            rng.shuffle(lines)
            files[ending] = b"".join(lines[: rng.randrange(len(lines) + 1)] if rng.random() < 0.5 else lines)
    return files


def with_length(data: bytes, rng: random.Random) -> bytes:
    """A length, the count of labels, the label or the magic word of some record set to an extreme."""
    begins = [match.start() for match in re.finditer(re.escape(MAGIC_BYTES), data)]
    if not begins:
        return data
    at = rng.choice(begins) + rng.choice((4, 4, 4, 8, 8, 12, 0))
    new = struct.pack("<I", rng.choice((*EXTREMES, rng.getrandbits(32), len(data))))
    return data[:at] + new + data[at + 4 :]


def with_size(data: bytes, rng: random.Random) -> bytes:
    """A picture that states another height and width, without more bytes to fill them."""
    frames = [match.start() + 5 for match in re.finditer(rb"\xff\xc0\x00\x11", data)]
    heads = [match.start() + 4 for match in re.finditer(b"IHDR", data)]
    if not frames + heads:
        return data
    at = rng.choice(frames + heads)
    code = ">HH" if at in frames else ">II"
    new = struct.pack(code, *(rng.choice((0, 1, 3, 4, 4096, 4097, 32767, 65535)) for _ in range(2)))
    return data[:at] + new + data[at + len(new) :]


def with_offset(index: bytes, size: int, rng: random.Random) -> bytes:
    lines = index.splitlines(keepends=True)
    if lines:
        row = rng.randrange(len(lines))
        key = lines[row].split(b"\t")[0]
        offset = rng.choice((rng.randrange(size + 9), rng.randrange(size // 4 + 2) * 4, size, size - 8, 10**17, 10**18))
        lines[row] = b"%s\t%d\n" % (key, offset)
    return b"".join(lines)


def read_all(path: Path, files: Files, sound: set[bytes], strict: bool) -> int:
    """Read every record by its row, and hold it against what was written. Returns how many could be read."""
    reader, count = RecordReader(path, strict=strict), 0
    found = survey(reader)
    for row in range(len(reader)):
        try:
            record = reader.read_row(row)
        except ValueError:
            assert found.kind[row] == BAD or "crc" in files, "the survey saw nothing, and nothing else looked"
            continue
        count += 1
        if "crc" in files:
            assert record in sound, "damage went unnoticed beside checksums"
        else:
            assert record == plain_record(files["rec"], int(reader.offsets[row]))
    return count


def train_on(path: Path, files: Files, sound: set[bytes], skip: bool) -> tuple[int, int]:
    """Open as training does and decode every image. Returns how many were decoded and how many refused."""
    records, decoded = Records(path, most_classes=0, bad_record_limit=1.0 if skip else None), 0
    assert 0 < records.num_classes <= len(records) + len(records.left_out)
    assert records.labels.min() >= 0 and records.labels.max() < records.num_classes
    assert not records.left_out or skip
    for i in range(len(records)):
        try:
            image = records.read(i)
            pixels = decode(image, 112, records.where(i), 4)
        except ValueError as error:
            assert str(path) in str(error), error
            continue
        assert pixels.shape == (112, 112, 3) and pixels.dtype == np.uint8
        if "crc" in files:
            assert any(record.endswith(image) for record in sound)
        decoded += 1
    return decoded, len(records) - decoded + len(records.left_out)


@pytest.mark.slow
def test_twenty_thousand_mutated_sets(current_folder: Path) -> None:
    folder = current_folder
    sets = small_sets(folder)
    sound = {record for files in sets for record in originals(files)}
    for name, files in zip("ab", sets, strict=True):
        assert read_all(folder / name, files, sound, True) == len(files["idx"].splitlines())
        assert train_on(folder / name, files, sound, False) == (4, name == "b")
        assert [int(line.split()[1], 16) for line in files["crc"].splitlines()] == [*map(zlib.crc32, originals(files))]
    path = folder / "x.rec"

    def check(seed: int) -> str:
        if seed % 1000 == 0:
            cv2.setNumThreads(0)
        rng = random.Random(seed)
        files = changed(sets, rng)
        for ending in ("rec", "idx", "crc"):
            file = path.with_suffix(f".{ending}")
            if ending in files:
                file.write_bytes(files[ending])
            else:
                file.unlink(missing_ok=True)
        try:
            read_all(path, files, sound, strict=rng.random() < 0.2)
            decoded, refused = train_on(path, files, sound, skip=rng.random() < 0.8)
        except (ValueError, FileNotFoundError):  # RecordError is a ValueError
            return "refused at opening"
        if not refused:
            return "read whole"
        return "read but for bad records" if decoded else "opened without a picture"

    words = fuzz(check, COUNT, name="record reader")
    assert min(words[word] for word in ("refused at opening", "read whole", "read but for bad records")) > COUNT // 100
