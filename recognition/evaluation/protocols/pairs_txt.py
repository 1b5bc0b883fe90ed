"""A list of pairs and a folder of pictures, as LFW's pairs.txt and most sets of one's own come."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recognition.evaluation.compared import Compared, sides
from recognition.evaluation.listed import check_counts
from recognition.evaluation.protocols import PROTOCOLS
from recognition.evaluation.protocols._listed_pairs import listed_pairs
from recognition.evaluation.protocols._pair_list import PATTERN, read_pair_list


@PROTOCOLS.register("pairs_txt")
def pairs_txt(
    data: str,
    pairs: str = "",
    pattern: str = PATTERN,
    form: str = "auto",
    low_res: Sequence[int | Sequence[int]] = (112,),
    failures: str = "error",
    counts: str = "published",
    resampled: str = "pairs",
) -> Compared:
    """Pairs listed as in LFW's pairs.txt, or as lines of two paths, over a folder of pictures.

    data: the folder, or what tools/align.py made of it. pairs: the list; "" = data/pairs.txt.
    pattern: the path of a name's picture in the folder, without its ending. form: "names" - LFW's: a first line of
    folds and pairs per kind, then "Name n1 n2" or "Name1 n1 Name2 n2"; "paths" - "path1 path2 same [fold]" divided by
    commas, tabs or blanks; "auto" - "names" where the first line is one or two whole numbers, else "paths".
    low_res: resolutions, N or [gallery, probe] pixels. failures: "error", "miss" or "exclude": of pictures that are not
    there. counts: "published" - as many pairs as the first line states; "any".
    resampled: what intervals draw: "pairs", or "people" of a list of names.
    FileNotFoundError and ValueError name the file, and the line, that is wrong.
    """
    file = Path(pairs or Path(data) / "pairs.txt")
    found = read_pair_list(file, form, pattern)
    check_counts({what: (*counted, str(file)) for what, counted in found.counts.items()}, counts)
    return listed_pairs(found, data, sides(low_res), failures, resampled=resampled)
