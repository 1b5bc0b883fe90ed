"""What gradio holds of a visitor while the page is open, and nothing of it afterwards: on a server in this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from recognition.demo import page as pages
from recognition.demo import server
from recognition.demo.answering import Demo
from recognition.demo.faces import sample
from recognition.demo.models import SHIPPED_BASE, open_models
from tests.answering import write_picture
from tests.recognition.demo.test_faces import packed, png

pytestmark = pytest.mark.skipif(find_spec("gradio") is None, reason="without gradio")  # which takes 2 s to import


@dataclass
class Served:
    page: object
    address: str

    @property
    def sessions(self) -> dict[str, object]:
        return self.page.state_holder.session_data


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    import uvicorn

    root = tmp_path_factory.mktemp("root")
    write_picture(root / "own" / "face.png", sample(9).pixels)
    page = pages.build(Demo(open_models(SHIPPED_BASE), root), "base")
    patch = pytest.MonkeyPatch()
    patch.setattr("gradio.utils.get_heartbeat_rate", lambda: 0.1)  # gradio's client ends between two beats
    with server.listen(0) as opened:
        app = server.application(page, opened.getsockname()[1])
        running = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [opened]})
        thread.start()
        try:
            yield Served(page, f"http://127.0.0.1:{opened.getsockname()[1]}")
        finally:
            running.should_exit = True
            thread.join(20)
            patch.undo()


def until(holds: Callable[[], bool], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.05)
    return holds()


def held(session: object) -> str:
    """All that gradio keeps of the parts of a page, as text."""
    return repr([part.get("props") for part in session.config_values.values()])


def test_pictures_are_gone_with_the_page(served: Served, tmp_path: Path) -> None:
    from gradio_client import Client
    from gradio_client.exceptions import AppError

    client = Client(served.address, verbose=False, analytics_enabled=False)
    mine = packed(("mine.png", png(sample(9).pixels)))
    client.predict(mine, api_name="/take")
    client.predict(mine, api_name="/pictures")
    client.predict("own", api_name="/folder")
    shown = client.predict(112, 112, None, None, api_name="/compare")[0]
    assert "mine.png" in shown and "face.png" in client.predict(112, None, None, api_name="/many")
    wrong = packed(("wrong.gif", b"GIF89a" + bytes(3000)))
    for name in ("/take", "/pictures"):
        try:
            client.predict(wrong, api_name=name)
        except AppError as error:
            assert "no JPEG or PNG" in str(error)
    ((name, session),) = served.sessions.items()
    for text in (mine[20:120], wrong[20:120], "mine.png", "wrong.gif", "face.png"):
        assert text not in held(session)
    assert "mine.png" in repr(session.state_data)
    client.close()
    assert until(lambda: not served.sessions), "the page is closed"
    assert name not in served.page.state_holder.time_last_used


def test_states_end_after_their_time_and_sessions_are_few(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    from gradio_client import Client

    assert served.page.state_holder.capacity == pages.MOST_SESSIONS <= 50
    states = [part for part in served.page.blocks.values() if part.get_block_name() == "state"]
    assert len(states) == 3 and all(one.time_to_live == pages.HELD == 3600 for one in states)
    client = Client(served.address, verbose=False, analytics_enabled=False)
    client.predict("sample:3", api_name="/take")
    (session,) = served.sessions.values()
    assert "person B" in repr(session.state_data)
    session._state_ttl = {key: (0, since) for key, (_, since) in session._state_ttl.items()}
    assert until(lambda: "person B" not in repr(session.state_data))
    client.close()
    assert until(lambda: not served.sessions)
