import json
import os
from pathlib import Path

import numpy as np
import pytest

from recognition.checkpoint.manifest import MANIFEST, DamagedError, digest, read_manifest, verify, write_manifest

FILES = {"shard-00001-model-00001-of-00001.safetensors": b"tensors" * 100, "state.json": b'{"update": 3}\n'}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    write_manifest(tmp_path, {name: digest(tmp_path / name) for name in FILES})
    return tmp_path


def test_what_was_written_passes_in_any_number_of_parts(folder):
    verify(folder)
    for parts in (2, 3):
        for part in range(parts):
            verify(folder, part, parts)
    assert {name: size for name, (size, _) in read_manifest(folder).items()} == {n: len(d) for n, d in FILES.items()}


def test_every_flipped_byte_is_refused_by_the_files_name(folder):
    rng = np.random.default_rng(0)
    for name in [*FILES, MANIFEST]:
        path, whole = folder / name, (folder / name).read_bytes()
        places = range(len(whole)) if name == MANIFEST else rng.choice(len(whole), min(len(whole), 60), replace=False)
        for place in places:
            flipped = bytearray(whole)
            flipped[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(flipped)
            with pytest.raises(DamagedError, match=str(folder) if name == MANIFEST else name):
                verify(folder)
        path.write_bytes(whole)
    verify(folder)


def test_only_one_of_several_parts_hashes_a_file(folder):
    path = folder / "state.json"
    path.write_bytes(path.read_bytes().replace(b"3", b"4"))
    refused = []
    for part in range(3):
        try:
            verify(folder, part, 3)
        except DamagedError:
            refused.append(part)
    assert len(refused) == 1


def test_cut_missing_added_and_linked_files_are_refused(folder, tmp_path_factory):
    path, whole = folder / "state.json", FILES["state.json"]
    path.write_bytes(whole[:-1])
    with pytest.raises(DamagedError, match=r"state\.json has 13 bytes, 14 were written"):
        verify(folder)
    path.unlink()
    with pytest.raises(DamagedError, match=r"state\.json is missing"):
        verify(folder)
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "state.json"
    elsewhere.write_bytes(whole)
    path.symlink_to(elsewhere)
    with pytest.raises(DamagedError, match=r"state\.json is missing, or no plain file"):
        verify(folder)
    path.unlink()
    path.write_bytes(whole)
    (folder / "another.safetensors").write_bytes(b"")
    with pytest.raises(DamagedError, match=r"another\.safetensors is not in the manifest"):
        verify(folder)
    os.remove(folder / MANIFEST)
    with pytest.raises(DamagedError, match="missing"):
        verify(folder)


@pytest.mark.parametrize("name", ["../state.json", "/etc/passwd", "a/b", "..", ".", "", "a\\b\n", ".hidden"])
def test_a_manifest_cannot_name_files_outside_its_folder(folder, name):
    entry = [14, "0" * 64]
    (folder / MANIFEST).write_text(json.dumps({"format": 1, "files": {name: entry}}, indent=1) + "\n")
    with pytest.raises(DamagedError, match="damaged"):
        verify(folder)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"files": []}', '{"files": {"a": 3}}', '{"files": {"a": [1, 2]}}', "[" * 100_000, "\x00"]
)
def test_a_manifest_of_another_form_is_refused(folder, text):
    (folder / MANIFEST).write_text(text)
    with pytest.raises(DamagedError):
        read_manifest(folder)


def test_a_folder_with_other_files_is_not_sealed(tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    with pytest.raises(RuntimeError, match="'b'"):
        write_manifest(tmp_path, {"a": digest(tmp_path / "a")})
    assert not (tmp_path / MANIFEST).exists()
