"""Pictures out of an LMDB: values as value_forms reads them, or pictures whose labels lie in the keys or beside them.

    anna/1.jpg -> a picture                       the label is the folder in the key
    image-000000001 -> a picture                  the label lies under label-000000001, or image_..., img..., label...
    0 -> (picture, label) in msgpack, pickle, Datum   keys may be anything

Keys that begin and end with __, and num-samples, tell of the set and are no pictures.
"""

from __future__ import annotations

import re
from pathlib import Path

from tqdm import tqdm

from recognition.data.lmdb_format import LmdbFile, Value
from recognition.data.stored import StoredPlan, Stretches, without_pictures
from recognition.data.value_forms import WANTED, label_text, picture_ending, unwrap

HEAD = 32  # bytes by which a picture is known

_ABOUT = re.compile(rb"__.*__|num-samples|length|nSamples", re.DOTALL)
_IMAGE_KEY = re.compile(rb"(image|img)(?=[-_:]?[0-9])")
_LABEL_KEY = re.compile(rb"(label)(?=[-_:]?[0-9])")


def plan_lmdb(file: Path) -> StoredPlan:
    """Every picture of an LMDB in the order of its keys. ValueError where it is damaged or holds no picture.

    All values are looked at once, as labels stand in them; pictures are read again when they are asked for.
    """
    stretches, bad = Stretches([file]), []
    with LmdbFile(file) as database:
        given = _labels_beside(database)
        for value in tqdm(database.values(), total=database.entries, unit="value", desc=file.name, disable=None):
            if _ABOUT.fullmatch(value.key) or value.key in given:
                continue
            name = value.key.decode("utf-8", "backslashreplace")
            try:
                head = database.read(value._replace(size=min(value.size, HEAD)))
                label = "" if picture_ending(head) else unwrap(database.read(value))[1]
                stretches.add(0, value.offset, value.size, name, label or _from_key(value.key, given))
            except ValueError as error:
                bad.append((f"{file}: {name}", str(error)))
    if not len(stretches):
        raise without_pictures(bad, file, WANTED)
    plan = StoredPlan(stretches, file, picture_of=lambda data: unwrap(data)[0])
    plan.bad = bad
    return plan


def _labels_beside(database: LmdbFile) -> dict[bytes, str | None]:
    """Labels that lie under keys of their own, by those keys; found by the first key of a pair."""
    given: dict[bytes, str | None] = {}
    for value in database.values():
        if _LABEL_KEY.match(value.key):
            given[value.key] = label_text(_plain(database, value))
    return given


def _plain(database: LmdbFile, value: Value) -> bytes:
    return database.read(value) if value.size <= 1000 else b""


def _from_key(key: bytes, given: dict[bytes, str | None]) -> str:
    """The label of a picture whose value has none."""
    partner = _IMAGE_KEY.sub(b"label", key, count=1) if _IMAGE_KEY.match(key) else b""
    if partner:
        if label := given.get(partner):
            return label
        raise ValueError(f"a picture without a label: there is none under the key {partner.decode('latin1')!r}")
    folder = key.decode("utf-8", "backslashreplace").rpartition("/")[0]
    if not folder:
        raise ValueError("a picture without a label: the key names no folder (wanted identity/picture.jpg)")
    return folder
