"""What torch.save wrote, read as data: the zip format since torch 1.6 and the one before; torch.load is not used.

torch.load(weights_only=True) runs nothing either, but lets a small file ask for any amount of memory or time: a tensor
expanded to 2**40 numbers, bytearray(2**34), a dict key of nested tuples.
"""

from __future__ import annotations

import contextlib
import math
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from recognition.pickled import Forgotten, Maker, Names, NotRead, PickleError, RefusedName, read_pickle, shown
from recognition.weights.kinds import of_request

ZIP = b"PK\x03\x04"
MAGIC = 0x1950A86A20F9469CFC6C  # first of the pickles in files of the older format
MAGIC_BYTES = b"\x8a\n" + MAGIC.to_bytes(10, "little")
OLDER_VERSION = 1001
COUNT = struct.Struct("<q")
ENCRYPTED = 1  # a flag of a zip entry
FOLDER = 0x10  # an attribute of a zip entry; torch.load takes what was in memory for its content
REBUILT = tuple(("torch._utils", f"_rebuild_{what}") for what in ("tensor_v2", "tensor", "parameter"))
MOST_AXES, MOST_TENSORS = 64, 200_000
LARGEST = 2**48  # a side, a stride, or the numbers of a tensor
MOST_VIEWS = 4  # times the file's size that its tensors may take: tied ones share their numbers in the file only

STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
DTYPES = frozenset(STORAGES.values())
WIDTHS = {  # bytes of a number in storages that are not read, only stepped over
    **dict.fromkeys(("UntypedStorage", "QInt8Storage", "QUInt8Storage", "QUInt4x2Storage", "QUInt2x4Storage"), 1),
    **{"QInt32Storage": 4, "ComplexFloatStorage": 8, "ComplexDoubleStorage": 16},
}
LIGHTNING = "pytorch-lightning_version"  # in every checkpoint of Lightning

# What zipfile raises for a damaged archive: a bad structure or checksum, a feature it does not have, an end that comes
# too early, a seek before the begin, a name that is no text, a field cut off.
DAMAGED = (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, ValueError, struct.error)

Load = Callable[[str, int, int], bytearray]  # key of a storage, how many numbers it has, bytes of each


def read_torch(path: str | Path) -> object:
    """Dicts, lists, numbers, texts and dense CPU tensors of a file that torch.save wrote, whatever device they were on.

    Of a Lightning checkpoint, version and state dict: it holds settings, callbacks and loops besides, objects of other
    programs, of which none is made.
    ValueError names the file where it is cut short or damaged, is compressed, declares more than it holds, or asks for
    anything else than tensors of the kinds in STORAGES; nothing that it names is imported or called.
    """
    path = Path(path)
    with path.open("rb") as file:
        read = _read_zip if file.read(len(ZIP)) == ZIP else _read_older
    try:
        return _read_or_forget(path, read)
    except NotRead as refused:
        fault = f"holds what is not read here ({refused}); save the network's state_dict() alone"
        if isinstance(refused, RefusedName):
            seen = of_request(str(refused))
            fault = (
                f"holds other things than tensors and is not unpickled (it wants to run {refused}); "
                f"{f'it looks like {seen}; ' if seen else ''}save the network's state_dict() alone, and never open "
                "this file with pickle.load"
            )
        raise ValueError(f"{path}: {fault}") from None
    except PickleError as error:
        raise ValueError(f"{path}: the PyTorch file is damaged or cut short ({error})") from None


def _read_or_forget(path: Path, read: Callable[..., object]) -> object:
    """All of a file; of a Lightning checkpoint that holds objects version and state dict, everything else forgotten."""
    try:
        return read(path)
    except NotRead as refused:
        with contextlib.suppress(NotRead):
            saved = read(path, forgets=True)
            if isinstance(saved, dict) and isinstance(saved.get("state_dict"), dict) and LIGHTNING in saved:
                return {LIGHTNING: saved[LIGHTNING], "state_dict": saved["state_dict"]}
        raise refused


def _read_zip(path: Path, *, forgets: bool = False) -> object:
    with contextlib.ExitStack() as stack:
        with _zip_faults():
            archive = stack.enter_context(zipfile.ZipFile(path))
        entries = _vetted(archive, path.stat().st_size)
        pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise NotRead("a zip archive without torch's data.pkl; numpy's .npz begins so too")
        folder = pickles[0].removesuffix("data.pkl")

        def content(name: str, length: int | None = None) -> bytes:
            entry = entries.get(folder + name)
            if entry is None or length not in (None, entry.file_size):
                held = "is not there" if entry is None else f"has {entry.file_size} bytes"
                raise PickleError(f"its entry {shown(name)} {held}, {length} are declared")
            with _zip_faults():
                got = archive.read(entry)
            if len(got) != entry.file_size:
                raise PickleError(f"its entry {shown(name)} ends after {len(got)} of {entry.file_size} bytes")
            return got

        if f"{folder}byteorder" in entries and content("byteorder") != b"little":
            raise NotRead("it was written on a big-endian machine")
        persistent = _storages(lambda key, count, width: bytearray(content(f"data/{key}", count * width)), forgets)
        names, data = _names(path.stat().st_size), content("data.pkl")
        return read_pickle(data, names, strings="text", persistent=persistent, forgets=forgets)[0]


def _vetted(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The entries by name, which together are not larger than the file of `size` bytes: nothing unpacks to more."""
    entries = {entry.filename: entry for entry in archive.infolist()}
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & ENCRYPTED for entry in entries.values()):
        raise NotRead("its entries are compressed or encrypted, which torch.save never does; save it again")
    if any(entry.external_attr & FOLDER for entry in entries.values()):
        raise PickleError("some of its entries are marked as folders, which torch.save never does; save it again")
    sizes = [max(entry.file_size, entry.compress_size) for entry in archive.infolist()]  # zipfile reads either
    if sum(sizes) > size:
        raise PickleError("its entries declare more bytes than the file has")
    return entries


@contextlib.contextmanager
def _zip_faults() -> Iterator[None]:
    try:
        yield
    except DAMAGED as error:
        raise PickleError(shown(str(error) or type(error).__name__)) from None


def _read_older(path: Path, *, forgets: bool = False) -> object:
    """Pickles one after another (magic, version, machine, object, keys of the storages), then the storages."""
    data = path.read_bytes()
    magic, at = read_pickle(data, {})
    version, at = read_pickle(data, {}, at=at)
    machine, at = read_pickle(data, {}, at=at, strings="text")
    if magic != MAGIC or version != OLDER_VERSION or not isinstance(machine, dict):
        raise PickleError("it does not begin as torch.save writes it")
    if machine.get("little_endian") is not True:
        raise NotRead("it was written on a big-endian machine")
    begin, declared = at, {}

    def declare(key: str, count: int, width: int) -> bytearray:
        declared[key] = count, width
        return bytearray()

    # once for the sizes of the storages, which follow, and once for the object
    names = _names(0) | dict.fromkeys(REBUILT, Maker(lambda _: None))
    how = {"at": begin, "strings": "text", "forgets": forgets}
    _, at = read_pickle(data, names, persistent=_storages(declare, forgets), **how)
    keys, at = read_pickle(data, {}, at=at, strings="text")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or sorted(keys) != sorted(declared):
        raise PickleError("the storages listed are not those that its tensors name")
    places = {}
    for key in keys:
        count, width = declared[key]
        places[key] = at + COUNT.size  # each begins with its count
        at += COUNT.size + count * width
        if at > len(data) or COUNT.unpack_from(data, places[key] - COUNT.size)[0] != count:
            raise PickleError(f"storage {shown(key)} ends at byte {at} of {len(data)}, or has another size")

    def load(key: str, count: int, width: int) -> bytearray:
        return bytearray(data[places[key] : places[key] + count * width])

    return read_pickle(data, _names(len(data)), persistent=_storages(load, forgets), **how)[0]


def _storages(load: Load, forgets: bool) -> Callable[[object], Tensor | Forgotten]:
    """From a persistent id to the flat tensor behind it; tensors that shared their numbers share them again.

    forgets: something Forgotten stands for storages of other kinds, and for classes.
    """
    held: dict[str, bytearray] = {}
    flat: dict[tuple[str, torch.dtype], Tensor] = {}

    def persistent(identity: object) -> Tensor | Forgotten:
        match identity:
            case ("storage", torch.dtype() as dtype, str() as key, str(), int() as count, *rest) if (
                count >= 0 and rest in ([], [None])
            ):
                if key not in held:
                    held[key] = load(key, count, dtype.itemsize)
                if (key, dtype) not in flat:
                    flat[key, dtype] = _flat(held[key], dtype)
                return flat[key, dtype]
            case ("storage", _Foreign() as kind, str() as key, str(), int() as count, *_) if forgets and count >= 0:
                if key not in held:
                    held[key] = load(key, count, kind.width)
                return Forgotten()
            case ("module" | "storage", *_) if forgets:
                return Forgotten()
        raise NotRead("a persistent id that is no storage of a dense tensor")

    return persistent


class _Foreign(NamedTuple):
    """Kind of a storage that is not read."""

    width: int


def _flat(content: bytearray, dtype: torch.dtype) -> Tensor:
    if not content:
        return torch.empty(0, dtype=dtype)
    if len(content) % dtype.itemsize:
        raise PickleError(f"a storage of {len(content)} bytes holds no whole numbers of {dtype}")
    if dtype is torch.bool:  # other bytes than 0 and 1 are no booleans
        return torch.frombuffer(content, dtype=torch.uint8) != 0
    return torch.frombuffer(content, dtype=dtype)


def _names(size: int) -> Names:
    """What the names in a file of `size` bytes stand for."""
    bytes_left, tensors_left, pairs_left = MOST_VIEWS * size, MOST_TENSORS, size

    def rebuild(arguments: tuple) -> Tensor | Forgotten:
        """torch._utils._rebuild_tensor and its successor, which adds what only autograd needs."""
        nonlocal bytes_left, tensors_left
        match arguments:
            case (Forgotten() as forgotten, *_):
                return forgotten
            case (Tensor() as flat, int() as offset, tuple() as shape, tuple() as stride, *_):
                view = _view(flat, offset, shape, stride)
                bytes_left, tensors_left = bytes_left - view.numel() * view.itemsize, tensors_left - 1
                if bytes_left < 0 or tensors_left < 0:
                    raise PickleError(f"its tensors take more than {MOST_VIEWS} times the file, or are too many")
                return view
        raise NotRead("a tensor that is not rebuilt from a storage, an offset, a shape and strides")

    def ordered(arguments: tuple) -> dict:
        """A dict that is filled afterwards, as Python 3 writes it; or from (key, value) pairs, as Python 2 did."""
        nonlocal pairs_left
        match arguments:
            case ():
                return {}
            case (list() as pairs,):
                pairs_left -= len(pairs)
                fits = pairs_left >= 0 and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs)
                if fits and all(isinstance(key, str | int) for key, _ in pairs):
                    return dict(pairs)
        raise NotRead("a dict of something else than keys and values")

    return {
        **{(module, name): dtype for module in ("torch", "torch.cuda") for name, dtype in STORAGES.items()},
        **{(place, name): _Foreign(width) for place in ("torch", "torch.storage") for name, width in WIDTHS.items()},
        **dict(zip(REBUILT, (Maker(rebuild), Maker(rebuild), Maker(_parameter)), strict=True)),
        ("torch", "Size"): Maker(_size),
        ("collections", "OrderedDict"): Maker(ordered),
        ("collections", "Counter"): Maker(_counts),
    }


def _view(flat: Tensor, offset: int, shape: tuple, stride: tuple) -> Tensor:
    whole = all(isinstance(n, int) and 0 <= n < LARGEST for n in (*shape, *stride, offset))
    if not whole or not len(shape) == len(stride) <= MOST_AXES or math.prod(n or 1 for n in shape) >= LARGEST:
        raise PickleError("a tensor of a shape, strides or offset that cannot be")
    count = math.prod(shape)
    if not count:
        return torch.empty(shape, dtype=flat.dtype)
    if count > len(flat):
        raise NotRead(f"a tensor of {count} numbers in a storage of {len(flat)}")
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    if last >= len(flat):
        raise PickleError(f"a tensor of {count} numbers, up to number {last}, of a storage of {len(flat)}")
    return flat.as_strided(shape, stride, offset)


def _parameter(arguments: tuple) -> Tensor | Forgotten:
    match arguments:
        case (Tensor() | Forgotten() as tensor, *_):
            return tensor
    raise NotRead("a parameter that is no tensor")


def _size(arguments: tuple) -> tuple:
    match arguments:
        case (list() | tuple() as sides,) if len(sides) <= MOST_AXES:
            return tuple(sides)
    raise NotRead("a size that is no list of numbers")


def _counts(arguments: tuple) -> dict:
    """collections.Counter, such as the milestones of a learning-rate plan."""
    match arguments:
        case (dict() as counts,):
            return counts
    raise NotRead("counts that are no dict")
