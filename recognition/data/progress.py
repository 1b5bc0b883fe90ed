"""How far a tool that writes many files has come, so that a stopped or killed run goes on to the same bytes."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from recognition.files import write_atomically

_SHARD = re.compile(r".+-\d{5}-of-\d{5}")


@dataclass(slots=True)
class Progress:
    """sizes: bytes of each file of each shard that was begun, such as .rec, .idx and .crc."""

    plan: str  # digest of plan and settings
    position: int = 0  # in the order of writing
    sizes: list[tuple[int, ...]] = field(default_factory=list)
    written: list[int] = field(default_factory=list)  # records for each shard that was begun
    bad: list[tuple[str, str]] = field(default_factory=list)  # picture, reason
    stretched: int = 0

    @classmethod
    def load(cls, path: Path) -> Progress:
        """ValueError for a file that is none."""
        try:
            stored = json.loads(path.read_text())
            kinds = {"plan": str, "position": int, "stretched": int}
            if stored.keys() != {one.name for one in fields(cls)} or not all(
                isinstance(value, kinds.get(name, list)) for name, value in stored.items()
            ):
                raise ValueError
        except (ValueError, AttributeError):
            raise ValueError(f"{path} is no progress of an earlier run, or damaged: give --overwrite") from None
        return cls(**stored)

    def save(self, path: Path) -> None:
        write_atomically(path, json.dumps(asdict(self)))


def take_up(path: Path, digest: str, total: int, standing: Sequence[Path], overwrite: bool, skip_bad: bool) -> Progress:
    """The progress of an earlier call of the same plan, or a fresh one. ValueError where something stands in the way.

    standing: files that would be replaced.
    """
    if overwrite:
        path.unlink(missing_ok=True)
    if path.is_file():
        progress = Progress.load(path)
        if progress.plan != digest:
            raise ValueError(
                f"{path} belongs to other pictures or settings: call as before to go on, or with --overwrite"
            )
        if progress.position == total and progress.bad and not skip_bad:
            return Progress(digest)  # everything was read and something was bad: read again, it may be mended now
        return progress
    if standing and not overwrite:
        raise ValueError(f"{standing[0]} is there already: give --overwrite, another --name or another folder")
    return Progress(digest)


def refuse(bad: Sequence[tuple[str, str]], total: int, rest: str = "") -> int:
    """Name on stderr everything that cannot be used. Returns the exit status."""
    for name, reason in sorted((name, reason) for name, reason in bad):
        print(f"{name}: {reason}", file=sys.stderr)
    print(
        f"error: {len(bad)} of {total} pictures cannot be used. Mend or remove them and call again, or call again with "
        f"--skip-bad to leave them out{rest}",
        file=sys.stderr,
    )
    return 1


def file_name(text: str) -> str:
    """What --name may be: the name of a file, neither hidden nor in a folder, and none of a shard."""
    if not text.strip() or "/" in text or text.startswith(".") or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} must be the name of a file, without folders and no dot in front")
    if _SHARD.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is the name of one shard: name the set")
    return text


def folder_to_fill(out: Path, last: bool = True) -> None:
    """Make a folder and those above it; without the last where that is not wanted. ValueError for a file there."""
    if file := next((path for path in (out, *out.parents) if path.exists() and not path.is_dir()), None):
        raise ValueError(f"{file} is a file: wanted a folder to write into")
    (out if last else out.parent).mkdir(parents=True, exist_ok=True)


def exit_status(work: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """Do the work of a command line that can be gone on with, and say in a sentence why it cannot be done.

    args: with `overwrite`. Returns what work does; 2 after ValueError and OSError, 130 after Ctrl-C.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    try:
        return work(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        how = "in the same way, without --overwrite," if args.overwrite else "in the same way"
        print(f"\nstopped; call again {how} to go on", file=sys.stderr)
        return 130
