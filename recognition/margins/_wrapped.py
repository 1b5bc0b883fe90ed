"""What margins share that stand on another one, which their arguments `of` and `arguments` name."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from recognition.margins import MARGINS

HANDED_ON = ("scale", "check", "reduce", "extra", "needs_gate", "fields", "measure")


def stand_on(
    outer: nn.Module, name: str, of: str, arguments: Mapping[str, object] | None, refused: Mapping[str, str]
) -> nn.Module:
    """The margin called `of`. Its optional parts become those of `outer`, but for what `outer` defines itself.

    name: of `outer`. arguments: of the other margin; None = its defaults. refused: optional parts that the other must
    not have, each with what it does that has one, as words behind "which".
    ValueError for `outer` itself, for a margin that has what is refused, and for arguments that do not fit.
    """
    if not isinstance(of, str):
        raise ValueError(f"margin.of is {of!r}; it must be the name of a margin")
    if of == name:
        raise ValueError(f"margin.of is '{name}' itself: name the margin that it stands on")
    by_name = isinstance(arguments, Mapping) and all(isinstance(key, str) for key in arguments)
    if arguments is not None and not by_name:
        raise ValueError(f"margin.arguments is {arguments!r}; it must be arguments of '{of}' by name, or None")
    try:
        inner = MARGINS.create(of, **(arguments or {}))
    except ValueError as error:
        raise ValueError(f"margin.of and margin.arguments: {error}") from None
    for part, what in refused.items():
        if hasattr(inner, part):
            raise ValueError(f"margin.of is '{of}', which {what}: name a margin that does not")
    for part in HANDED_ON:
        if hasattr(inner, part) and not hasattr(outer, part):
            setattr(outer, part, getattr(inner, part))
    return inner
