"""The guard before the page, and the process that speaks to nobody: without gradio and without a network."""

from __future__ import annotations

import asyncio
import socket

import pytest

from recognition.demo.server import MOST_BODY, PORTS, Guard, listen, refuse_outside

HOST = (b"host", b"127.0.0.1:7860")


async def inner(scope: dict, receive: object, send: object) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            body = b"cut off"
            break
        body, more = body + message.get("body", b""), message.get("more_body", False)
    headers = [(b"x-own", b"1"), (b"content-security-policy", b"none")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body[:20]})


def ask(
    path: str, *headers: tuple[bytes, bytes], bodies: tuple[bytes, ...] = (b"",), closed: object = None
) -> tuple[int, dict, bytes]:
    """Status, headers and body of an answer."""
    sent: list[dict] = []
    left = list(bodies)

    async def receive() -> dict:
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message: dict) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "headers": list(headers)}
    guard = Guard(inner, 7860, *([closed] if closed else []))
    asyncio.run(guard(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


def test_the_page_is_answered_and_nothing_from_elsewhere_is_loaded() -> None:
    status, headers, _ = ask("/", HOST)
    assert status == 200 and headers[b"x-own"] == b"1"
    policy = headers[b"content-security-policy"].decode()
    assert "default-src 'self'" in policy and "connect-src 'self'" in policy and "http" not in policy
    own = (b"origin", b"http://127.0.0.1:7860"), (b"sec-fetch-site", b"same-origin")
    assert ask("/gradio_api/queue/join", HOST, *own)[0] == 200
    assert ask("/assets/a.js", (b"host", b"localhost:7860"))[0] == 200
    assert ask("/", (b"host", b"LOCALHOST:7860"))[0] == 200


def test_a_link_from_elsewhere_leads_to_the_page_and_nowhere_else() -> None:
    linked = (b"sec-fetch-site", b"cross-site"), (b"sec-fetch-mode", b"navigate")
    assert ask("/", HOST, *linked)[0] == 200
    for path, *headers in (("/", linked[0]), ("/config", *linked), ("/gradio_api/queue/join", *linked)):
        assert ask(path, HOST, *headers)[0] == 403
    assert ask("/", HOST, *linked, (b"origin", b"https://evil.example"))[0] == 403


def test_who_closes_the_page_is_told() -> None:
    gone: list[str] = []
    for path in ("/gradio_api/heartbeat/abc", "/gradio_api/queue/data", "/", "/static/gradio_api/heartbeat/x"):
        ask(path, HOST, closed=gone.append)
    assert gone == ["abc"]


@pytest.mark.parametrize(
    "headers",
    [
        [(b"host", b"evil.example:7860")],
        [(b"host", b"127.0.0.1")],
        [],
        [HOST, (b"origin", b"https://evil.example")],
        [HOST, (b"origin", b"null")],
        [HOST, (b"origin", b"http://127.0.0.1:7861")],
        [HOST, (b"sec-fetch-site", b"cross-site")],
        [HOST, (b"content-length", str(MOST_BODY + 1).encode())],
        [HOST, (b"content-length", b"-1")],
    ],
)
def test_others_are_refused(headers: list[tuple[bytes, bytes]]) -> None:
    assert ask("/gradio_api/queue/join", *headers)[0] in (403, 413, 421)


@pytest.mark.parametrize(
    "path",
    [
        *("/gradio_api/file=/etc/passwd", "/file=/etc/passwd", "/gradio_api/upload", "/gradio_api/proxy=http://a"),
        *(
            "/gradio_api/run/compare",
            "/gradio_api/call/compare",
            "/gradio_api/component_server",
            "/docs",
            "/monitoring",
        ),
    ],
)
def test_there_is_no_file_no_upload_and_no_proxy(path: str) -> None:
    assert ask(path, HOST)[0] == 403


def test_a_body_without_a_stated_length_is_cut_off() -> None:
    part = bytes(MOST_BODY // 2 + 1)
    assert ask("/gradio_api/queue/join", HOST, bodies=(part, part))[2] == b"cut off"


@pytest.mark.parametrize("address", [("127.0.0.1", 80), ("localhost", 80), ("::1", 80, 0, 0), "/run/socket"])
def test_the_loopback_may_be_reached(address: object) -> None:
    refuse_outside("socket.connect", (None, address))
    refuse_outside("socket.sendmsg", (None, None))  # on a socket that is connected
    refuse_outside("open", ("file", "r", 0))


@pytest.mark.parametrize(
    "host", ["api.gradio.app", "10.0.0.1", "0.0.0.0", "::ffff:1.2.3.4", b"example.org", "127.0.0.1.example.org"]
)
def test_nobody_else_may(host: str | bytes) -> None:
    for event, arguments in (
        ("socket.connect", (None, (host, 443))),
        ("socket.sendto", (None, (host, 53))),
        ("socket.sendmsg", (None, (host, 53))),
        ("socket.getnameinfo", ((host, 53),)),
        ("socket.gethostbyname", (host,)),
        ("socket.gethostbyaddr", (host,)),
        ("socket.getaddrinfo", (host, 443, 0, 0, 0)),
    ):
        with pytest.raises(PermissionError, match="speaks to nobody but this machine"):
            refuse_outside(event, arguments)


def test_the_loopback_alone_and_a_taken_port() -> None:
    with listen(0) as first:
        host, port = first.getsockname()
        assert host == "127.0.0.1" and port
        with pytest.raises(OSError, match=f"port {port} is taken"):
            listen(port)
    with listen() as second:
        assert second.getsockname()[1] in PORTS
        with socket.create_connection(second.getsockname(), 5):
            pass
