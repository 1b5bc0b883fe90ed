"""Thousands of mutated inputs, each traced to its seed: mutations, and children that may crash or hang.

A check runs on one seed at a time in a forked child with an alarm and a limit on its memory. What ends a child, be it
an exception, a signal, the alarm or a full memory, is told with the seed that it was at.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from mmap import mmap
from pathlib import Path

import torch

SECONDS = 20  # for one input, on a machine that others use too
MEMORY = 2**30  # bytes that a child may take beyond what its parent had
CHUNK = 1000  # inputs for each child
NUMBERS = (0, 1, 2, 127, 128, 255, 256, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**60, 2**63 - 1, 2**64 - 1)


@contextlib.contextmanager
def memory_folder() -> Iterator[Path]:
    """A folder for small files written thousands of times: in memory where the system has room for one."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        yield Path(folder)


def mutate(data: bytes, rng: random.Random, tokens: Sequence[bytes] = ()) -> bytes:
    """`data` with one to four changes; tokens: pieces that the format knows, put in or over what is there."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        at = rng.randrange(len(changed) + 1)
        span = min(len(changed) - at, rng.choice((1, 1, 2, 4, 8, 32, 200)))
        kind = rng.choice(("bit", "bit", "byte", "number", "cut", "drop", "repeat", "noise", "token", "token"))
        if kind == "bit" and span:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == "byte" and span:
            changed[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif kind == "number":
            number, width = rng.choice(NUMBERS), rng.choice((1, 2, 4, 8))
            changed[at : at + width] = (number % 256**width).to_bytes(width, rng.choice(("little", "little", "big")))
        elif kind == "cut" and rng.random() < 0.3:
            del changed[at:]
        elif kind == "drop":
            del changed[at : at + span]
        elif kind == "repeat":
            changed[at:at] = changed[at : at + span] * rng.choice((1, 1, 2, 50))
        elif kind == "noise":
            changed[at : at + span] = rng.randbytes(span)
        elif kind == "token" and tokens:
            token = rng.choice(tokens)
            changed[at : at + rng.choice((0, 0, len(token)))] = token
    return bytes(changed)


def pickle_tokens(marker: Path) -> list[bytes]:
    """Opcodes that call, build, persist, remember or repeat; whole payloads that would make the file `marker`."""
    path = str(marker).encode()
    text = b"X" + struct.pack("<I", len(path)) + path
    names = [b"posix\nmkdir", b"os\nmkdir", b"builtins\neval", b"nt\nsystem", b"numpy\nload", b"_codecs\nencode"]
    code = b"__import__('os').mkdir('" + path + b"')"
    return [
        *(b"c" + name + b"\n" for name in names),
        *(b"c" + name + b"\n" + text + b"\x85R" for name in names[:2]),
        b"(" + text + b"iposix\nmkdir\n",
        b"(cposix\nmkdir\n" + text + b"o",
        b"cposix\nmkdir\n" + text + b"\x85\x81",
        b"\x8c\x05posix\x8c\x05mkdir\x93" + text + b"\x85R",
        b"cbuiltins\neval\nX" + struct.pack("<I", len(code)) + code + b"\x85R",
        b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R",
        b"\x82\x01",
        b"Pname\n",
        b"r" + struct.pack("<I", 2**31 - 1),
        b"j" + struct.pack("<I", 2**31 - 1),
        b"\x8e" + struct.pack("<Q", 2**60),
        b"\x8d" + struct.pack("<Q", 2**60),
        b"\x96" + struct.pack("<Q", 2**62),
        b"\x95" + struct.pack("<Q", 2**60),
        b"\x8b" + struct.pack("<i", 2**30),
        b"B" + struct.pack("<I", 2**32 - 1),
        b"(" + b"2" * 40 + b"t",
        *(bytes([opcode]) for opcode in b"().0123RbQNtdluaesoi}]{\x81\x85\x86\x87\x88\x89\x8f\x92\x93\x94\x97\x98"),
    ]


def fuzz(check: Callable[[int], str], count: int, *, name: str, folder: Path | None = None) -> Counter:
    """Run check(seed) for seeds 0 .. count - 1 in forked children; it returns the word under which it is counted.

    folder: where the check writes its inputs; it is kept after a failure, for what a seed alone does not fix.
    AssertionError naming the seed where a check raises, crashes, hangs or takes too much memory.
    """
    words: Counter = Counter()
    place = mmap(-1, 8)  # the seed that the child is at, for its parent to read
    gc.freeze()  # else each child's collections walk, and copy, all that a long test run holds
    for begin in range(0, count, CHUNK):
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.close(reader)
            _in_child(check, range(begin, min(begin + CHUNK, count)), place, writer)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            told = pipe.read()
        _, status = os.waitpid(child, 0)
        seed = struct.unpack("<q", place[:8])[0]
        if status or not told:
            ended = f"ended with status {os.waitstatus_to_exitcode(status)}"
            if os.WIFSIGNALED(status):
                ended = "took too long" if os.WTERMSIG(status) == signal.SIGALRM else f"died of {os.WTERMSIG(status)}"
            kept = f"; its input is kept in {_keep(folder)}" if folder else ""
            raise AssertionError(f"{name}, seed {seed}: the child {ended}{kept}\n{told.decode(errors='replace')}")
        words += pickle.loads(told)
    print(f"{name}: {count:,} mutated inputs, " + ", ".join(f"{n:,} {word}" for word, n in sorted(words.items())))
    return words


def _keep(folder: Path) -> Path:
    return Path(shutil.copytree(folder, Path(tempfile.mkdtemp(prefix="fuzz-")) / "input"))


def _in_child(check: Callable[[int], str], seeds: range, place: mmap, writer: int) -> None:
    """Never returns: nothing of the parent's test run may go on here."""
    code = 1
    try:
        torch.set_num_threads(1)  # a pool of threads does not live through a fork
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        os.fsync = lambda handle: None  # thousands of small files, which nobody needs after a power cut
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        words: Counter = Counter()
        for seed in seeds:
            place[:8] = struct.pack("<q", seed)
            signal.alarm(SECONDS)
            words[check(seed)] += 1
        signal.alarm(0)
        os.write(writer, pickle.dumps(words))
        code = 0
    except BaseException:
        os.write(writer, traceback.format_exc().encode()[-3000:])
    finally:
        sys.stdout.flush()
        os._exit(code)
