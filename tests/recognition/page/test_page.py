from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from recognition.evaluation.results import load_results, save_results
from recognition.page.document import page
from recognition.page.runs import read_run, read_runs
from tests.pages import make_run

SECTIONS = {"short", "forgetting", "curves", "scores", "pictures", "thresholds", "training", "setting", "rules"}
VOID = {"meta", "img", "br", "hr"}


class Seen(HTMLParser):
    """Every element with its attributes; fails where they do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list) -> None:
        assert len({key for key, _ in attrs}) == len(attrs), (tag, attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data if not self.open or self.open[-1] != "style" else ""

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def text(run: Path) -> str:
    return page(read_runs([run]))


def test_every_section_is_there_and_linked(text: str) -> None:
    seen = Seen(text)
    ids = [attributes["id"] for _, attributes in seen.tags if "id" in attributes]
    assert len(ids) == len(set(ids)) and set(ids) >= SECTIONS | {"content"}
    links = {attributes["href"].removeprefix("#") for attributes in seen.of("a")}
    assert links == SECTIONS | {"content"}
    for word in ("ROC", "DET", "CMC", "Gate and quality", "Accuracy by quality", "Gained and forgotten"):
        assert word in seen.words, word


def test_it_can_be_used_without_a_mouse_or_eyes(text: str) -> None:
    seen = Seen(text)
    levels = [int(tag[1]) for tag, _ in seen.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert seen.of("html") == [{"lang": "en"}] and len(seen.of("main")) == 1
    images = seen.of("img")
    assert images and all(image["alt"] and image["src"].startswith("data:image/jpeg;base64,") for image in images)
    charts = [svg for svg in seen.of("svg") if svg.get("aria-hidden") != "true"]
    assert charts and all(svg["role"] == "img" and svg["aria-label"] for svg in charts)
    assert all(cell.get("scope") in ("row", "col") for cell in seen.of("th"))
    assert all(box.get("aria-label") and box.get("tabindex") == "0" for box in seen.of("div") if "scroll" in str(box))
    assert len(seen.of("summary")) == len(seen.of("details")) > len(charts) / 2


def test_it_is_one_file_and_asks_for_nothing(text: str) -> None:
    seen = Seen(text)
    assert not seen.of("script") and not seen.of("link") and not seen.of("iframe")
    assert "://" not in text and "url(" not in text and "@import" not in text
    policy = next(meta["content"] for meta in seen.of("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'")


def test_the_same_runs_make_the_same_page(run: Path, text: str) -> None:
    assert page(read_runs([run])) == text


def test_figures_are_those_of_the_results(run: Path, text: str) -> None:
    words = Seen(text).words
    results = load_results(run / "report" / "after")
    accuracy = results["pairs"]["112-14"]["accuracy"]
    assert f"{100 * accuracy['value']:.1f} [{100 * accuracy['lo']:.1f}, {100 * accuracy['hi']:.1f}]" in words
    assert re.search(r"cannot be told with [\d,]+ impostor pairs", words) and "research only" in words
    assert "Trained 2023-11-14 22:13 UTC" in words and "100 of 1,000 parameters (10.0 %)" in words
    assert "not the records that it was trained on" in words
    hardest = results["pairs"]["112"]["items"]
    least = hardest["score"][hardest["same"]].min()
    assert f"similarity {least:.3f}".replace("-", "−") in words
    assert "people: fewer than 10 pairs or probes in a fifth" in words
    assert "the first image of a pair" in words  # the protocol's rule


def test_less_error_is_better(run: Path) -> None:
    one = read_run(run)
    for when, value in (("before", 0.4), ("after", 0.1)):
        part = one.results[when]["pairs"]["112"]
        part["eer"] = {"value": value}
        right = np.asarray(part["items"]["same"], bool)
        part["items"]["score"] = right * 1.0 - (np.arange(len(right)) % 5 < (2 if when == "before" else 0)) * right * 2
    rows = re.findall(r"<tr[^>]*>(?:(?!</tr>).)*<td>eer</td>(?:(?!</tr>).)*</tr>", page([one], count=0))
    assert "worse" not in rows[0]


def test_thresholds_in_every_form_of_results(run: Path) -> None:
    one = read_run(run)
    part = one.results["after"]["pairs"]["112"]
    part["thresholds"] = {
        "0.01": {"threshold": {"value": 0.4321, "lo": 0.4, "hi": 0.5}, "far": 0.01, "impostors": 5000},
        "0.0001": {"threshold": {"value": None}, "reason": "needs at least 10,000", "impostors": 5000},
    }
    part["threshold@0.001"] = {"value": 0.5432, "lo": 0.5, "hi": 0.6, "unit": "cosine", "far": 0.001, "tar": 0.25}
    part["impostors"] = 5000
    other = one.results["after"]["pairs"]["112-14"]
    other.pop("thresholds", None)
    other["tar@0.1"] = {"value": 0.75, "lo": 0.5, "hi": 1.0, "far": 0.1, "threshold": 0.6543}
    words = Seen(page([one], count=0)).words
    assert "0.432 [0.400, 0.500]" in words and "0.543 [0.500, 0.600] *TAR 25.0" in words
    assert "0.654 *TAR 75.0 [50.0, 100.0]" in words and "threshold@" not in words
    assert "cannot be told with 5,000 impostor pairs: 112 px at 10⁻⁴, 112 px at 10⁻⁵, 112 px at 10⁻⁶" in words


HOSTILE = "<script>alert(1)<&\"'>"


def test_nothing_in_the_files_becomes_html(tmp_path: Path) -> None:
    img = '"><img src=x onerror=alert(2)>'
    run = make_run(tmp_path, pairs=f"p{img}", people="</title><svg onload=alert(3)>".replace("/", ""))
    for file, key in (("provenance.json", "commit"), ("model/adapter.json", "licence")):
        told = json.loads((run / file).read_text())
        (run / file).write_text(json.dumps({**told, key: HOSTILE, img: HOSTILE}))
    config = json.loads((run / "config.json").read_text())
    config["backbone"]["weights"] = HOSTILE
    config["objectives"] = [{"name": HOSTILE}]
    config[img] = HOSTILE
    (run / "config.json").write_text(json.dumps(config))
    with (run / "metrics.jsonl").open("a") as file:
        for update in (1, 2):
            file.write(json.dumps({"update": update, "time": 1.0, f"loss/{img}": 1.0}) + "\n")
    renamed = run.rename(tmp_path / "<img src=x onerror=alert(4)>")
    seen = Seen(page(read_runs([renamed])))
    assert not seen.of("script")
    assert all(set(image) == {"src", "alt", "width", "height"} for image in seen.of("img"))
    assert not [key for _, attributes in seen.tags for key in attributes if key.startswith("on")]
    assert "alert(1)" in seen.words and "alert(2)" in seen.words


def test_older_results_say_what_they_lack(run: Path, tmp_path: Path) -> None:
    old = shutil.copytree(run, tmp_path / "old")
    for when in ("before", "after"):
        results = load_results(run / "report" / when)
        for parts in results.values():
            for part in parts.values():
                kept = ("score", "same", "fold", "correct", "position", "person")
                part["items"] = {key: part["items"][key] for key in kept if key in part["items"]}
        save_results(old / "report" / when, results)
    seen = Seen(page(read_runs([old])))
    assert not seen.of("img") and f"python tools/evaluate.py {old}" in seen.words
    assert "lack the items first and second" in seen.words and "By resolution instead" in seen.words
    assert "the first image of a pair" in seen.words  # rules from the set's own files


def test_runs_on_other_data_are_not_paired(run: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run, tmp_path / "other")
    assert "not of the same data" not in Seen(page(read_runs([run, other]), count=0)).words
    for when in ("before", "after"):
        told = json.loads((other / "report" / when / "results.json").read_text())
        told["sets"]["pairs"]["settings"]["records"] = "elsewhere/people.rec"
        told["sets"]["pairs"].pop("images", None)
        told["sets"]["pairs"]["rules"]["flip"] = ""  # as older results have it
        (other / "report" / when / "results.json").write_text(json.dumps(told))
    words = Seen(page(read_runs([run, other]), count=0)).words
    assert "pairs: not of the same data (the set's records is 'train.rec' against 'people.rec')." in words
    assert "people: not of the same data" not in words
    assert re.search(r"flip\s*none", Seen(page(read_runs([other]), count=0)).words)


def test_worst_retrievals_show_who_stood_before_the_mate(run: Path) -> None:
    one = read_run(run)
    items = one.results["after"]["people"]["112"]["items"]
    count = len(items["position"])
    items["position"] = np.where(np.arange(count) == 3, 5, 1)
    items["best"] = np.where(np.arange(count) == 3, 2, 0)
    items |= {"similarity": np.full(count, 0.625), "mate_similarity": np.full(count, -0.125)}
    text = page([one], count=3)
    section = text[text.index('<section aria-labelledby="pictures"') :]
    seen = Seen(section[: section.index("</section>")] + "</section>")
    alts = [image["alt"] for image in seen.of("img") if not image["alt"].startswith(("first", "second"))]
    assert alts[1:] == ["most alike, another person, similarity 0.625", "the mate, similarity −0.125"]
    assert alts[0].startswith("probe, 112 px, gate ") and "mate found at place 5 of 6" in seen.words


def test_pictures_can_be_left_out_and_counted(run: Path, text: str) -> None:
    without = Seen(page(read_runs([run]), count=0))
    assert not without.of("img") and "--no-pictures" in without.words
    one = Seen(page(read_runs([run]), count=1)).of("img")
    assert len([image for image in one if image["alt"].startswith("first")]) == 2 * 2  # kinds by parts
    assert len(one) < len(Seen(text).of("img"))
    assert any("14 px, gate 0." in image["alt"] for image in one)


def test_records_that_are_gone_are_a_sentence(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    for file in tmp_path.glob("train.*"):
        file.unlink()
    words = Seen(page(read_runs([run]))).words
    assert "The pictures of this set cannot be shown" in words and "there is no record file" in words
    assert "not counted" in words


def test_runs_stand_side_by_side(run: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path, "other", noise=1.0, whens=("after",), extra="config.optim.lr = 0.125\n")
    seen = Seen(page(read_runs([run, other]), count=1))
    assert "tiny against its base" in seen.words and "other against its base" in seen.words
    assert "other against tiny" in seen.words and "0.125" in seen.words and "optim.lr" in seen.words
    assert {one["class"] for one in seen.of("circle") + seen.of("path") if "class" in one} >= {"f1", "f2", "e0 hollow"}


def test_a_run_that_has_not_ended_has_a_page(run: Path, tmp_path: Path) -> None:
    young = tmp_path / "young"
    young.mkdir()
    (young / "config.json").write_bytes((run / "config.json").read_bytes())
    (young / "metrics.jsonl").write_text('{"update": 1, "time": 1.0, "train/loss": 2.0}\nhalf a li')
    seen = Seen(page(read_runs([young])))
    assert "There are no results of the trained model" in seen.words and "1 lines of metrics.jsonl" in seen.words
    assert "No curve has two points" in seen.words


def test_damaged_files_are_named(run: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(run, tmp_path / "broken")
    (broken / "report" / "after" / "items.npz").write_bytes(b"PK no archive")
    with pytest.raises(ValueError, match=r"after holds no results that can be read"):
        read_run(broken)
    (broken / "provenance.json").write_text("{")
    shutil.rmtree(broken / "report")
    with pytest.raises(ValueError, match=r"provenance.json is damaged"):
        read_run(broken)
    with pytest.raises(ValueError, match="both runs are named 'tiny'"):
        read_runs([run, run])
    with pytest.raises(ValueError, match="a report needs a run"):
        page([])


PROBE = """<script>onload=()=>{const f=document.querySelector("iframe"),d=f.contentDocument;
d.querySelectorAll("details").forEach(e=>e.open=true);
document.title=JSON.stringify([f.contentWindow.innerWidth,d.documentElement.scrollWidth])}</script>"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_browser_lays_it_out_without_scrolling_sideways(text: str, tmp_path: Path) -> None:
    inside = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", text).replace("&", "&amp;")
    inside = inside.replace('"', "&quot;")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path / 'user'}"]
    for width in (390, 1280):
        frame = f'<iframe style="border:0;width:{width}px;height:900px" srcdoc="{inside}"></iframe>'
        (tmp_path / "frame.html").write_text(f"<title>none</title>{frame}{PROBE}")
        command = ["chromium", *flags, "--window-size=1400,1000", "--dump-dom", f"file://{tmp_path / 'frame.html'}"]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True).stdout
        inner, wide = json.loads(re.search("<title>(.*?)</title>", shown)[1])
        assert inner == width and wide <= width
