"""A folder of InsightFace's verification .bin files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from recognition.data.pairs import read_bin
from recognition.evaluation.compared import PAIR_RULES, Compared, sides
from recognition.evaluation.listed import check_counts
from recognition.evaluation.protocols import PROTOCOLS
from recognition.evaluation.protocols._joined import Joined
from recognition.registry import nearest

PAIRS = {"lfw": 6000, "cfp_fp": 7000, "cfp_ff": 7000, "agedb_30": 6000, "calfw": 6000, "cplfw": 6000}


@PROTOCOLS.register("insightface_bins")
def insightface_bins(
    data: str,
    names: Sequence[str] = (),
    low_res: Sequence[int | Sequence[int]] = (112,),
    counts: str = "published",
    folds: int = 10,
) -> Joined:
    """LFW, CFP-FP, CFP-FF, AgeDB-30, CALFW and CPLFW from a folder of .bin files, each a part of its own.

    data: the folder. names: which of them, without .bin; () = all that are there. low_res: resolutions, N or
    [gallery, probe] pixels. counts: "published" or "any" number of pairs. folds: contiguous ones.
    FileNotFoundError for a file that names asks for, or a folder without any; ValueError for an unknown name, a damaged
    file, and another number of pairs than published.
    """
    folder = Path(data)
    for name in names:
        if name not in PAIRS:
            raise ValueError(f"names holds '{name}'{nearest(name, PAIRS)}; the kind 'bin' reads any one file")
    chosen = list(dict.fromkeys(names)) or [name for name in PAIRS if (folder / f"{name}.bin").is_file()]
    missing = [name for name in chosen if not (folder / f"{name}.bin").is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} holds no {', no '.join(f'{name}.bin' for name in missing)}")
    if not chosen:
        looked_for = ", ".join(f"{name}.bin" for name in PAIRS)
        raise FileNotFoundError(f"{folder} holds none of {looked_for}")
    wanted = sides(low_res)
    found = {name: read_bin(folder / f"{name}.bin") for name in chosen}
    check_counts(
        {
            f"{kind} of {name}": (got, PAIRS[name] // share, str(folder / f"{name}.bin"))
            for name, pairs in found.items()
            for kind, got, share in (("pairs", len(pairs), 1), ("genuine pairs", int(pairs.same.sum()), 2))
        },
        counts,
    )
    rules = replace(PAIR_RULES, folds=f"{folds} contiguous ones per file; {PAIR_RULES.folds}")
    sets = {
        name: Compared(pairs.images, pairs.first, pairs.second, wanted, pairs, folds) for name, pairs in found.items()
    }
    return Joined(sets, rules)
