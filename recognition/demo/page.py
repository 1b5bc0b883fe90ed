"""The page, made of gradio's parts: two faces, and a folder. All it does is in answering.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from recognition.demo import INSTALL, look, views
from recognition.demo.answering import FIRST, SIDES, Demo, Many
from recognition.demo.faces import LEAST_SIDE, MOST_PICTURES, MOST_TOGETHER, Face, sample
from recognition.types import IMAGE_SIZE

if TYPE_CHECKING:
    import gradio
    from gradio.themes import Base

HELD = 3600  # seconds for which a visitor's pictures stay in memory while the page is open
MOST_SESSIONS = 32  # pages that are open at once; of more, those that were silent longest start anew


def build(demo: Demo, source: str, notes: Sequence[str] = ()) -> gradio.Blocks:
    """The page. source: what the model was loaded from. notes: to be said at the top.

    ModuleNotFoundError with the line that installs gradio.
    """
    gr = import_gradio()
    first, second = (sample(number) for number in FIRST)
    points = demo.points()
    point = points[0][1] if points else None
    far = demo.rate_at(point, None) if point else None
    shown = demo.show((first, second), SIDES, far, point)
    with gr.Blocks(title="LRFace demo", analytics_enabled=False) as page:
        _html(gr, views.head(demo.models, source, [*notes, *demo.notes()]))
        with gr.Row(visible=bool(points)):
            rate = gr.Dropdown(
                demo.rates(point) if point else [],
                value=far,
                label="Of pairs of strangers, so many may pass",
                min_width=240,
            )
            where = gr.Dropdown(points, value=point, label="Threshold measured on", min_width=240)
        with gr.Tab("Two faces"):
            _two_faces(gr, demo, (first, second), rate, where, shown)
        with gr.Tab("A folder"):
            _folder(gr, demo, rate, where)

        def rates_there(operating: str | None, old: float | None) -> object:
            return gr.Dropdown(demo.rates(operating or ""), value=demo.rate_at(operating or "", old))

        where.input(rates_there, [where, rate], rate, show_progress="hidden", api_name="rates")
    page.state_session_capacity = MOST_SESSIONS
    return page.queue(max_size=32, default_concurrency_limit=2)


def import_gradio() -> ModuleType:
    """gradio, which is optional. ModuleNotFoundError with the line that installs it."""
    try:
        import gradio
    except ImportError as error:
        raise ModuleNotFoundError(f"{INSTALL} ({error})") from None
    return gradio


def theme() -> Base:
    """Plain, with the fonts of the reader's own machine."""
    gr = import_gradio()
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    return gr.themes.Base(primary_hue="blue", font=fonts, font_mono=["ui-monospace", "Consolas", "monospace"])


def _two_faces(gr, demo: Demo, faces: tuple[Face, Face], rate, where, shown: tuple[str, str, str, str]) -> None:
    states, sliders, pictures, pickers = [], [], [], []
    with gr.Row():
        with gr.Column(scale=6, min_width=300), gr.Row():
            for number, face in enumerate(faces):
                with gr.Column(min_width=140):
                    states.append(gr.State(face, time_to_live=HELD))
                    pictures.append(_html(gr, shown[number]))
                    name = ("First", "Second")[number]
                    sliders.append(_slider(gr, f"{name} face, px", SIDES[number]))
                    pickers.append(_picker(gr))
        with gr.Column(scale=5, min_width=300):
            verdict = _html(gr, shown[2])
            chart = _html(gr, shown[3])

    def show(first: Face, second: Face, a: float, b: float, far: float | None, point: str | None):
        return _told(gr, demo.show, (first, second), (a, b), far, point)

    for picker, state in zip(pickers, states, strict=True):

        def take(value: str | None) -> Face:
            return _told(gr, demo.take, value)

        picker.submit(take, picker, state, show_progress="minimal", show_progress_on=picker, api_name="take")
    inputs, outputs = [*states, *sliders, rate, where], [*pictures, verdict, chart]
    changes = [part.change for part in (*states, *sliders, rate)] + [where.input]
    gr.on(changes, show, inputs, outputs, show_progress="hidden", trigger_mode="always_last", api_name="compare")


def _folder(gr, demo: Demo, rate, where) -> None:
    many = gr.State(Many(), time_to_live=HELD)
    with gr.Row():
        with gr.Column(min_width=280):
            folder = gr.Textbox(
                label=f"A folder on this machine, below {demo.root.resolve()}", placeholder="folder", max_length=4096
            )
            button = gr.Button("Read the folder", variant="primary")
        with gr.Column(min_width=280):
            _html(gr, views.hint(f"Or up to {MOST_PICTURES} pictures from this computer."))
            picker = _picker(gr, several=True)
            side = _slider(gr, "All faces, px", IMAGE_SIZE)
    result = _html(gr, "")

    def read(path: str | None) -> Many:
        return _told(gr, demo.read_folder, path)

    def take(value: str | None) -> Many:
        return _told(gr, demo.take_many, value)

    def show(pictures: Many, pixels: float, far: float | None, point: str | None) -> str:
        return _told(gr, demo.show_many, pictures, pixels, far, point)

    gr.on(
        [button.click, folder.submit], read, folder, many, show_progress="minimal", show_progress_on=folder,
        api_name="folder",
    )  # fmt: skip
    picker.submit(take, picker, many, show_progress="minimal", show_progress_on=picker, api_name="pictures")
    changes = [many.change, side.change, rate.change, where.input]
    gr.on(
        changes, show, [many, side, rate, where], result, show_progress="minimal", trigger_mode="always_last",
        api_name="many",
    )  # fmt: skip


def _slider(gr, label: str, value: int):
    return gr.Slider(LEAST_SIDE, IMAGE_SIZE, value=value, step=1, label=label, buttons=[])


def _picker(gr, several: bool = False):
    return _html(gr, "", html_template=views.picker(several), js_on_load=look.script(MOST_TOGETHER))


def _html(gr, value: str, **options: str):
    return gr.HTML(value, apply_default_css=False, **options)


def _told(gr, work: Callable[..., object], *values: object):
    """What the work makes of values; its sentence as a message on the page where it cannot."""
    try:
        return work(*values)
    except (ValueError, OSError, RuntimeError) as error:
        raise gr.Error(
            views.escaped(str(error)), duration=8, title="That cannot be shown", print_exception=False
        ) from None
