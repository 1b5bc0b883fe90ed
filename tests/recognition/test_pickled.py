"""Pickles read as data: what pickle itself gives for plain data, and no more than the file's size for anything else."""

from __future__ import annotations

import contextlib
import io
import pickle
import random
import struct
import zipfile
from collections import OrderedDict, deque
from pathlib import Path

import pytest
import torch

from recognition import pickled
from recognition.data.pairs import read_bin
from recognition.pickled import PickleError, read_pickle
from recognition.weights import read_weights
from tests import fuzz
from tests.fuzz import pickle_tokens


def plain(rng: random.Random, depth: int = 0) -> object:
    """A random nest of everything that is read."""
    leaves = (
        lambda: rng.choice((None, True, False, (), 0, -1, 255, 256, 65536, -(2**31), 2**31, 2**200, -(2**2000))),
        lambda: rng.uniform(-1e300, 1e300),
        lambda: rng.randbytes(rng.choice((0, 1, 30, 300))),
        lambda: "".join(rng.choice("aé\n\\'\"\u4e2d\U0001f600\ud800\0\x1a") for _ in range(rng.choice((0, 3, 300)))),
    )
    if depth > 3 or rng.random() < 0.4:
        return rng.choice(leaves)()
    inner = [plain(rng, depth + 1) for _ in range(rng.choice((0, 1, 2, 3, 5)))]
    keys = [rng.choice(("a", "b", 1, 2.5, None, b"k")) for _ in inner]
    return rng.choice((inner, tuple(inner), dict(zip(keys, inner, strict=True)), [inner, inner]))


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_is_read_as_pickle_reads_it(protocol: int) -> None:
    names = {("_codecs", "encode"): pickled.Maker(lambda arguments: arguments[0].encode("latin1"))}
    names |= {(module, "bytes"): pickled.Maker(lambda _: b"") for module in ("__builtin__", "builtins")}
    for seed in range(200):
        value = plain(random.Random(seed))
        for how in (pickle.dumps, pickle._dumps):
            stream = b"before" + how(value, protocol) + b"after"
            found, end = read_pickle(stream, names, at=6)
            assert repr(found) == repr(value) and stream[end:] == b"after"


def test_python_2_texts_become_what_is_asked_for() -> None:
    streams = (b"S'a\\xe9'\n.", b"\x80\x02U\x02a\xe9.", b"\x80\x02T\x02\0\0\0a\xe9.")
    assert [read_pickle(stream, {})[0] for stream in streams] == [b"a\xe9"] * 3
    assert read_pickle(b"\x80\x02U\x03a\xc3\xa9.", {}, strings="text")[0] == "aé"


def test_one_object_in_many_places_stays_one() -> None:
    shared = [1]
    found, _ = read_pickle(pickle.dumps([shared, {"a": shared}, shared]), {})
    assert found[0] is found[1]["a"] is found[2]
    loop: list = []
    loop.append(loop)
    found, _ = read_pickle(pickle.dumps(loop), {})
    assert found[0] is found


@pytest.mark.parametrize("value", [{1, 2}, frozenset([3]), 1 + 2j, range(3), Path("x"), len, int, io.BytesIO(b"x")])
def test_everything_else_is_refused(value: object) -> None:
    for protocol in range(6):
        if protocol < 2 and isinstance(value, io.BytesIO):
            continue
        with pytest.raises(PickleError):
            read_pickle(pickle.dumps(value, protocol), {})


@pytest.mark.parametrize("protocol", range(6))
def test_what_is_forgotten_leaves_the_rest_as_it_is(protocol: int) -> None:
    strange = [1 + 2j, range(3), Path("x"), len, int, {1, 2}, frozenset([3]), deque([1]), OrderedDict(a=1)]
    value = {"before": [1, "a"], "strange": strange, ("a", "b"): 1, Path("x"): 2, "after": (2.5, None)}
    found, _ = read_pickle(pickle.dumps(value, protocol), {}, forgets=True)
    assert found["before"] == [1, "a"] and found["after"] == (2.5, None) and len(found) == 5
    kinds = {type(one) for one in found["strange"]} | {type(key) for key in found if not isinstance(key, str)}
    assert kinds == {pickled.Forgotten, pickled.Maker}
    with pytest.raises(pickled.NotRead):
        read_pickle(pickle.dumps(value, protocol), {})


def test_a_persistent_id_needs_somebody_who_knows_it() -> None:
    stream = b"\x80\x02X\x01\0\0\0aQ."
    with pytest.raises(PickleError, match="persistent id"):
        read_pickle(stream, {})
    assert read_pickle(stream, {}, persistent=lambda identity: [identity])[0] == ["a"]


def test_handmade_opcodes(tmp_path: Path) -> None:
    marker = tmp_path / "made"
    tokens = [token for token in pickle_tokens(marker) if len(token) > 1]
    for token in tokens:
        for stream in (b"\x80\x04" + token + b".", b"\x80\x02(" + token + b"t."):
            with pytest.raises(PickleError):
                read_pickle(stream, {})
            (tmp_path / "set.bin").write_bytes(stream)
            with pytest.raises(ValueError, match=r"set\.bin"):
                read_bin(tmp_path / "set.bin")
    assert len(tokens) > 20 and not marker.exists()


def nested(levels: int) -> bytes:
    """A tuple of a tuple twice, and so on: small in the file, 2**levels to walk through or to hash."""
    return b")" + b"q\x00h\x00h\x00\x86" * levels


def long(number: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", number)


TEXT = b"X" + struct.pack("<I", 10**6) + b"a" * 10**6
BOMBS = {
    "nested key": b"\x80\x02}" + nested(70) + b"Ns.",
    "nested argument": b"\x80\x02cnumpy\ndtype\n" + nested(70) + b"\x85R.",
    "nested arguments": b"\x80\x02c_codecs\nencode\n" + nested(70) + b"\x86R.",
    "memo of 32 GiB": b"\x80\x02]r" + struct.pack("<I", 2**31) + b".",
    "bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b".",
    "frame": b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"N.",
    "whole number": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"\x01.",
    "digits": b"I" + b"9" * 1_000_000 + b"\n.",
    "one text encoded often": b"\x80\x02" + TEXT + b"q\x000c_codecs\nencode\nq\x010X\x06\x00\x00\x00latin1q\x020](("
    + b"h\x01h\x00h\x02\x86R" * 10_000 + b"e.",
    "one byte for each list": b"\x80\x02" + b"]" * 300_000 + b".",
}  # fmt: skip


@pytest.mark.parametrize("name", [*BOMBS])
def test_bombs_are_refused_within_the_memory_of_the_file(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pickled, "MOST_OPCODES", 200_000)

    def check(seed: int) -> str:
        (tmp_path / "set.bin").write_bytes(BOMBS[name])
        with pytest.raises(ValueError, match=r"set\.bin") as refused:
            read_bin(tmp_path / "set.bin")
        assert len(str(refused.value)) < 500
        with contextlib.suppress(PickleError):  # some are plain data once what they ask for is forgotten
            read_pickle(BOMBS[name], {}, forgets=True)
        return "refused"

    assert fuzz.fuzz(check, 1, name="bomb") == {"refused": 1}


def torch_file(value: bytes) -> bytes:
    """A zip as torch.save writes it with one storage of four float32, around a pickle of {"a": value}."""
    old, new = io.BytesIO(), io.BytesIO()
    torch.save({"a": torch.ones(4)}, old)
    with zipfile.ZipFile(old) as source, zipfile.ZipFile(new, "w") as target:
        for entry in source.infolist():
            stream = b"\x80\x02}X\x01\x00\x00\x00a" + value + b"s."
            target.writestr(entry.filename, stream if entry.filename.endswith("data.pkl") else source.read(entry))
    return new.getvalue()


def tensor(numbers: bytes, shape: bytes, stride: bytes) -> bytes:
    """The opcodes of one tensor over that storage."""
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu" + numbers + b"tQ"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00" + shape + b"\x85" + stride + b"\x85\x89}tR"


DECLARED = {
    "shape": tensor(b"K\x04", long(2**60), b"K\x01"),
    "expanded": tensor(b"K\x04", long(2**40), b"K\x00"),
    "expanded by one": tensor(b"K\x04", b"K\x05", b"K\x00"),
    "stride": tensor(b"K\x04", b"K\x02", long(2**62)),
    "storage": tensor(long(2**58), b"K\x04", b"K\x01"),
    "bytearray": b"cbuiltins\nbytearray\n" + long(2**35) + b"\x85R",
    "nested": nested(70),
    "nested key": b"}" + nested(70) + b"Ns",
    "a tensor without storage": b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n(N" + long(2**60) + b"\x85NN\x89tR",
}


@pytest.mark.parametrize("name", [*DECLARED])
def test_what_torch_files_declare_is_refused_before_it_takes_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / "net.pt"
    path.write_bytes(torch_file(tensor(b"K\x04", b"K\x04", b"K\x01")))
    assert torch.equal(read_weights(path).tensors["a"], torch.ones(4))

    def check(seed: int) -> str:
        path.write_bytes(torch_file(DECLARED[name]))
        with pytest.raises(ValueError, match=r"net\.pt") as refused:
            read_weights(path)
        assert len(str(refused.value)) < 500
        return "refused"

    assert fuzz.fuzz(check, 1, name="declared") == {"refused": 1}
