"""What the demo shows, as HTML: a face with its meters, the verdicts, the curve, the table of many pictures."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from recognition.demo.compare import Comparison, Held, Judged
from recognition.demo.faces import LEAST_SIDE, SAMPLES, Face, as_link, reduced, sample, sample_name
from recognition.demo.models import Models, Seen
from recognition.page.charts import Axis, Line, line_chart
from recognition.page.markup import Markup, details, element, join, table
from recognition.page.numbers import side_words
from recognition.types import IMAGE_SIZE

LONG = {"base": "Base", "adapted": "Adapted", "model": "The model"}
WRITTEN = 14  # faces, up to which a matrix shows its numbers
LOW, HIGH = -0.2, 1.0  # ends of the scale of similarities


def head(models: Models, source: str, notes: Sequence[str]) -> Markup:
    """The page's title and what is shown."""
    pair = "The base and the adapted model side by side. " if len(models.shown) > 1 else ""
    told = [element("p", note) for note in (*notes, *models.notes)]
    return _box(
        element("h1", "Are these two faces one person?"),
        element("p", f"{pair}Model: ", element("code", source), class_="soft"),
        element("div", *told, class_="note") if told else None,
    )


def picker(several: bool = False) -> Markup:
    """Samples to click, and a place for files. Only its script answers; it takes no text from anywhere."""
    several_files = " multiple" if several else ""
    files = Markup(f'<input type="file" accept="image/jpeg,image/png"{several_files}>')
    words = "Drop JPEG or PNG files here, or choose them" if several else "Drop your own, or choose"
    drop = element("label", element("span", words), files, class_="drop")
    if several:
        return _box(drop)
    thumbs = [
        element("button", _picture(sample(n), 48), type="button", data_sample=n, title=sample_name(n))
        for n in range(len(SAMPLES))
    ]
    return _box(element("div", *thumbs, class_="thumbs"), drop)


def face_view(face: Face, side: int, seen: Seen | None, scorer: str) -> Markup:
    """The picture as the network sees it, enlarged, with quality and gate."""
    alt = f"{face.name}, at {side} x {side} pixels"
    image = element("img", src=as_link(reduced(face, side)), alt=alt, width=IMAGE_SIZE * 2, height=IMAGE_SIZE * 2)
    words = [element("figcaption", element("b", face.name), element("span", f"{side} × {side} px"))]
    if face.note:
        words.append(element("p", face.note, class_="note"))
    return _box(element("figure", image, *words, _meters(seen, scorer), class_="face"))


def verdict_view(found: Comparison) -> Markup:
    """What each model says, side by side, and where the threshold comes from."""
    chosen = found.judged[-1].chosen
    notes = []
    if chosen.threshold is None:
        notes.append(element("p", _sentence(chosen.note), class_="note"))
    else:
        notes.append(element("p", _sentence(f"thresholds {chosen.note}"), class_="soft"))
        if found.of_other_faces:
            said = (
                f"These faces have {_sides(found.sides)}, and the threshold is of "
                f"{side_words(chosen.operating.partition('/')[2])}: at other resolutions strangers score otherwise, "
                "and the rate is another."
            )
            notes.append(element("p", said, class_="note"))
    return _box(element("div", *(_verdict(one) for one in found.judged), class_="verdicts"), *notes)


def curve_view(
    found: Comparison, sides: list[int], curves: dict[str, list[float]], thresholds: list[dict[int, float]]
) -> Markup:
    """Similarity over the resolution of the second face; a mark stands where its slider is. thresholds: by side."""
    lines = []
    for judged in found.judged:
        now = judged.similarity
        marks = [(found.sides[1], now, now, now)]
        lines.append(Line(judged.one.name, judged.one.style, sides, curves[judged.one.name], bars=marks))
    for number, (judged, line) in enumerate(zip(found.judged, thresholds, strict=True)):
        if line:
            measured = "" if found.nearest else f" ({point_words(judged.chosen.operating)})"
            name = f"threshold{measured}" + (f", {judged.one.name}" if len(found.judged) > 1 else "")
            lines.append(Line(name, 3 - number, [*line], [*line.values()], step=True))
    x = Axis("side of the second face, px", log=True, least=LEAST_SIDE, most=IMAGE_SIZE)
    title = f"As the second face loses resolution (the first at {found.sides[0]} px)"
    return _box(element("div", line_chart(title, lines, x, Axis("similarity", most=1.0)), class_="charts"))


def many_view(held: Held, models: Models, side: int) -> Markup:
    """Table and matrices of many faces, and what could not be read."""
    parts: list[object] = []
    if held.errors:
        listed = [element("li", element("b", name), f": {problem}") for name, problem in held.errors]
        parts.append(details(f"{count_words(len(held.errors))} without an answer", element("ul", *listed), opened=True))
    if not held.faces:
        return _box(*parts, element("p", "No picture to show.", class_="soft"))
    names = [one.name for one in models.shown]
    heads = ["", "picture", "quality", "gate", *(f"most alike, {name}" for name in names)]
    rows = [[f"{n + 1}", *_row(held, n, len(names))] for n in range(len(held.faces))]
    parts.append(table(heads, rows, label="quality and nearest picture"))
    for note in dict.fromkeys(face.note for face in held.faces if face.note):
        numbers = [f"{n + 1}" for n, face in enumerate(held.faces) if face.note == note]
        which = f"Picture{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}"
        parts.append(element("p", f"{which}: {note}.", class_="note"))
    decided = any(chosen.threshold is not None for chosen in held.chosen)
    end = "; in bold what passes the threshold." if decided else "."
    parts.append(element("p", f"Similarity of all with all at {side} px{end}", class_="soft"))
    parts.append(element("div", *(_matrix(held, n, names[n]) for n in range(len(names))), class_="matrices"))
    return _box(*parts)


def sentence_view(text: str) -> Markup:
    """What could not be done, in words."""
    return _box(element("p", _sentence(text), class_="note", role="alert")) if text else Markup("")


def hint(text: str) -> Markup:
    """A line of small print."""
    return _box(element("p", text, class_="soft"))


def escaped(text: str) -> Markup:
    """Text that stands for itself in a message of gradio's, which would read it as HTML."""
    return join([text])


def count_words(count: int) -> str:
    """1 picture, 2 pictures."""
    return f"{count:,} picture{'' if count == 1 else 's'}"


def rate_words(far: float) -> str:
    """1 in 1,000 (FAR 0.001)."""
    return f"1 in {round(1 / far):,} (FAR {far:g})"


def point_words(operating: str) -> str:
    """A set and part of a card in words."""
    name, _, part = operating.partition("/")
    return f"{name}: {side_words(part)}"


def _box(*children: object) -> Markup:
    return element("div", *children, class_="lr")


def _picture(face: Face, size: int) -> Markup:
    link = as_link(cv2.resize(face.pixels, (size, size), interpolation=cv2.INTER_AREA))
    return element("img", src=link, alt=face.name, width=size, height=size, title=face.note or None)


def _meters(seen: Seen | None, scorer: str) -> Markup | None:
    if seen is None:
        return None
    if seen.quality is None and seen.gate is None:
        return element("p", "no quality score, no gate", class_="soft")
    parts: list[object] = []
    if seen.quality is not None:
        parts.append(element("p", element("span", f"quality ({scorer})"), _numbers(seen.quality)))
    if seen.gate is not None:
        share = min(1.0, max(0.0, float(np.mean(seen.gate))))
        bar = element("div", element("i", style=f"width:{100 * share:.0f}%"), class_="bar")
        ends = element("p", element("small", "poor"), element("small", "sharp"), aria_hidden="true")
        parts += [element("p", element("span", "gate"), _numbers(seen.gate)), bar, ends]
    return element("div", *parts, class_="meters")


def _verdict(judged: Judged) -> Markup:
    chosen = judged.chosen
    if judged.same is None:
        words, kind = "no verdict", "none"
    else:
        words, kind = ("one person", "yes") if judged.same else ("two people", "no")
    within = "" if chosen.lo is None or chosen.hi is None else f" [{chosen.lo:.3f}, {chosen.hi:.3f}]"
    at = "" if chosen.far is None else f" at FAR {chosen.far:g}"
    said = None if chosen.threshold is None else element("p", f"threshold {chosen.threshold:.3f}{within}{at}")
    close = element("p", "close: inside the threshold's interval", class_="close") if judged.close else None
    return element(
        "section",
        element("h3", LONG.get(judged.one.name, judged.one.name)),
        element("p", _minus(f"{judged.similarity:.3f}"), element("small", " similarity"), class_="number"),
        _scale(judged),
        element("p", words, class_=f"answer {kind}"),
        close,
        said,
        class_=f"verdict of{judged.one.style}",
    )


def _scale(judged: Judged) -> Markup:
    """A line from LOW to HIGH: the similarity as a bar, the threshold as a mark with its interval."""

    def at(value: float) -> float:
        return round(100 * min(1.0, max(0.0, (value - LOW) / (HIGH - LOW))), 1)

    marks = []
    chosen = judged.chosen
    if chosen.lo is not None and chosen.hi is not None:
        marks.append(
            element("i", class_="band", style=f"left:{at(chosen.lo)}%;width:{at(chosen.hi) - at(chosen.lo):.1f}%")
        )
    if chosen.threshold is not None:
        marks.append(element("i", class_="mark", style=f"left:{at(chosen.threshold)}%"))
    fill = element("i", class_="fill", style=f"width:{at(judged.similarity)}%")
    return element("div", fill, *marks, class_="scale", aria_hidden="true")


def _row(held: Held, row: int, models: int) -> list[object]:
    seen, face = held.seen[row], held.faces[row]
    cells: list[object] = [
        element("span", _picture(face, 40), element("span", face.name, title=face.note or None), class_="named"),
        "–" if seen.quality is None else _numbers(seen.quality),
        "–" if seen.gate is None else _numbers(seen.gate),
    ]
    for number in range(models):
        found = held.nearest(row, number)
        if found is None:
            cells.append("–")
            continue
        other, similarity = found
        value = _minus(f"{similarity:.3f}")
        figure = element("b", value) if _passes(held, number, similarity) else value
        cells.append(join([figure, element("small", f" {other + 1}. {held.faces[other].name}")]))
    return cells


def _passes(held: Held, number: int, similarity: float) -> bool:
    threshold = held.chosen[number].threshold
    return threshold is not None and similarity >= threshold


def _matrix(held: Held, number: int, name: str) -> Markup:
    values = held.similarity[number]
    threshold = held.chosen[number].threshold
    told = (
        None if threshold is None else element("span", f"threshold {threshold:.3f} at FAR {held.chosen[number].far:g}")
    )
    caption = element("figcaption", element("b", LONG.get(name, name)), told)
    if len(values) > WRITTEN:
        pixels = _colour(values)
        said = f"similarities of {len(values)} pictures by the {name} model, in the order of the table"
        side = 8 if len(values) < 50 else 5
        enlarged = np.repeat(np.repeat(pixels, side, 0), side, 1)
        image = element("img", src=as_link(enlarged, exact=True), alt=said, width=len(enlarged), height=len(enlarged))
        return element("figure", caption, image)
    lines = [element("tr", element("td"), *(element("th", n + 1, scope="col") for n in range(len(values))))]
    for row in range(len(values)):
        cells = []
        for column in range(len(values)):
            value = float(values[row, column])
            red, green, blue = _colour(values[row : row + 1, column : column + 1])[0, 0].tolist()
            ink = "#fff" if value > 0.6 else "#111"
            text = _minus(f"{value:.2f}")
            bold = element("b", text) if row != column and _passes(held, number, value) else text
            cells.append(element("td", bold, style=f"background:rgb({red},{green},{blue});color:{ink}"))
        lines.append(element("tr", element("th", row + 1, scope="row"), *cells))
    whole = element("table", element("tbody", *lines))
    return element("figure", caption, element("div", whole, class_="scroll", tabindex="0", role="region"))


def _colour(values: np.ndarray) -> np.ndarray:
    """(N, M, 3) uint8: white at 0 and below, dark blue at 1."""
    share = np.clip(values, 0, 1)[..., None]
    white, blue = np.array([247.0, 250.0, 255.0]), np.array([8.0, 64.0, 129.0])
    return np.rint(white + share * (blue - white)).astype(np.uint8)


def _numbers(value: float | list[float]) -> Markup:
    """One number; of several the mean and their range."""
    if not isinstance(value, list):
        return join([_minus(f"{value:.3f}")])
    words = f"{np.mean(value):.3f} ({min(value):.3f} to {max(value):.3f} over {len(value)})"
    return join([_minus(words)])


def _minus(text: str) -> str:
    return text.replace("-", "−")


def _sides(sides: tuple[int, int]) -> str:
    return f"{sides[0]} px" if sides[0] == sides[1] else f"{sides[0]} and {sides[1]} px"


def _sentence(text: str) -> str:
    """With a capital and a full stop."""
    text = text.strip()
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '!', '?')) else '.'}"
