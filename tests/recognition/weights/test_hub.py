"""Weights on the hub: fetched once, by commit, held against checksums; every fault is a sentence."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from recognition.weights import hub as weights_hub
from recognition.weights import read_card, read_weights, sha256, write_weights
from recognition.weights.hub import FORM, is_address, local_path, parse, pin
from tests.hub import COMMIT, Hub, restart, used

OTHER = "2" * 40
NAME = "deep/net.safetensors"
HERE = f"hf://owner/repo/{NAME}"


@pytest.fixture
def hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """An empty cache, and a hub with a network and its card."""
    used(hub, monkeypatch, tmp_path / "cache")
    write_weights(tmp_path / "net.safetensors", {"a": torch.arange(6.0)}, {"backbone": "r18"})
    hub.commits, hub.small = {"main": COMMIT, "refs/pr/1": OTHER}, {"deep/net.json"}
    hub.put("owner/repo", NAME, (tmp_path / "net.safetensors").read_bytes())
    hub.put("owner/repo", "deep/net.json", (tmp_path / "net.json").read_bytes())
    hub.put("owner/repo", NAME, b"another", "refs/pr/1")
    return hub


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    restart()


def test_an_address_is_read_as_a_file_is(hub: Hub) -> None:
    for where in (HERE, Path(HERE), f"{HERE}@main", f"{HERE}@{COMMIT}"):
        found = read_weights(where)
        assert found.tensors["a"].tolist() == [0, 1, 2, 3, 4, 5] and found.card["backbone"] == "r18", where
        assert read_card(where)["backbone"] == "r18"
        assert sha256(where) == hashlib.sha256(hub.files["owner/repo", "main", NAME]).hexdigest()
    assert local_path(f"{HERE}@refs/pr/1").read_bytes() == b"another"
    assert [path for method, path in hub.asked if method == "GET" and path.endswith(".safetensors")] == [
        f"/owner/repo/resolve/{revision}/{NAME}" for revision in ("main", "refs/pr/1")
    ]  # each content once; a card is asked for at its commit
    assert not any(path.endswith((".py", ".yaml", "config.json")) for _, path in hub.asked)


def test_paths_stay_what_they_are(tmp_path: Path) -> None:
    for where in (
        "weights/a.safetensors",
        tmp_path / "a.pt",
        "",
        "hf",
        "hfx://a/b/c.pt",
        "https",
        "a/https://b",
        "./hf:/a",
    ):
        assert local_path(where) == Path(where) and not is_address(where) and pin(where) == str(where)


def test_pinned_to_the_commit(hub: Hub) -> None:
    pinned = pin(HERE)
    assert pinned == f"{HERE}@{COMMIT}" and pin(pinned) == pinned
    restart()
    hub.commits["main"] = OTHER
    hub.put("owner/repo", NAME, b"newer weights")
    assert pin(HERE) == f"{HERE}@{OTHER}" and local_path(HERE).read_bytes() == b"newer weights"
    assert pin(HERE, before=pinned) == pinned, "a run goes on with what it began with"
    for other in ("weights/base.pt", f"hf://owner/else/{NAME}@{COMMIT}", f"{HERE}@v1"):
        assert pin(HERE, before=other) == f"{HERE}@{OTHER}"
    asked = len(hub.asked)
    restart()
    assert read_weights(pinned).card["backbone"] == "r18" and len(hub.asked) == asked, "a commit asks nobody"


def test_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert local_path(HERE).is_file()
    asked = len(hub.asked)
    go_offline(monkeypatch)
    assert read_weights(HERE).card["backbone"] == "r18" and pin(HERE) == f"{HERE}@{COMMIT}"
    with pytest.raises(
        ConnectionError, match=r"not in the cache.*HF_HUB_OFFLINE is set.*place the file yourself"
    ) as told:
        local_path("hf://owner/repo/other.pt")
    assert "\n" not in str(told.value) and len(hub.asked) == asked


def test_a_hub_that_is_gone(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    local_path(HERE)
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"  # nobody listens there
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)  # between its tries
    restart()
    assert read_weights(HERE).tensors["a"].shape == (6,)
    with pytest.raises(ConnectionError, match=r"not in the cache, and the hub cannot be asked \(.*refused"):
        local_path("hf://owner/repo/other.pt")


def test_a_file_is_hashed_once(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    path, hashed = local_path(HERE), []
    monkeypatch.setattr(weights_hub, "_hashes", lambda one: hashed.append(one) or set())
    restart()
    assert local_path(HERE) == path and not hashed
    path.write_bytes(path.read_bytes())  # another time of change
    restart()
    with pytest.raises(ValueError, match="has not the checksum"):
        local_path(HERE)
    assert hashed == [path]


def test_changed_at_the_same_time_and_size(hub: Hub) -> None:
    path = local_path(HERE)
    state, data = path.stat(), bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    restart()
    with pytest.raises(ValueError, match="has not the checksum"):
        local_path(HERE)


def test_a_cache_that_is_emptied_meanwhile(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = local_path(HERE)
    hub.commits["main"] = OTHER
    hub.put("owner/repo", NAME, b"newer weights")
    shutil.rmtree(tmp_path / "cache")
    assert local_path(HERE) == path and read_weights(HERE).card["backbone"] == "r18", "by the same commit"
    assert pin(HERE) == f"{HERE}@{COMMIT}"
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match=f"{NAME}@{COMMIT}: not in the cache"):
        local_path(HERE)


@pytest.mark.parametrize("name", [NAME, "deep/net.json"])
def test_damaged_in_the_cache(hub: Hub, name: str) -> None:
    place = local_path(HERE).with_name(Path(name).name)
    place.write_bytes(place.read_bytes()[:-1])
    restart()
    with pytest.raises(ValueError, match=r"has not the checksum [0-9a-f]+ that the hub tells .* remove .*blobs"):
        local_path(HERE)


def test_a_hub_that_sends_other_bytes(hub: Hub) -> None:
    hub.told[NAME] = "a" * 64
    with pytest.raises(ValueError, match=r"has not the checksum a{64} that the hub tells"):
        local_path(HERE)


def test_a_checksum_in_the_address(hub: Hub) -> None:
    right = hashlib.sha256(hub.files["owner/repo", "main", NAME]).hexdigest()
    assert read_weights(f"{HERE}#sha256={right.upper()}").card["backbone"] == "r18"
    assert pin(f"{HERE}#sha256={right}") == f"{HERE}@{COMMIT}#sha256={right}"
    with pytest.raises(ValueError, match=r"has not the checksum b{64} that the address tells"):
        local_path(f"{HERE}#sha256={'b' * 64}")
    hub.told["odd.pt"] = "weak"
    hub.put("owner/repo", "odd.pt", b"some")
    with pytest.raises(ValueError, match="add #sha256=HEX"):
        local_path("hf://owner/repo/odd.pt")
    assert local_path(f"hf://owner/repo/odd.pt#sha256={hashlib.sha256(b'some').hexdigest()}").read_bytes() == b"some"


def test_without_a_card(hub: Hub) -> None:
    hub.put("owner/repo", "bare.safetensors", hub.files["owner/repo", "main", NAME])
    where = "hf://owner/repo/bare.safetensors"
    assert read_weights(where).card == {} and not local_path(where).with_suffix(".json").exists()
    asked = sum(path.endswith("bare.json") for _, path in hub.asked)
    restart()
    read_weights(where)
    assert asked == 1 == sum(path.endswith("bare.json") for _, path in hub.asked), "that it has none is kept"


def test_a_card_that_is_too_large(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_hub, "LARGEST_CARD", 8)
    with pytest.raises(ValueError, match=r"a card of \d+ bytes; one has 8 at most"):
        local_path(HERE)


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("hf://owner/gated/net.pt", "owner/gated is gated: agree to its terms"),
        ("hf://owner/none/net.pt", "no repository owner/none that you may read"),
        ("hf://owner/broken/net.pt", "not in the cache, and the hub's answer was no file (Bad request"),
        ("hf://owner/repo/lost.pt", "owner/repo has no file 'lost.pt' at revision 'main'"),
        (f"{HERE}@v9", "owner/repo has no revision 'v9'"),
    ],
)
def test_what_the_hub_does_not_give(hub: Hub, where: str, words: str) -> None:
    with pytest.raises((ValueError, ConnectionError)) as told:
        read_weights(where)
    assert words in str(told.value) and str(told.value).startswith(where) and "\n" not in str(told.value)


@pytest.mark.parametrize(
    "where",
    [
        "hf://", "hf://owner", "hf://owner/repo", "hf://owner/repo/", "hf://owner/repo@v1/net.pt", "hf://o/r/net.txt",
        "hf://o/r/../net.pt", "hf://o/../net.pt", "hf://o/r//net.pt", "hf://o/r/a\\b.pt", "hf://o/r/net.pt@",
        "hf://o/r/net.pt@../x", "hf://o/r/net.pt#sha256=12", "hf://o/r/net.pt#md5=12", "hf://o o/r/net.pt", "hf://o/r/n\0.pt",
        "HF://o/r/net.pt", "hf:///o/r/net.pt", "https://example.com/net.pt", Path("https://huggingface.co/o/r/net.pt"),
    ],
)  # fmt: skip
def test_malformed_addresses(where: str) -> None:
    with pytest.raises(ValueError) as told:
        local_path(where)
    assert FORM in str(told.value)


def test_the_page_of_a_file() -> None:
    for where in (
        "https://huggingface.co/o/r/resolve/v1/a%20b/net.pt?download=true",
        "http://hf.co/o/r/blob/v1/a b/net.pt",
    ):
        for spelling in (where, Path(where)):
            with pytest.raises(ValueError, match=r"write hf://owner.*, here hf://o/r/a b/net\.pt@v1$"):
                pin(spelling)


def test_the_parts_of_an_address() -> None:
    whole = f"hf://o-1/r.2/a b/net.bin@refs/pr/3#sha256={'c' * 64}"
    assert str(parse(whole)) == whole and parse(whole).beside.file == "a b/net.json"
    assert (parse(whole).repo, parse(whole).revision, parse(whole).sha256) == ("o-1/r.2", "refs/pr/3", "c" * 64)


def test_without_huggingface_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"need huggingface_hub: pip install huggingface_hub"):
        local_path(HERE)


def test_the_card_is_json_of_ours(hub: Hub) -> None:
    hub.put("owner/repo", "deep/net.json", json.dumps([1]).encode())
    with pytest.raises(ValueError, match="not an object"):
        read_weights(HERE)
