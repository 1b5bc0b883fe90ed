"""Reference pages and their pictures, made from what plugins, recipes and packages say of themselves."""

import sys
from collections.abc import Iterable
from pathlib import Path

from recognition.files import write_atomically


def write_files(folder: str, texts: Iterable[tuple[str, str]]) -> int:
    """Write each text under its path in the folder. Returns 0; 2 after a sentence where it cannot be written."""
    try:
        for path, text in texts:
            place = Path(folder, path)
            place.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(place, text)
    except (OSError, ValueError) as error:
        print(f"{folder}: {error}", file=sys.stderr)
        return 2
    return 0
