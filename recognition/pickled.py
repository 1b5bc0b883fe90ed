"""Pickles read as plain data: opcodes are interpreted here, and nothing that a pickle names is imported or called.

The field's verification sets and PyTorch's weights are pickles. What stands in one is numbers, texts, bytes, lists,
tuples and dicts; a name in it stands for what the caller's table says, and any other name is refused. A declared length
is checked against the bytes that are there, and the number of opcodes, so of objects, is bounded.
"""

from __future__ import annotations

import codecs
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

Names = Mapping[tuple[str, str], object]  # (module, name) -> what the pickle gets in its place
HASHED = (str, bytes, int, float, type(None))  # as keys; nested tuples of tuples would take for ever to hash
MOST_OPCODES = 5_000_000  # a set of 100,000 images has 4 million; an empty list takes 1 byte of file and 70 of memory
LONGEST_SHOWN = 80  # characters of a foreign name in a message


class PickleError(ValueError):
    """A pickle that is cut short, damaged, or holds something that is not read here."""


class NotRead(PickleError):
    """A pickle that may be whole, and holds what is not read here."""


class RefusedName(NotRead):
    """A pickle that asks for a name outside the table, or for more than the name's stand-in gives."""


@dataclass(frozen=True, slots=True)
class Maker:
    """Stands in for a callable. make: takes the pickled arguments, checks them and gives data back."""

    make: Callable[[tuple], object]


class Holder(ABC):
    """What a maker gives where the pickle completes it by a state of its own."""

    __slots__ = ()

    @abstractmethod
    def set_state(self, state: object) -> None:
        """Take the pickled state. PickleError where it is none of this holder's."""


class Forgotten(Holder):
    """Stands where something is not read: a key like any other, and whatever is put into it is not kept."""

    __slots__ = ()

    def set_state(self, state: object) -> None:
        """Nothing is kept."""


FORGETS = Maker(lambda _: Forgotten())


def read_pickle(
    data: bytes,
    names: Names,
    *,
    at: int = 0,
    strings: Literal["bytes", "text"] = "bytes",
    persistent: Callable[[object], object] | None = None,
    forgets: bool = False,
) -> tuple[object, int]:
    """The object pickled from byte `at` on, and the byte after it. Protocols 0 to 5; nothing of the file is run.

    names: what names stand for: a Maker, which the pickle may call, or plain data.
    strings: what Python 2's str becomes. persistent: gives the object behind a persistent id; None refuses them.
    forgets: something Forgotten stands for every object of a name outside `names`, and for keys that are no plain data.
    RefusedName for a name outside `names`; PickleError for every other fault, sets and instances of classes included.
    """
    machine = _Machine(data, names, at, strings, persistent, forgets)
    try:
        return machine.run(), machine.at
    except PickleError:
        raise
    except ValueError as error:  # a text that is no UTF-8, a number that is none
        raise PickleError(f"{error}, before byte {machine.at}") from None


def shown(text: str | bytes) -> str:
    """A text of unknown origin for a message: printable, and not longer than a line."""
    part = text[: LONGEST_SHOWN + 1]
    part = part.decode("latin1") if isinstance(part, bytes) else part
    part = "".join(c if c.isprintable() else "?" for c in part)
    return part if len(part) <= LONGEST_SHOWN else f"{part[:LONGEST_SHOWN]}..."


class _Machine:
    """One run over one pickle."""

    def __init__(
        self, data: bytes, names: Names, at: int, strings: str, persistent: Callable | None, forgets: bool
    ) -> None:
        self.data, self.names, self.at = data, names, at
        self.strings, self.persistent, self.forgets = strings, persistent, forgets
        self.stack: list = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}

    def run(self) -> object:
        for _ in range(MOST_OPCODES):
            (opcode,) = self.take(1)
            if opcode == _STOP:
                return self.pop()
            step = _STEPS.get(opcode) or (_FORGETTING.get(opcode) if self.forgets else None)
            if step is None:
                raise NotRead(f"opcode {bytes([opcode])!r} at byte {self.at - 1} is not read here")
            step(self)
        raise NotRead(f"more than {MOST_OPCODES:,} opcodes, which no file of the kinds read here has")

    def take(self, length: int) -> bytes:
        if not 0 <= length <= len(self.data) - self.at:
            raise PickleError(f"{length} bytes are wanted at byte {self.at} of {len(self.data)}: it is cut short")
        self.at += length
        return self.data[self.at - length : self.at]

    def number(self, form: str) -> int | float:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> bytes:
        end = self.data.find(b"\n", self.at)
        if end < 0:
            raise PickleError(f"a line at byte {self.at} has no end: it is cut short")
        return self.take(end + 1 - self.at)[:-1]

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self) -> object:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise PickleError(f"the stack is empty before byte {self.at}: it is damaged")
        return self.stack.pop()

    def to_mark(self) -> list:
        if not self.marks:
            raise PickleError(f"a mark is missing before byte {self.at}: it is damaged")
        begin = self.marks.pop()
        above = self.stack[begin:]
        del self.stack[begin:]
        return above

    def top(self, kind: type) -> object:
        """What lies on top of the stack, of that kind or forgotten."""
        value = self.pop()
        if not isinstance(value, (kind, Forgotten)):
            raise PickleError(f"a {type(value).__name__} stands before byte {self.at} where a {kind.__name__} should")
        self.stack.append(value)
        return value

    def put(self, number: int) -> None:
        if not self.stack or number < 0:
            raise PickleError(f"nothing to remember before byte {self.at}: it is damaged")
        self.memo[number] = self.stack[-1]

    def get(self, number: int) -> None:
        if number not in self.memo:
            raise PickleError(f"entry {number} of the memo is used before byte {self.at} and was never set")
        self.push(self.memo[number])

    def fill(self, items: list) -> None:
        """items: keys and values in turn, into the dict on top of the stack."""
        if len(items) % 2:
            raise PickleError(f"a key without a value before byte {self.at}: it is damaged")
        target = self.top(dict)
        if isinstance(target, Forgotten):
            return
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, (*HASHED, Maker, Forgotten)):  # a Maker: a class as a key, named and never made
                if not self.forgets:
                    raise NotRead(f"a {type(key).__name__} as a key of a dict before byte {self.at}")
                key = Forgotten()
            target[key] = value

    def name(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise PickleError(f"a name that is no text before byte {self.at}")
        if (module, name) not in self.names and not self.forgets:
            raise RefusedName(shown(f"{module[:LONGEST_SHOWN]}.{name[:LONGEST_SHOWN]}"))
        self.push(self.names.get((module, name), FORGETS))

    def reduce(self) -> None:
        arguments, maker = self.pop(), self.pop()
        if isinstance(maker, Forgotten):  # what a forgotten thing would have made
            maker = FORGETS
        if not isinstance(maker, Maker) or not isinstance(arguments, tuple):
            raise RefusedName(f"a {type(maker).__name__}, which is data")
        self.push(maker.make(arguments))

    def build(self) -> None:
        state, target = self.pop(), self.pop()
        if isinstance(target, Holder):
            target.set_state(state)
        elif not self.forgets and not (isinstance(target, dict) and isinstance(state, dict)):  # torch's _metadata
            raise RefusedName(f"an assignment to a {type(target).__name__}")
        self.push(target)

    def persist(self) -> None:
        identity = self.pop()
        if self.persistent is None:
            raise RefusedName("a persistent id")
        self.push(self.persistent(identity))

    def string(self, raw: bytes) -> str | bytes:
        return raw if self.strings == "bytes" else raw.decode()


def _counted(form: str, decode: Callable[[_Machine, bytes], object]) -> Callable[[_Machine], None]:
    """A length, then as many bytes."""
    return lambda m: m.push(decode(m, m.take(m.number(form))))


def _text(m: _Machine, raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")


def _long(m: _Machine, raw: bytes) -> int:
    return int.from_bytes(raw, "little", signed=True)


def _whole(m: _Machine) -> None:
    line = m.line()
    m.push({b"00": False, b"01": True}[line] if line in (b"00", b"01") else int(line))


def _quoted(m: _Machine) -> None:
    line = m.line()
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1]:
        raise PickleError(f"a text without quotes before byte {m.at}")
    m.push(m.string(codecs.escape_decode(line[1:-1])[0]))


def _global(m: _Machine) -> None:
    module, name = m.line().decode(), m.line().decode()
    m.name(module, name)


def _instance(m: _Machine) -> None:
    raise RefusedName(shown(b".".join((m.line(), m.line()))))


def _stack_global(m: _Machine) -> None:
    name, module = m.pop(), m.pop()
    m.name(module, name)


def _protocol(m: _Machine) -> None:
    if (version := m.number("<B")) > 5:
        raise NotRead(f"pickle protocol {version} is not read here")


def _frame(m: _Machine) -> None:
    if (length := m.number("<Q")) > len(m.data) - m.at:
        raise PickleError(f"a frame of {length} bytes is announced, {len(m.data) - m.at} follow: it is cut short")


def _tuple_of(length: int) -> Callable[[_Machine], None]:
    return lambda m: m.push(tuple(reversed([m.pop() for _ in range(length)])))


def _dict(m: _Machine) -> None:
    items = m.to_mark()
    m.push({})
    m.fill(items)


def _set_item(m: _Machine) -> None:
    value, key = m.pop(), m.pop()
    m.fill([key, value])


def _append(m: _Machine, items: list) -> None:
    target = m.top(list)
    if not isinstance(target, Forgotten):
        target.extend(items)


_STOP = ord(".")
_STEPS: dict[int, Callable[[_Machine], object]] = {
    0x80: _protocol,
    0x95: _frame,
    ord("("): lambda m: m.marks.append(len(m.stack)),
    ord("0"): _Machine.pop,
    ord("1"): _Machine.to_mark,
    # constants and numbers
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("I"): _whole,
    ord("J"): lambda m: m.push(m.number("<i")),
    ord("K"): lambda m: m.push(m.number("<B")),
    ord("M"): lambda m: m.push(m.number("<H")),
    ord("L"): lambda m: m.push(int(m.line().removesuffix(b"L"))),
    0x8A: _counted("<B", _long),
    0x8B: _counted("<i", _long),
    ord("F"): lambda m: m.push(float(m.line())),
    ord("G"): lambda m: m.push(m.number(">d")),
    # texts and bytes
    ord("V"): lambda m: m.push(m.line().decode("raw-unicode-escape")),
    ord("X"): _counted("<I", _text),
    0x8C: _counted("<B", _text),
    0x8D: _counted("<Q", _text),
    ord("S"): _quoted,
    ord("T"): _counted("<i", _Machine.string),
    ord("U"): _counted("<B", _Machine.string),
    ord("B"): _counted("<I", lambda m, raw: raw),
    ord("C"): _counted("<B", lambda m, raw: raw),
    0x8E: _counted("<Q", lambda m, raw: raw),
    0x96: _counted("<Q", lambda m, raw: raw),  # a bytearray
    # containers
    ord("]"): lambda m: m.push([]),
    ord("}"): lambda m: m.push({}),
    ord(")"): lambda m: m.push(()),
    ord("l"): lambda m: m.push(m.to_mark()),
    ord("d"): _dict,
    ord("t"): lambda m: m.push(tuple(m.to_mark())),
    0x85: _tuple_of(1),
    0x86: _tuple_of(2),
    0x87: _tuple_of(3),
    ord("a"): lambda m: _append(m, [m.pop()]),
    ord("e"): lambda m: _append(m, m.to_mark()),
    ord("s"): _set_item,
    ord("u"): lambda m: m.fill(m.to_mark()),
    # memo
    ord("p"): lambda m: m.put(int(m.line())),
    ord("q"): lambda m: m.put(m.number("<B")),
    ord("r"): lambda m: m.put(m.number("<I")),
    0x94: lambda m: m.put(len(m.memo)),
    ord("g"): lambda m: m.get(int(m.line())),
    ord("h"): lambda m: m.get(m.number("<B")),
    ord("j"): lambda m: m.get(m.number("<I")),
    # names
    ord("c"): _global,
    ord("i"): _instance,
    0x93: _stack_global,
    ord("R"): _Machine.reduce,
    0x81: _Machine.reduce,  # an instance of a class, made of its arguments
    ord("b"): _Machine.build,
    ord("Q"): _Machine.persist,
}
_FORGETTING: dict[int, Callable[[_Machine], object]] = {  # sets, and an instance of a class made of named arguments
    0x8F: lambda m: m.push(Forgotten()),
    0x90: _Machine.to_mark,
    0x91: lambda m: (m.to_mark(), m.push(Forgotten())),
    0x92: lambda m: ((m.pop(), m.pop(), m.pop()), m.push(Forgotten())),
}
