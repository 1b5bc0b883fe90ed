"""Parts of a backbone that adapters train or extend where they stand: its blocks, its parameters, a module's forward.

A module is changed by a class put in front of its own, as activation checkpointing does: there is no wrapper module, so
the base's keys stay.
"""

from __future__ import annotations

import copy
import difflib
import functools
from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor, nn

from adapters._targets import matching
from recognition.types import AttachReport

INDIFFERENT = (nn.Linear, nn.Conv2d, nn.LayerNorm)  # kinds whose forward is the same in training and in eval mode


def find_blocks(backbone: nn.Module) -> list[str]:
    """Names of the backbone's repeated blocks, those of its checkpoint_blocks, in its own order.

    ValueError where it declares none, and for a glob that names no module.
    """
    patterns = getattr(backbone, "checkpoint_blocks", ())
    if not patterns:
        raise ValueError(
            f"{type(backbone).__name__} declares no checkpoint_blocks, so its blocks are not known: "
            "give the backbone that attribute, globs over module names"
        )
    return find_modules(backbone, patterns)


def find_modules(backbone: nn.Module, patterns: Sequence[str] | str) -> list[str]:
    """Names of all modules that the globs name, in the model's order. ValueError for a glob that names none."""
    names = [name for name, _ in backbone.named_modules() if name]
    met: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        here = matching(pattern, names)
        if not here:
            near = ", ".join(map(repr, difflib.get_close_matches(pattern, names, n=4, cutoff=0.0)))
            raise ValueError(f"'{pattern}' names no module of {type(backbone).__name__}; nearest to it are {near}")
        met.update(here)
    return [name for name in names if name in met]


def unfreeze(backbone: nn.Module, keys: Iterable[str], alive: Sequence[type[nn.Module]] = ()) -> AttachReport:
    """Let parameters of the base train, in modules that otherwise stay as they are in inference.

    keys: names of parameters. The report names the modules that hold them. In training these stay in eval mode (their
    batch statistics, dropout and DropPath stand still) and no buffer of theirs belongs to a deliverable.
    alive: kinds of modules that follow train() instead, as an adapted layer does.
    A parameter of the backbone itself, in none of its modules, stays frozen and is reported as skipped.
    """
    keys = list(keys)
    inside = [key for key in keys if "." in key]
    names = list(dict.fromkeys(key.rpartition(".")[0] for key in inside))
    for key in inside:
        backbone.get_parameter(key).requires_grad_(True)
    for name in names:
        module = backbone.get_submodule(name)
        if not isinstance(module, tuple(alive)) and type(module) not in INDIFFERENT:
            put_in_front(_Still, module)
            module.eval()
    return AttachReport(names, [key for key in keys if "." not in key])


def put_in_front(mixin: type, module: nn.Module) -> None:
    """Make the module one of a class in which `mixin` stands before its own class."""
    module.__class__ = _in_front(mixin, type(module))


@functools.cache
def _in_front(mixin: type, kind: type[nn.Module]) -> type[nn.Module]:
    return type(f"{mixin.__name__.strip('_')}{kind.__name__}", (mixin, kind), {"_plain": kind})


class _Still:
    """A module whose parameters train while it stays in eval mode."""

    def train(self, mode: bool = True) -> nn.Module:
        return super().train(False)

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        # Asked of an adapted layer, these are what training moves, and so what a deliverable holds: nothing, here.
        # The backbone's own named_buffers and state_dict read the modules' tables and name them all.
        return iter(())

    def merged(self, gate_value: float | None = None) -> nn.Module:
        """The module of its own class again, with the same parameters and buffers."""
        plain = copy.copy(self)
        for table in ("_parameters", "_buffers", "_modules"):
            vars(plain)[table] = dict(vars(self)[table])
        plain.__class__ = self._plain
        return plain
