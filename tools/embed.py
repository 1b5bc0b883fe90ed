"""Embeds pictures of aligned faces, and writes the embeddings to a file.

    python tools/embed.py --model runs/demo faces/ --output faces.npz
    python tools/embed.py --model runs/demo a.jpg b.png --output faces.csv
    python tools/embed.py --model runs/petal/model --base weights/base.safetensors faces/ --output faces.safetensors
    python tools/embed.py --model runs/demo/onnx/demo.onnx faces/ --output faces.jsonl --json

A folder is looked through with all folders in it; a .rec file, and a folder that tools/align.py wrote, are read too.
Pictures are aligned faces, 112 px; others are resized. Rows have length one unless --raw. Quality and gate stand beside
each embedding. What cannot be read is listed, and the others are written.

Exit code 0; 1 where some pictures failed; 2 where nothing could be done.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from recognition.answers import command_line

ENDINGS = (".npz", ".npy", ".csv", ".jsonl", ".safetensors")
ROWS = 20  # of the table


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line. Answers --help without importing torch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="pictures, folders of pictures, .rec files")
    parser.add_argument("--output", required=True, metavar="FILE", help=f"one of {', '.join(ENDINGS)}")
    parser.add_argument("--raw", action="store_true", help="leave embeddings as long as they are")
    command_line.add_model(parser, decides=False)
    arguments = command_line.parse(parser, argv)
    if Path(arguments.output).suffix not in ENDINGS:
        parser.error(f"--output {arguments.output}: it must end in one of {', '.join(ENDINGS)}")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Embeds and writes. Exit codes as above."""
    return command_line.answer(parse(argv), _embed)


def _embed(arguments: argparse.Namespace) -> int:
    from recognition.answers.writing import check_place, write_answers

    check_place(arguments.output)
    model = command_line.load(arguments)
    inputs = arguments.inputs[0] if len(arguments.inputs) == 1 else arguments.inputs
    found = model.look(
        inputs, flip=arguments.flip, normalise=not arguments.raw, batch_size=arguments.batch_size, progress=True
    )
    errors, rows = found.problems(), [row for row in range(len(found)) if row not in found.errors]
    about = {"source": model.source, "normalised": not arguments.raw, **model.space(arguments.flip)}
    written = [str(path) for path in write_answers(arguments.output, found, about)] if rows else []
    images = [{"name": found.names[row], **found.about(row)} for row in rows]
    if arguments.json:
        told = {"images": images, "errors": errors, "notes": found.notes}
        command_line.print_json({**about, "embedding_size": model.size, "written": written, **told})
    else:
        if images:
            print(command_line.table(list(images[0]), [list(one.values()) for one in images], ROWS))
        for path in written:
            print(f"written: {path}, {len(rows):,} x {model.size}" if path == written[0] else f"written: {path}")
    return command_line.finish(errors, len(rows), found.notes, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
