import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from recognition.signals import SAME_SIGNAL, StopSignals, exit_code


def wait_for(condition):
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_noted_and_handlers_come_back(number, capfd):
    before = signal.getsignal(number)
    signals = StopSignals()
    signals.start()
    assert signals.name == ""
    os.kill(os.getpid(), number)
    assert wait_for(lambda: signals.received) and signals.name == signal.Signals(number).name
    os.kill(os.getpid(), number)  # within a second: the same one, from a scheduler that signals everybody
    time.sleep(0.1)
    signals.stop()
    assert signal.getsignal(number) == before
    assert "a second signal stops at once" in capfd.readouterr().err


def test_outside_the_main_thread_nothing_is_watched():
    seen = []

    def work():
        signals = StopSignals()
        signals.start()
        seen.append(signals._before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [{}]


BLOCKED = """
import ctypes, os, signal
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_DFL)  # as for a process started from a terminal
from recognition.signals import StopSignals
StopSignals().start()
print("ready", flush=True)
libc = ctypes.CDLL(None)
while True:
    libc.usleep(60_000_000)  # a call into C that does not come back, as a collective whose peer is gone
"""


@pytest.mark.parametrize(("first", "second"), [("SIGTERM", "SIGTERM"), ("SIGINT", "SIGTERM"), ("SIGTERM", "SIGINT")])
def test_a_second_signal_of_any_kind_ends_a_process_that_hangs_in_c(first, second):
    child = subprocess.Popen([sys.executable, "-c", BLOCKED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.Signals[first])
    assert first in child.stderr.readline()
    time.sleep(SAME_SIGNAL + 0.2)
    assert child.poll() is None
    child.send_signal(signal.Signals[second])
    assert child.wait(timeout=10) == 128 + signal.Signals[second]
    child.stdout.close()
    child.stderr.close()


def test_exit_codes(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert exit_code("") == 0 and exit_code("SIGTERM") == 143 and exit_code("SIGINT") == 130
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert exit_code("SIGTERM") == 0
