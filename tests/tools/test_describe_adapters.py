"""The page about adapters is what the adapters say."""

from __future__ import annotations

from tests.adapters.narrow import REFUSED
from tools import describe_adapters
from tools.describe_adapters import BACKBONES_SHOWN, OUT, Facts, try_on


def test_the_page_is_up_to_date(tmp_path):
    assert describe_adapters.main(["--out", str(tmp_path / "adapters.md")]) == 0
    written = (tmp_path / "adapters.md").read_text().splitlines()
    kept = OUT.read_text().splitlines()
    differ = [(a, b) for a, b in zip(kept, written, strict=False) if a != b]
    assert written == kept, (
        f"run python tools/describe_adapters.py and commit {OUT.name}; the first changes: {differ[:2]}"
    )


def test_full_size_and_narrow_networks_fit_the_same_adapters():
    narrow = {"swin_120": "swin"}
    refused = {
        (name, narrow.get(backbone, backbone))
        for name in {adapter for adapter, _ in REFUSED} | {"lora"}
        for backbone in BACKBONES_SHOWN
        if isinstance(try_on(name, backbone), str)
    }
    assert refused == set(REFUSED)


def test_facts_are_measured():
    found = try_on("dual_lora", "vit_t")
    assert isinstance(found, Facts)
    assert found.adapted == [f"blocks.{i}.attn.qkv" for i in range(12)]
    assert sum(found.trained.values()) == 12 * 2 * 8 * (256 + 768) and not found.buffers and not found.unsaved
    assert found.total == sum(
        (256 * 3 * 81 + 256, 144 * 256, 256, 512, 256 * 144 * 256, 2 * 256, 256 * 512, 2 * 512)  # around the blocks
    ) + 12 * (4 * 256 + 4 * 256**2 + 256 + 8 * 256**2 + 5 * 256)
    assert sorted(try_on("full", "r18").buffers)[:2] == ["bn1.running_mean", "bn1.running_var"]
    assert len(try_on("vera", "r18").unsaved) == 2, "one pair, shared"
