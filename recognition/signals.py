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
import time
from types import FrameType

WATCHED = (signal.SIGTERM, signal.SIGINT)
SAME_SIGNAL = 1.0  # seconds in which more of them are the same one


def exit_code(stopped_by: str) -> int:
    """Of a process whose run ended in order. stopped_by: a signal's name, such as SIGTERM; "" = the run is complete."""
    if not stopped_by or "TORCHELASTIC_RUN_ID" in os.environ:
        return 0
    return 128 + signal.Signals[stopped_by].value


class StopSignals:
    """Watches SIGTERM and SIGINT between start() and stop(). Outside the main thread it watches nothing.

    A thread reads the signals, not a Python handler: those wait until the main thread leaves a collective, which may
    be never where another process is gone. Signals within a second of the first count as the first: a scheduler that
    signals every process of a job reaches a worker directly and through torchrun.
    """

    def __init__(self) -> None:
        self.received = 0  # number of the first signal, 0 = none
        self._at = 0.0  # when it came
        self._before: dict[int, object] = {}

    @property
    def name(self) -> str:
        """Of the first signal, such as SIGTERM; "" before there was one."""
        return signal.Signals(self.received).name if self.received else ""

    def start(self) -> None:
        """Begin to watch."""
        if threading.current_thread() is not threading.main_thread() or self._before:
            return
        reads, self._writes = socket.socketpair()
        self._writes.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._writes.fileno(), warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, _nothing) for number in WATCHED}
        threading.Thread(target=self._watch, args=(reads,), daemon=True, name="stop-signals").start()

    def stop(self) -> None:
        """Put the handlers back that were there before."""
        if not self._before:
            return
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
        self._writes.close()  # ends the thread

    def _watch(self, reads: socket.socket) -> None:
        with reads:
            while data := reads.recv(1):
                if data[0] in WATCHED:
                    self._take(data[0])

    def _take(self, number: int) -> None:
        if not self.received:
            self.received, self._at = number, time.monotonic()
            name = signal.Signals(number).name
            print(f"{name}: stopping after this update; a second signal stops at once", file=sys.stderr, flush=True)
        elif time.monotonic() - self._at > SAME_SIGNAL:
            os._exit(128 + number)


def _nothing(number: int, frame: FrameType | None) -> None:
    pass
