"""The page as a whole: one file, nothing fetched, no script."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recognition.files import write_atomically
from recognition.page.curves import curves
from recognition.page.markup import Markup, element, join
from recognition.page.numbers import size
from recognition.page.pictures import pictures
from recognition.page.runs import Run, shown
from recognition.page.scores import scores
from recognition.page.setting import setting
from recognition.page.style import css
from recognition.page.summary import forgetting, gains_of, head, in_short
from recognition.page.thresholds import rules, thresholds
from recognition.page.training import training

PICTURES = 4  # of each kind for each part
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # a browser fetches nothing for this page


def write_page(path: str | Path, runs: Sequence[Run], *, count: int = PICTURES) -> Path:
    """Write the page of these runs. count: pictures of each kind for each part; 0 = no faces on it. OSError."""
    path = Path(path)
    write_atomically(path, page(runs, count=count))
    return path


def page(runs: Sequence[Run], *, count: int = PICTURES) -> str:
    """The page's HTML, the same for the same runs. ValueError for no runs."""
    if not runs:
        raise ValueError("a report needs a run at least")
    series = shown(runs)
    gains, problems = gains_of(series)
    sections = [
        in_short(series, gains),
        forgetting(series, gains, problems),
        curves(series, runs),
        scores(series),
        pictures(series, count),
        thresholds(series),
        training(runs),
        setting(runs),
        rules(series),
    ]
    body = [
        element("a", "Skip to the content", href="#content", class_="skip"),
        head(runs),
        _contents(),
        element("main", *sections, id="content"),
    ]
    title = ", ".join(run.name for run in runs)
    told = join(
        [
            element("meta", charset="utf-8"),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", http_equiv="Content-Security-Policy", content=POLICY),
            element("meta", name="color-scheme", content="light dark"),
            element("title", f"LRFace: {title}"),
            element("style", Markup(css())),
        ]
    )
    text = _whole(told, body)
    bytes_ = len(text.encode())
    body.append(element("footer", element("p", f"One file of about {size(bytes_)}, made by LRFace; it loads nothing.")))
    return _whole(told, body)


def _whole(head_: Markup, body: Sequence[object]) -> str:
    return "<!doctype html>\n" + element("html", element("head", head_), element("body", *body), lang="en") + "\n"


def _contents() -> Markup:
    places = {
        "short": "In short",
        "forgetting": "Gained and forgotten",
        "curves": "Curves",
        "scores": "Scores and quality",
        "pictures": "Pictures",
        "thresholds": "Thresholds",
        "training": "Training",
        "setting": "Setting",
        "rules": "Rules",
    }
    links = [element("li", element("a", words, href=f"#{place}")) for place, words in places.items()]
    return element("nav", element("ul", *links), aria_label="Sections")
