"""Weights on the Hugging Face hub, named `hf://owner/repo/path/in/repo[@revision][#sha256=HEX]`.

A file is fetched once, into huggingface_hub's own cache (HF_HOME), by the commit that the revision stands for; its
bytes are held against the checksum that the hub tells, and the card beside it, .json, comes with it. Nothing else of
a repository is fetched, and nothing in it is run.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from recognition.files import write_atomically
from recognition.recipes import or_shipped

FORM = "hf://owner/repo/path/in/repo[@revision][#sha256=HEX]"
MARK = re.compile(r"(?:hf|https?):/+", re.IGNORECASE)  # pathlib makes one slash of two
OURS = re.compile(r"hf:/{1,2}(?!/)")
PAGE = re.compile(  # what a browser shows
    r"https?:/+(?:www\.)?(?:huggingface\.co|hf\.co)/([^/?#]+/[^/?#]+)/(?:resolve|blob)/([^/?#]+)/([^?#]+)",
    re.IGNORECASE,
)
PART = re.compile(r"[\w][\w.\-]{0,95}", re.ASCII)
REVISION = re.compile(r"[\w][\w./\-]{0,254}", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")
ENDINGS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".params", ".onnx")
LARGEST_CARD = 2**23  # bytes
CHUNK = 2**22  # bytes hashed at once
INSTALL = "pip install huggingface_hub"
OFFLINE = (
    "fetch it where there is a network and set HF_HOME to that cache, or place the file yourself and name its path; "
    "HF_HUB_OFFLINE=1 in the environment keeps the hub from being asked"
)


@dataclass(frozen=True, slots=True)
class Address:
    """A file on the hub. revision: a branch, a tag or a commit. sha256: what its bytes must have, "" to ask the hub."""

    repo: str
    file: str
    revision: str = "main"
    sha256: str = ""

    def __str__(self) -> str:
        told = f"#sha256={self.sha256}" if self.sha256 else ""
        return f"hf://{self.repo}/{self.file}{'' if self.revision == 'main' else f'@{self.revision}'}{told}"

    @property
    def beside(self) -> Address:
        """The card's address."""
        return replace(self, file=str(PurePosixPath(self.file).with_suffix(".json")), sha256="")


def is_address(where: str | Path) -> bool:
    """True for an address, also one of another form, which parse refuses; False for a path."""
    return MARK.match(str(where)) is not None


def local_path(where: str | Path) -> Path:
    """The file that `where` names: a path as it is, or where it ships with the project (recipes.or_shipped); an address
    as the file in the cache, fetched if need be.

    The card lies beside it, if the repository has one. Within a process an address stands for one commit.
    ValueError for an address that is none, a file that is not there or not to be had, and bytes with another checksum;
    ConnectionError where the hub is out of reach and the file not in the cache; ImportError without huggingface_hub.
    """
    if not is_address(where):
        return or_shipped(where)
    return _fetched(parse(where), _cache())[0]


def pin(where: str | Path, before: str = "") -> str:
    """The same address with the commit in its revision's place, so that it names these bytes for ever.

    before: the address that a run was begun with; one of the same file and revision is taken from there.
    A path is returned unchanged. Errors as of local_path.
    """
    if not is_address(where):
        return str(where)
    address = parse(where)
    if COMMIT.fullmatch(address.revision):
        return str(address)
    if is_address(before):
        earlier = parse(before)
        same = replace(earlier, revision=address.revision, sha256=address.sha256) == address
        if same and COMMIT.fullmatch(earlier.revision):
            return str(replace(earlier, sha256=address.sha256))
    return str(replace(address, revision=_fetched(address, _cache())[1]))


def parse(where: str | Path) -> Address:
    """The parts of an address. ValueError with the form where it is malformed."""
    text = str(where)
    wanted = f"'{text[:200]}' is no address of weights on the hub; write {FORM}"
    ours = OURS.match(text)
    if ours is None:
        page = PAGE.fullmatch(text.partition("?")[0])
        raise ValueError(f"{wanted}{f', here hf://{page[1]}/{unquote(page[3])}@{page[2]}' if page else ''}")
    rest, mark, told = text[ours.end() :].partition("#")
    if mark and not (told.startswith("sha256=") and SHA256.fullmatch(told.removeprefix("sha256=").lower())):
        raise ValueError(f"{wanted}: what follows # is sha256= and 64 hexadecimal digits")
    place, at, revision = rest.rpartition("@")
    place, revision = (place, revision) if at else (rest, "main")
    owner, repo, *inside = place.split("/") if place.count("/") > 1 else ("", "")
    if "@" in place:
        raise ValueError(f"{wanted}: the revision comes last")
    if not inside or not all(PART.fullmatch(part) for part in (owner, repo)) or not _plain(inside):
        raise ValueError(f"{wanted}, such as hf://owner/repo/model.safetensors")
    if not REVISION.fullmatch(revision) or ".." in revision:
        raise ValueError(f"{wanted}: '{revision[:60]}' is no branch, tag or commit")
    if not inside[-1].endswith(ENDINGS):
        raise ValueError(f"{wanted}: a file of weights ends in {', '.join(ENDINGS)}, not as '{inside[-1][:60]}'")
    return Address(f"{owner}/{repo}", "/".join(inside), revision, told.removeprefix("sha256=").lower())


def _plain(inside: list[str]) -> bool:
    return all(part.strip(". ") and part.isprintable() and not set(part) & set("\\:?") for part in inside)


def _cache() -> str:
    try:
        from huggingface_hub import constants
    except ImportError as error:
        raise ImportError(f"weights named hf://... need huggingface_hub: {INSTALL}") from error
    return constants.HF_HUB_CACHE


def _fetched(address: Address, cache: str) -> tuple[Path, str]:
    """The verified file in the cache and its commit, one for the process; the card comes with it."""
    path, commit = _first_fetched(address, cache)
    if not path.exists():  # the cache was emptied since
        return _fetch(replace(address, revision=commit), cache)
    return path, commit


@functools.cache
def _first_fetched(address: Address, cache: str) -> tuple[Path, str]:
    return _fetch(address, cache)


def _fetch(address: Address, cache: str) -> tuple[Path, str]:
    path = _download(address, cache)
    commit = _commit(path, address)
    _verify(path, address, cache)
    card = replace(address.beside, revision=commit)
    if not path.with_suffix(".json").exists():
        _fetch_card(card, cache)
    if path.with_suffix(".json").exists():
        _verify(path.with_suffix(".json"), card, cache)
    return path, commit


def _commit(path: Path, address: Address) -> str:
    """.../snapshots/COMMIT/path/in/repo"""
    commit = path.parents[address.file.count("/")].name
    if not COMMIT.fullmatch(commit):
        raise ValueError(f"{address}: huggingface_hub placed it at {path}, which names no commit; update the package")
    return commit


def _download(address: Address, cache: str) -> Path:
    from huggingface_hub import hf_hub_download

    named = {"repo_id": address.repo, "filename": address.file, "revision": address.revision, "cache_dir": cache}
    with _in_words(address):
        return Path(hf_hub_download(**named, library_name="lrface"))


def _fetch_card(card: Address, cache: str) -> None:
    """The card, where the repository has one; asked of the commit at hand, and only once of each."""
    from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    named = {"repo_id": card.repo, "filename": card.file, "revision": card.revision, "cache_dir": cache}
    if try_to_load_from_cache(**named) is _CACHED_NO_EXIST:
        return
    with _in_words(card), contextlib.suppress(EntryNotFoundError):  # also where the hub is out of reach
        told = hf_hub_download(**named, dry_run=True, library_name="lrface")
        if (told.file_size or 0) > LARGEST_CARD:
            raise ValueError(f"{card}: a card of {told.file_size:,} bytes; one has {LARGEST_CARD:,} at most")
        hf_hub_download(**named, library_name="lrface")


@contextlib.contextmanager
def _in_words(address: Address) -> Iterator[None]:
    """What huggingface_hub and its client raise, as one sentence each."""
    from huggingface_hub import constants, errors

    try:
        yield
    except errors.GatedRepoError:
        raise ValueError(
            f"{address}: {address.repo} is gated: agree to its terms on the hub, then log in by `hf auth login`, or "
            "set HF_TOKEN"
        ) from None
    except errors.RepositoryNotFoundError:
        raise ValueError(
            f"{address}: the hub has no repository {address.repo} that you may read; a private one needs "
            "`hf auth login`, or HF_TOKEN"
        ) from None
    except errors.RevisionNotFoundError:
        raise ValueError(f"{address}: {address.repo} has no revision '{address.revision}'") from None
    except errors.LocalEntryNotFoundError as error:
        if address.file.endswith(".json"):
            raise
        answered = isinstance(error.__cause__, errors.HfHubHTTPError)
        what = "the hub's answer was no file" if answered else "the hub cannot be asked"
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else _reason(error)
        raise ConnectionError(f"{address}: not in the cache, and {what} ({why}); {OFFLINE}") from None
    except errors.EntryNotFoundError:
        if address.file.endswith(".json"):
            raise
        raise ValueError(
            f"{address}: {address.repo} has no file '{address.file}' at revision '{address.revision}'"
        ) from None
    except errors.HFValidationError as error:
        raise ValueError(f"{address}: {_first(error)}; write {FORM}") from None
    except OSError as error:  # HfHubHTTPError is one; a full disk stays what it is
        if error.errno is not None:
            raise
        raise ConnectionError(f"{address}: the hub's answer was no file ({_first(error)}); {OFFLINE}") from None
    except Exception as error:  # the client's own, which huggingface_hub has changed from release to release
        if type(error).__module__.split(".")[0] not in ("httpx", "httpx2", "httpcore", "httpcore2", "requests"):
            raise
        raise ConnectionError(f"{address}: fetching it broke off ({_first(error)}); {OFFLINE}") from None


def _reason(error: BaseException) -> str:
    return _first(error.__cause__ or error)


def _first(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0][:200]


def _verify(path: Path, address: Address, cache: str) -> None:
    """Hold the bytes against the address's sha256 and the hub's checksum; a file is hashed once, and after a change."""
    wanted = [one for one in (address.sha256, _told_by_hub(path)) if one]
    if not wanted:
        raise ValueError(
            f"{address}: the cache keeps no checksum of it (huggingface_hub without symbolic links, or a mirror that "
            "tells none); add #sha256=HEX to the address"
        )
    stamp = Path(cache, ".locks", "lrface", f"{hashlib.sha256(str(path.absolute()).encode()).hexdigest()}.json")
    if _stamped(stamp, path) >= {*wanted}:
        return
    with _alone(stamp):
        if (known := _stamped(stamp, path)) >= {*wanted}:  # by another process meanwhile
            return
        before = _state(path)
        known = _hashes(path)
        if not known >= {*wanted}:
            bad = next(one for one in wanted if one not in known)
            teller = "the address" if bad == address.sha256 else "the hub"
            raise ValueError(
                f"{address}: {path} has not the checksum {bad} that {teller} tells (but {', '.join(sorted(known))}): "
                f"cut short, changed or another file; remove {path.resolve()} and fetch it again"
            )
        with contextlib.suppress(OSError):  # a cache that is only read is hashed each time
            write_atomically(stamp, json.dumps({"state": before, "hashes": sorted(known)}) + "\n")


def _told_by_hub(path: Path) -> str:
    """The cache names a blob by the hub's ETag: SHA-256 of a large file, git's SHA-1 of a small one."""
    name = Path(os.readlink(path)).name if path.is_symlink() else ""
    return name if SHA256.fullmatch(name) or COMMIT.fullmatch(name) else ""


def _state(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]  # mtime alone can be put back


def _stamped(stamp: Path, path: Path) -> set[str]:
    """What the file as it is now was found to have; nothing where it was never hashed, or has changed since."""
    try:
        match json.loads(stamp.read_text(encoding="utf-8")):
            case {"state": state, "hashes": [*hashes]} if state == _state(path):
                return {one for one in hashes if isinstance(one, str)}
    except (OSError, ValueError, RecursionError):
        pass
    return set()


def _hashes(path: Path) -> set[str]:
    """SHA-256 of the bytes, and SHA-1 as git names them."""
    sha256, blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            sha256.update(chunk)
            blob.update(chunk)
    return {sha256.hexdigest(), blob.hexdigest()}


@contextlib.contextmanager
def _alone(stamp: Path) -> Iterator[None]:
    """One process of a machine hashes, the others wait for what it finds."""
    from huggingface_hub.utils import WeakFileLock

    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):  # a cache that is only read
            stamp.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(WeakFileLock(stamp.with_suffix(".lock")))
        yield
