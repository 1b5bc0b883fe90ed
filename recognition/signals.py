"""Stopping at a signal: the first one asks for a stop at the end of the update, a second one stops at once.

Convention of exit codes. A run that stopped in order, its checkpoint written, ends with 0 under torchrun: any other
code would make torchrun kill the other processes, or start the run again that somebody wanted stopped. Without it, it
ends with 128 + signal, as shells expect. A second signal ends the process at once with 128 + signal. torchrun itself
returns 1 whenever it was the one that got the signal, and kills its workers 30 s after it: a checkpoint that is not
complete by then does not exist, and the one before stands.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from types import FrameType

WATCHED = (signal.SIGTERM, signal.SIGINT)


def exit_code(stopped_by: str) -> int:
    """Of a process whose run ended in order. stopped_by: a signal's name, such as SIGTERM; "" = the run is complete."""
    if not stopped_by or "TORCHELASTIC_RUN_ID" in os.environ:
        return 0
    return 128 + signal.Signals[stopped_by].value


class StopSignals:
    """Watches SIGTERM and SIGINT while it is entered. Outside the main thread it watches nothing.

    A thread reads the signals, not a Python handler: those wait until the main thread leaves a collective, which may
    be never where another process is gone.
    """

    def __init__(self) -> None:
        self.received = 0  # number of the first signal, 0 = none
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._reads, self._writes = socket.socketpair()
        self._writes.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._writes.fileno(), warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, _nothing) for number in WATCHED}
        threading.Thread(target=self._watch, args=(self._reads,), daemon=True, name="stop-signals").start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._before:
            return
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
        self._writes.close()  # ends the thread

    @property
    def name(self) -> str:
        """Of the first signal, such as SIGTERM; "" before there was one."""
        return signal.Signals(self.received).name if self.received else ""

    def _watch(self, reads: socket.socket) -> None:
        with reads:
            while data := reads.recv(1):
                number = data[0]
                if number not in WATCHED:
                    continue
                if self.received:
                    os._exit(128 + number)
                self.received = number
                name = signal.Signals(number).name
                print(f"{name}: stopping after this update; a second signal stops at once", file=sys.stderr, flush=True)


def _nothing(number: int, frame: FrameType | None) -> None:
    pass
