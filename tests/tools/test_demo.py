"""tools/demo.py as visitors meet it: over HTTP, in a browser, and at its end. One server for all of it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import adapters
from recognition import config as settings
from recognition.delivery import write_model, write_start
from recognition.demo import ASKS_NOBODY
from recognition.demo import server as server_module
from recognition.demo.faces import sample
from recognition.model import assemble
from tests.answering import RESULTS, write_picture
from tests.browser import CHROMIUM, Browser
from tests.recognition.demo.test_faces import packed, png
from tools import demo

pytestmark = pytest.mark.skipif(find_spec("gradio") is None, reason="without gradio")  # 2 s to import
ROOT = Path(demo.__file__).resolve().parents[1]
WATCH = """window.waited = 0;
new MutationObserver(() => { waited ||= document.querySelector('.wrap.minimal:not(.hide)') ? 1 : 0; })
  .observe(document.body, {subtree: true, childList: true, attributes: true}); 0"""
READY = "document.querySelector('.lr .verdict')"


def nano_run(folder: Path) -> Path:
    """A run on the base that ships with the project, its adapter drawn."""
    base = f"backbone.weights={ROOT / 'weights/demo_base.safetensors'}"
    config = settings.load(ROOT / "configs/demo.py", [base])
    model = assemble(config).model
    torch.manual_seed(0)
    with torch.no_grad():
        for _, layer in adapters.layers(model.backbone):
            layer.lora_b.normal_(0, 0.02)
    run = folder / "run"
    write_start(run, config, "none")
    for when in ("before", "after"):
        (run / "report" / when).mkdir(parents=True)
        (run / "report" / when / "results.json").write_text(json.dumps(RESULTS))
    write_model(run, config, model, "none")
    return run


@dataclass
class Server:
    process: subprocess.Popen
    address: str
    folder: Path

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        request = urllib.request.Request(self.address + path, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    run, places = nano_run(folder), folder / "temporary"
    places.mkdir()
    for number in range(3):
        write_picture(folder / "faces" / f"{number}.png", sample(number).pixels)
    (folder / "faces" / "broken.jpg").write_bytes(b"\xff\xd8")
    command = [sys.executable, str(ROOT / "tools/demo.py"), "--model", str(run), "--port", "0", "--root", str(folder)]
    environment = {**os.environ, "TMPDIR": str(places), "GRADIO_SHARE": "True", "GRADIO_ANALYTICS_ENABLED": "True"}
    errors = (folder / "errors").open("w")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
    try:
        line = process.stdout.readline()
        assert line.startswith("http://127.0.0.1:"), (folder / "errors").read_text()
        yield Server(process, line.split("/   ")[0], folder)
    finally:
        process.kill()
        process.wait()


def test_it_listens_on_the_loopback_alone(server: Server) -> None:
    sockets = {os.readlink(path) for path in _there(Path(f"/proc/{server.process.pid}/fd").iterdir())}
    found = []
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            cells = line.split()
            if f"socket:[{cells[9]}]" in sockets:
                found.append((table, *cells[1:4]))
    port = int(server.address.rsplit(":", 1)[1])
    own = ("tcp", f"0100007F:{port:04X}", "00000000:0000", "0A")
    assert own in found and all(local.startswith("0100007F") for _, local, _, _ in found)
    assert all(one == own or one[1] == own[1] for one in found)  # no connection but those that came in


def test_files_and_strangers_are_refused(server: Server) -> None:
    status, page = server.get("/")
    assert status == 200 and b"Are these two faces one person?" in page
    assert not re.findall(rb"<(?:script|link)[^>]*(?:src|href)=\"(?:https?:)?//", page)
    for path in ("/gradio_api/file=/etc/passwd", f"/gradio_api/file={server.folder}/faces/0.png", "/gradio_api/upload"):
        assert server.get(path)[0] == 403
    for path in ("/assets/../../../../../../etc/passwd", "/static/..%2f..%2f..%2f..%2fetc%2fpasswd", "/svelte/..%2f"):
        status, found = server.get(path)
        assert status >= 400 and b"root:" not in found
    assert server.get("/", Host="evil.example")[0] == 421
    linked = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert server.get("/", **linked)[0] == 200 and server.get("/config", **linked)[0] == 403
    assert server.get("/config", Origin="https://evil.example")[0] == 403


def test_its_endpoints(server: Server) -> None:
    from gradio_client import Client
    from gradio_client.exceptions import AppError

    client = Client(server.address, verbose=False, analytics_enabled=False)
    first, second, verdict, chart = client.predict(112, 20, 1e-2, "faces/112", api_name="/compare")
    assert "112 × 112 px" in first and "20 × 20 px" in second and "gate" in second
    assert (
        ">Base<" in verdict and ">Adapted<" in verdict and "threshold 0.250 at FAR 0.01" in verdict and "<svg" in chart
    )
    client.predict("sample:0", api_name="/take")
    client.predict(packed(("mine.png", png(sample(9).pixels))), api_name="/take_1")
    first, second, *_ = client.predict(112, 112, 1e-3, "faces/112", api_name="/compare")
    assert "person A, picture 1" in first and "mine.png" in second
    client.predict("faces", api_name="/folder")
    text = client.predict(28, 1e-3, "nearest", api_name="/many")
    assert "broken.jpg" in text and text.count("threshold 0.750 at FAR 0.001") == 2
    for wrong in ("..", "/etc", "gone", "n" * 300, "~nosuchuser"):
        with pytest.raises(AppError, match=r"--root|no folder|name too long|home directory"):
            client.predict(wrong, api_name="/folder")
    with pytest.raises(AppError, match="no JPEG or PNG"):
        client.predict(packed(("a.gif", b"GIF89a")), api_name="/take")


@pytest.mark.skipif(not CHROMIUM, reason="needs chromium")
def test_in_a_browser(server: Server, tmp_path: Path) -> None:
    with Browser(tmp_path / "profile") as browser:
        for width in (1280, 390):
            browser.open(server.address, width, 900, READY)
            browser.wait("document.querySelectorAll('.lr .drop input').length >= 2")
            assert browser.evaluate("innerWidth") == width
            assert browser.evaluate("document.documentElement.scrollWidth") <= width
            assert browser.evaluate("document.querySelectorAll('.lr .verdict').length") == 2
        browser.evaluate("document.querySelector('button[data-sample=\"7\"]').click()")
        browser.wait("document.querySelector('.lr .face b').textContent === 'person D, picture 2'")
        browser.hand_in(".lr .drop input", [server.folder / "faces" / "1.png"])
        browser.wait("document.querySelector('.lr .face b').textContent === '1.png'")
        browser.hand_in(".lr .drop input", [server.folder / "faces" / "broken.jpg"])
        browser.wait("document.body.innerText.includes('broken.jpg: no JPEG or PNG')")
        elsewhere = [one for one in browser.asked if not one.startswith((server.address + "/", "data:", "blob:"))]
        assert not elsewhere and len(browser.asked) > 20
        assert not browser.said
        browser.evaluate(WATCH)
        browser.evaluate("document.querySelector('button[data-sample=\"3\"]').click()")
        browser.wait("document.querySelector('.lr .face b').textContent === 'person B, picture 2'")
        browser.wait("waited")  # the picker showed that something was on its way


def test_the_port_is_taken(server: Server, capsys: pytest.CaptureFixture) -> None:
    port = server.address.rsplit(":", 1)[1]
    assert demo.main(["--port", port]) == 2
    assert capsys.readouterr().err == f"port {port} is taken, or not yours to open: name another by --port\n"


@pytest.mark.parametrize("wrong", [["--port", "70000"], ["--far", "0"], ["--root", "nowhere"], ["--modle", "x"]])
def test_wrong_options(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        demo.main(wrong)
    assert ended.value.code == 2


def test_without_gradio_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert demo.main([]) == 2
    assert 'pip install "gradio>=6,<7"' in capsys.readouterr().err


def test_it_asks_no_hub(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # as private() does by the environment, for good
    monkeypatch.setattr(server_module, "private", nullcontext)
    assert demo.main(["--model", "hf://nobody/none/face.safetensors", "--port", "0"]) == 2
    assert capsys.readouterr().err == f"hf://nobody/none/face.safetensors is not in the cache, and {ASKS_NOBODY}\n"


def test_at_the_end_nothing_is_left(server: Server) -> None:
    """The last test: it ends the server."""
    places = server.folder / "temporary"
    assert any(places.glob("lrface-demo-*"))
    assert not [path for path in places.rglob("*") if path.is_file()], "pictures are kept in memory alone"
    with socket.create_connection(("127.0.0.1", int(server.address.rsplit(":", 1)[1]))):
        server.process.send_signal(signal.SIGINT)
        begin = time.monotonic()
        assert server.process.wait(30) == 130
    assert time.monotonic() - begin < 20
    assert (server.folder / "errors").read_text() == "interrupted\n"
    assert not list(places.glob("lrface-demo-*"))


def _there(paths: Iterator[Path]) -> Iterator[Path]:
    return (path for path in paths if path.is_symlink())
