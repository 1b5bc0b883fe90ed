"""The demo on the loopback of this machine: nobody else hears it, and it speaks to nobody else."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from recognition.demo import look
from recognition.demo.faces import MOST_TOGETHER

if TYPE_CHECKING:
    import gradio

HOST = "127.0.0.1"
PORTS = range(7860, 7880)  # tried in turn where no port is asked for
MOST_BODY = MOST_TOGETHER * 3 // 2  # bytes of a request: pictures travel as base64
HEARTBEAT = "/gradio_api/heartbeat/"
OPEN = ("/assets/", "/static/", "/svelte/", "/gradio_api/queue/", HEARTBEAT)
PAGES = ("/", "/config", "/theme.css", "/manifest.json", "/favicon.ico", "/robots.txt", "/gradio_api/info",
         "/gradio_api/startup-events", "/gradio_api/cancel", "/gradio_api/reset", "/gradio_api/app_id")  # fmt: skip
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "object-src 'none'; frame-src 'none'; frame-ancestors 'none'; form-action 'none'; base-uri 'self'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
]

Message = MutableMapping[str, object]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def listen(port: int | None = None) -> socket.socket:
    """A socket on the loopback. OSError with a sentence where the port, or all of PORTS, are taken."""
    for one in PORTS if port is None else [port]:
        opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            opened.bind((HOST, one))
            opened.listen(64)
        except OSError:
            opened.close()
            continue
        return opened
    if port is None:
        raise OSError(f"ports {PORTS[0]} to {PORTS[-1]} are taken: name a free one by --port")
    raise OSError(f"port {port} is taken, or not yours to open: name another by --port")


@contextmanager
def private() -> Iterator[None]:
    """gradio's environment inside: no telemetry, no hub, and a folder for its files that is gone afterwards.

    From here on this process opens no connection but to the loopback; that cannot be taken back.
    """
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]  # such as GRADIO_SHARE, GRADIO_ALLOWED_PATHS
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}
    sys.addaudithook(refuse_outside)
    with tempfile.TemporaryDirectory(prefix="lrface-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        yield


def refuse_outside(event: str, arguments: tuple[object, ...]) -> None:
    """An audit hook. PermissionError for a connection, a message or a name look-up beyond this machine.

    It hears of what Python code does; a library that calls the system itself is not held back.
    """
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.getnameinfo"):
        address = arguments[-1]
        host = address[0] if isinstance(address, tuple) else None  # another form is of this machine, a Unix socket
    else:
        return
    name = host.decode("ascii", "replace") if isinstance(host, bytes) else host
    if name not in (None, "", "localhost") and not _loopback(str(name)):
        raise PermissionError(f"the demo speaks to nobody but this machine, and was to reach {name}")


def application(page: gradio.Blocks, port: int) -> Guard:
    """The page as an ASGI application, behind the guard."""
    from fastapi import FastAPI

    from recognition.demo.page import import_gradio, theme

    gr = import_gradio()
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    whole = gr.mount_gradio_app(
        app, page, "/", server_name=HOST, server_port=port, footer_links=[], run_history=False, allowed_paths=[],
        max_file_size=1, ssr_mode=False, mcp_server=False, enable_monitoring=False, pwa=False, show_error=True,
        theme=theme(), head=f"<style>{look.css()}</style>",
    )  # fmt: skip
    return Guard(whole, port, forgetting(page))


def forgetting(page: gradio.Blocks) -> Callable[[str], None]:
    """Keeps gradio from keeping what visitors send and see; what is returned drops the session of a closed page.

    gradio would keep the last value of every part of a page, and the state for an hour after the page is closed.
    """
    sessions = page.state_holder.session_data = Sessions()

    def closed(session: str) -> None:
        sessions.pop(session, None)
        page.state_holder.time_last_used.pop(session, None)

    return closed


class Sessions(OrderedDict):
    """gradio's sessions by name, each with its states and without the values of its parts."""

    def __setitem__(self, name: str, session: object) -> None:
        session._update_value_in_config = lambda part, value: None
        super().__setitem__(name, session)


class Guard:
    """Lets in what the page itself asks for, from this machine; nothing else of gradio's can be reached.

    Host: another name that points to the loopback (DNS rebinding) is refused. Origin: other sites in the same browser
    are; a link of theirs may lead here. Paths: no upload, no file, no proxy. Bodies are limited. Every answer carries
    the policy by which a browser loads nothing from anywhere else.
    """

    def __init__(
        self, app: Callable[..., Awaitable[None]], port: int, closed: Callable[[str], None] = lambda session: None
    ) -> None:
        """closed: hears the name of a session whose page is gone."""
        self.app = app
        self.closed = closed
        self.hosts = {f"{name}:{port}" for name in (HOST, "localhost")}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # the page opens no web socket
        if problem := self.problem(scope):
            await _refuse(send, *problem)
            return
        left = MOST_BODY

        async def counted() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                return {"type": "http.disconnect"}
            return message

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [one for one in message["headers"] if one[0].lower() not in dict(HEADERS)]
                message = {**message, "headers": [*kept, *HEADERS]}
            await send(message)

        try:
            await self.app(scope, counted, guarded)
        finally:
            before, heartbeat, session = str(scope["path"]).partition(HEARTBEAT)
            if heartbeat and not before:  # it beats as long as the page is open
                self.closed(session)

    def problem(self, scope: Message) -> tuple[int, str] | None:
        """Status and sentence for a request that is refused."""
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if headers.get(b"host", "").lower() not in self.hosts:
            return 421, "this is not the host that was asked for"
        path = str(scope["path"])
        origin = headers.get(b"origin")
        if origin is not None and origin.lower().removeprefix("http://") not in self.hosts:
            return 403, "other pages may not ask"
        link = path == "/" and scope.get("method") == "GET" and headers.get(b"sec-fetch-mode") == "navigate"
        if headers.get(b"sec-fetch-site", "none") not in ("none", "same-origin") and not link:
            return 403, "other pages may not ask"
        if path not in PAGES and not path.startswith(OPEN):
            return 403, "there is nothing to be had"
        length = headers.get(b"content-length", "0")
        if not length.isdecimal() or int(length) > MOST_BODY:
            return 413, f"more than {MOST_BODY >> 20} MiB"
        return None


def serve(page: gradio.Blocks, opened: socket.socket) -> None:
    """Answers until Ctrl-C or SIGTERM. KeyboardInterrupt after Ctrl-C."""
    import uvicorn

    app = application(page, opened.getsockname()[1])
    settings = uvicorn.Config(
        app, loop="asyncio", lifespan="on", log_level="critical", access_log=False, server_header=False,
        proxy_headers=False, timeout_graceful_shutdown=1, ws="none",
    )  # fmt: skip
    uvicorn.Server(settings).run(sockets=[opened])


def _loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


async def _refuse(send: Send, status: int, words: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": words.encode()})
