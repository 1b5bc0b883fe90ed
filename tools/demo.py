"""A page on this machine: two faces or a folder, resolution slider, quality and gate, similarity and threshold.

    python tools/demo.py                                             runs/demo, else the base that ships with LRFace
    python tools/demo.py --model runs/mine --far 1e-2
    python tools/demo.py --model runs/mine/model --base weights/base.safetensors
    python tools/demo.py --model face.onnx --card runs/mine --scorer sharpness
    python tools/demo.py --model runs/mine --detector det_10g --models DIR       pictures that are not aligned yet

An adapted model stands beside its base. The page is heard on the loopback of this machine only, loads nothing from
anywhere, sends nothing anywhere and keeps no picture. It needs gradio: pip install "gradio>=6,<7". See docs/demo.md.

Exit code 130 after Ctrl-C, 143 after SIGTERM; 2 where the model, the port or an option cannot be used.
"""

from __future__ import annotations

import argparse
import importlib.util
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from recognition.answers import command_line
from recognition.demo import ASKS_NOBODY, INSTALL

if TYPE_CHECKING:
    from recognition.data.detection import Detector


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line. Answers --help without importing torch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", metavar="RUN_OR_FILE", help="a run, a checkpoint, an adapter's folder, weights, or .onnx")
    add("--base", metavar="FILE", help="weights that an adapter's folder goes on, or where a run's base lies now")
    add("--any-base", action="store_true", help="take --base where the adapter's card tells none")
    add("--card", metavar="FILE", help="thresholds from this card, run, checkpoint or results.json")
    add("--scorer", metavar="NAME", help="tells quality where the model has no scorer of its own")
    add("--far", type=float, default=1e-3, help="false accept rate that the page opens with (default: %(default)g)")
    add("--root", type=Path, default=Path(), metavar="DIR", help="folders are read below this one (the current one)")
    add("--detector", metavar="NAME", help="aligns pictures that are not 112 x 112: as of tools/align.py")
    add("--models", type=Path, metavar="DIR", help="folder of detectors' .onnx files (~/.insightface/models)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--port", type=int, help="of 127.0.0.1 (the first free one from 7860)")
    arguments = command_line.parse(parser, argv)
    if arguments.port is not None and not 0 <= arguments.port <= 65535:
        parser.error(f"--port {arguments.port} must be 0 (any free one) to 65535")
    if not 0 < arguments.far <= 1:
        parser.error(f"--far {arguments.far:g} must lie above 0 and at most at 1")
    if not arguments.root.is_dir():
        parser.error(f"--root {arguments.root}: there is no such folder")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Serves the page until it is stopped. Exit codes as above."""
    arguments = parse(argv)
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        return command_line.answer(arguments, _serve)
    finally:
        signal.signal(signal.SIGTERM, before)


def _serve(arguments: argparse.Namespace) -> int:
    if importlib.util.find_spec("gradio") is None:
        raise ValueError(INSTALL)
    from recognition.demo import server

    with server.listen(arguments.port) as opened, server.private():
        from recognition.demo.answering import Demo
        from recognition.demo.models import default_model, open_models
        from recognition.demo.page import build

        path, note = (arguments.model, "") if arguments.model else default_model()
        options = {name: getattr(arguments, name) for name in command_line.OPTIONS if name != "base"}
        try:
            models = open_models(path, arguments.base, **options)
        except ConnectionError as error:  # the hub's sentence asks for a variable that the demo has set itself
            raise ValueError(f"{str(error).partition(': ')[0]} is not in the cache, and {ASKS_NOBODY}") from None
        except ImportError as error:
            raise ValueError(str(error)) from None
        demo = Demo(models, arguments.root, _detector(arguments), arguments.far)
        page = build(demo, str(path), [note] if note else [])
        for line in filter(None, (note, *demo.notes(), *models.notes)):
            print(f"note: {line}", file=sys.stderr)
        print(f"http://{server.HOST}:{opened.getsockname()[1]}/   (Ctrl-C ends it)", flush=True)
        server.serve(page, opened)
    return 0


def _detector(arguments: argparse.Namespace) -> Detector | None:
    from recognition.data.detection import MODELS, InsightFaceDetector, model_file

    if arguments.detector is None:
        return None
    return InsightFaceDetector(model_file(arguments.detector, arguments.models or MODELS), device="cpu")


def _terminated(number: int, frame: object) -> NoReturn:
    """SIGTERM leaves by the way on which the folder of temporary files goes."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
