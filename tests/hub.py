"""A hub on loopback that answers what huggingface_hub asks for files, and counts it."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

import pytest
from huggingface_hub import constants

from recognition.weights import hub as weights_hub

COMMIT = "1" * 40
ERRORS = {  # X-Error-Code by repository
    "owner/gated": (403, "GatedRepo"),
    "owner/none": (404, "RepoNotFound"),
    "owner/broken": (400, ""),
}


class Hub:
    """files: bytes by (repository, revision, path). small: of these paths the ETag is git's SHA-1, as without LFS.

    told: ETags in place of the right ones, by path. asked: (method, path in the address) of each request.
    """

    def __init__(self) -> None:
        self.files: dict[tuple[str, str, str], bytes] = {}
        self.commits = {"main": COMMIT}
        self.small: set[str] = set()
        self.told: dict[str, str] = {}
        self.asked: list[tuple[str, str]] = []
        self.endpoint = ""

    def put(self, repo: str, path: str, data: bytes, revision: str = "main") -> None:
        self.files[repo, revision, path] = self.files[repo, self.commits[revision], path] = data

    def etag(self, path: str, data: bytes) -> str:
        if path in self.small:
            return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        return hashlib.sha256(data).hexdigest()


def used(hub: Hub, patch: pytest.MonkeyPatch, cache: Path) -> None:
    """Have huggingface_hub ask this hub, with an empty cache; its own variables are read when it is imported."""
    patch.setattr(constants, "ENDPOINT", hub.endpoint)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    hub.files.clear()
    hub.told.clear()
    hub.asked.clear()
    hub.commits, hub.small = {"main": COMMIT}, set()
    restart()


def restart() -> None:
    """As another process would begin."""
    weights_hub._first_fetched.cache_clear()


def _handler(hub: Hub) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_GET(self) -> None:
            hub.asked.append((self.command, unquote(self.path)))
            repo, resolve, rest = unquote(self.path).lstrip("/").partition("/resolve/")
            if repo in ERRORS or not resolve:
                status, code = ERRORS.get(repo, (404, "RepoNotFound"))
                return self.answer(status, {"X-Error-Code": code} if code else {})
            revisions = {one for _, one, _ in hub.files}
            revision = max((one for one in revisions if rest.startswith(f"{one}/")), key=len, default="")
            if not revision:
                return self.answer(404, {"X-Error-Code": "RevisionNotFound"})
            commit, path = hub.commits.get(revision, revision), rest.removeprefix(f"{revision}/")
            data = hub.files.get((repo, revision, path))
            if data is None:
                return self.answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            etag = hub.told.get(path) or hub.etag(path, data)
            linked = "ETag" if path in hub.small else "X-Linked-Etag"
            headers = {linked: f'"{etag}"', "X-Repo-Commit": commit, "X-Linked-Size": str(len(data))}
            return self.answer(200, headers, data)

        do_HEAD = do_GET

    return Handler


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub until the end of the block, its address in hub.endpoint."""
    hub = Hub()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
