from __future__ import annotations

import pytest

from recognition.page.markup import Markup, element, join, table
from recognition.page.numbers import percent, points, power, side_words, sides_of, verdict


def test_what_comes_from_files_is_escaped() -> None:
    assert element("p", "<b>&\"'", title='"><script>') == (
        '<p title="&quot;&gt;&lt;script&gt;">&lt;b&gt;&amp;&quot;&#x27;</p>'
    )
    assert element("p", element("b", "x<y")) == "<p><b>x&lt;y</b></p>"
    assert element("th", None, 3, class_="a", aria_label="b", hidden=True, open=False, id=None) == (
        '<th class="a" aria-label="b" hidden>3</th>'
    )
    assert isinstance(join(["<", Markup("<br>")]), Markup) and join(["<", Markup("<br>")]) == "&lt;<br>"


def test_tables_have_headers() -> None:
    made = table(["a", "b"], [["<r>", 1]], caption="c", marks=["good"])
    assert '<th scope="col">a</th>' in made and '<th scope="row">&lt;r&gt;</th><td>1</td>' in made
    assert '<tr class="good">' in made and 'aria-label="c"' in made and 'tabindex="0"' in made


@pytest.mark.parametrize(
    "measure, said",
    [
        ({"value": 0.5, "lo": 0.4, "hi": 0.61}, "50.0 [40.0, 61.0]"),
        ({"value": 0.5}, "50.0"),
        ({"value": 12.34567, "lo": None, "hi": None, "unit": "ms"}, "12.35 ms"),
        ({"value": None}, "–"),
        (None, "–"),
    ],
)
def test_measures_in_words(measure: dict | None, said: str) -> None:
    assert percent(measure) == said


def test_a_verdict_needs_an_interval_without_zero() -> None:
    assert points({"value": -0.012, "lo": -0.02, "hi": 0.001}) == "−1.2 [−2.0, +0.1]"
    assert verdict({"value": 0.1, "lo": 0.01, "hi": 0.2}) == "better"
    assert verdict({"value": 0.1, "lo": 0.01, "hi": 0.2}, lower=True) == "worse"
    assert verdict({"value": -0.1, "lo": -0.2, "hi": -0.01}) == "worse"
    assert verdict({"value": -0.1, "lo": -0.2, "hi": -0.01}, lower=True) == "better"
    assert verdict({"value": 0.1, "lo": 0.0, "hi": 0.2}) == "not told apart"
    assert verdict({"value": 0.1, "lo": None, "hi": None}) == verdict(None) == ""


def test_parts_and_powers() -> None:
    assert [side_words(p) for p in ("112", "112-14", "lfw_112-14", "d1", "14-500", "lfw", "agedb_30")] == [
        "112 px",
        "112 against 14 px",
        "lfw, 112 against 14 px",
        "d1",
        "14-500",
        "lfw",
        "agedb, 30 px",
    ]
    assert sides_of("28") == ("", 28, 28) and sides_of("0") is None
    assert [power(x) for x in (1e-4, 1e-2, 0.1, 1.0, 1000.0, 1e5, 0.02)] == [
        "10⁻⁴",
        "10⁻²",
        "0.1",
        "1",
        "1000",
        "10⁵",
        "0.02",
    ]
