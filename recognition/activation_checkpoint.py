"""Activation checkpointing from outside: blocks drop their activations and compute them again in the backward pass.

The gate's value is an input of the recomputed region, since the forward's scope is closed when the backward pass runs;
auxiliary losses are outputs of it. State-dict keys stay as they are.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from adapters._targets import matching
from recognition.gate import Gate


def checkpoint_blocks(backbone: nn.Module, gate: Gate, patterns: Sequence[str]) -> list[str]:
    """Recompute the blocks that the globs name; returns their names. Call it after adapters are attached.

    patterns: globs over module names as in adapters._targets, usually the backbone's own checkpoint_blocks.
    ValueError for a pattern that names no module, a block inside another one, and a block checkpointed already.
    """
    names = [name for name, _ in backbone.named_modules() if name]
    chosen: set[str] = set()
    for pattern in patterns:
        here = matching(pattern, names)
        if not here:
            declared = getattr(backbone, "checkpoint_blocks", ())
            raise ValueError(
                f"activation checkpointing: '{pattern}' names no module of {type(backbone).__name__}; "
                f"its own blocks are {', '.join(map(repr, declared)) or 'not declared'}"
            )
        chosen.update(here)
    for name in chosen:
        outer = next((other for other in chosen if name.startswith(f"{other}.")), None)
        if outer is not None:
            raise ValueError(f"activation checkpointing: block '{name}' lies inside '{outer}'; name one of the two")
        if isinstance(backbone.get_submodule(name), _Checkpointed):
            raise ValueError(f"activation checkpointing: block '{name}' is checkpointed already")
    for name in chosen:
        block = backbone.get_submodule(name)
        block._gate = gate  # an attribute, so that deepcopy takes it along
        block.__class__ = _in_front(type(block))
    return [name for name in names if name in chosen]


class _Checkpointed:
    """Stands in front of a block's own class: no wrapper module, so keys stay."""

    def forward(self, *inputs, **named):
        plain = super().forward
        # Not self.training: blocks of a frozen base are in eval mode while the adapter trains.
        if not torch.is_grad_enabled():
            return plain(*inputs, **named)
        if torch.compiler.is_compiling():  # the compiler makes the gate's value an input by itself
            return checkpoint(plain, *inputs, use_reentrant=False, preserve_rng_state=True, **named)
        gate = self._gate

        def region(value: Tensor | None, *inner, **inner_named):
            with gate.scope(value):
                output = plain(*inner, **inner_named)
                return output, tuple(gate._auxiliary)

        output, auxiliary = checkpoint(
            region, gate.value, *inputs, use_reentrant=False, preserve_rng_state=True, **named
        )
        for loss in auxiliary:
            gate.add_auxiliary(loss)
        return output


@functools.cache
def _in_front(kind: type[nn.Module]) -> type[nn.Module]:
    return type(f"Checkpointed{kind.__name__}", (_Checkpointed, kind), {})
