import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from safetensors.torch import save_file

from recognition.evaluation.report import write_figure
from recognition.files import flush, replacing, write_atomically
from recognition.weights import read_weights, write_weights
from tests.disk import fill, small_disk


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_text_and_bytes_are_written_with_the_folders_above(tmp_path):
    write_atomically(tmp_path / "a" / "b" / "text.json", "für alle\n")
    write_atomically(str(tmp_path / "a" / "b" / "bytes"), b"\x00\xff")
    assert (tmp_path / "a" / "b" / "text.json").read_bytes() == "für alle\n".encode()
    assert (tmp_path / "a" / "b" / "bytes").read_bytes() == b"\x00\xff"
    assert names(tmp_path / "a" / "b") == ["bytes", "text.json"]


def test_an_error_leaves_what_was_there_and_nothing_else(tmp_path):
    path = tmp_path / "it"
    write_atomically(path, "before")
    with pytest.raises(RuntimeError, match="half"), replacing(path) as temporary:
        temporary.write_text("half of")
        raise RuntimeError("half")
    assert path.read_text() == "before" and names(tmp_path) == ["it"]


def test_the_new_file_stands_only_after_the_end(tmp_path):
    path = tmp_path / "it"
    write_atomically(path, "before")
    with replacing(path) as temporary:
        temporary.write_text("after")
        assert path.read_text() == "before" and temporary.parent == path.parent
    assert path.read_text() == "after" and names(tmp_path) == ["it"]


def test_bytes_are_flushed_before_the_rename_and_the_folder_after(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(os, "fsync", lambda handle: calls.append(os.readlink(f"/proc/self/fd/{handle}")))
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda *pair: (calls.append("replace"), real(*pair)))
    write_atomically(tmp_path / "it", "x")
    assert calls[0].startswith(str(tmp_path / ".it.")) and calls[1:] == ["replace", str(tmp_path)]


def test_a_file_system_that_flushes_no_folders_is_no_error(tmp_path, monkeypatch):
    real = os.fsync

    def fsync(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(22, "Invalid argument")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomically(tmp_path / "it", "x")
    assert (tmp_path / "it").read_text() == "x"
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with pytest.raises(OSError, match="Input/output"):
        flush(tmp_path)


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_files_have_the_mode_of_any_new_file(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "text", "x")
        write_weights(tmp_path / "net.safetensors", {"a": torch.ones(2)}, {})
        write_figure(tmp_path / "figure.png", Figure())
        with replacing(tmp_path / "private") as temporary:
            save_file({"a": torch.ones(2)}, temporary)  # leaves a new file of mode 0600
    finally:
        os.umask(before)
    modes = {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys(["text", "net.safetensors", "net.json", "figure.png", "private"], oct(0o666 & ~mask))


def test_a_full_disk_leaves_old_files_and_names_the_new_one(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        path, weights = disk / "it", disk / "net.safetensors"
        write_atomically(path, "before")
        write_weights(weights, {"a": torch.zeros(3)}, {"version": 1})
        with pytest.raises(OSError, match=r"No space left on device: '.*/disk/it'"):
            write_atomically(path, bytes(2**21))
        with pytest.raises(OSError, match=r"No space left on device: '.*/net.safetensors'"):
            write_weights(weights, {"a": torch.ones(2**20)}, {"version": 2})
        with pytest.raises(OSError, match="No space left on device"), replacing(path) as temporary:
            Path(temporary).write_bytes(bytes(2**21))
        assert path.read_text() == "before" and read_weights(weights).card == {"version": 1}
        assert names(disk) == ["it", "net.json", "net.safetensors"]
        fill(disk)
        with pytest.raises(OSError, match="No space left on device"):
            write_weights(weights, {"a": torch.ones(3)}, {"version": 3})
        assert read_weights(weights).card == {"version": 1} and read_weights(weights).tensors["a"].sum() == 0
        (disk / "ballast").unlink()
        assert names(disk) == ["it", "net.json", "net.safetensors"]


def test_what_a_killed_process_left_is_removed_and_that_of_a_living_one_is_not(tmp_path):
    code = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from recognition.files import replacing
with replacing({str(tmp_path / "it")!r}) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert len(names(tmp_path)) == 1 and names(tmp_path)[0].startswith(".it.")
    here = names(tmp_path)[0].partition("@")[2]
    living, far, old = (tmp_path / f".it.{who}" for who in (f"{os.getppid()}@{here}", "7@far.tmp", "8@far.tmp"))
    for path in (living, far, old):
        path.write_text("of another process")
    os.utime(old, (0, 0))
    (tmp_path / ".it.old.tmp").write_text("not ours")
    write_atomically(tmp_path / "it", "whole")
    assert names(tmp_path) == sorted([living.name, far.name, ".it.old.tmp", "it"]), "of another machine: after a day"
