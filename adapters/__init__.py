"""Ways to adapt a backbone from outside: which layers change, what trains, what a deliverable holds.

report = attach(backbone, ADAPTERS.create("lora", rank=8), gate)
save_file(state(backbone), path)        load(backbone, load_file(path))        merge(backbone)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from recognition.registry import Registry

if TYPE_CHECKING:
    from adapters._attach import attach, attached, layers, load, merge, state
    from adapters._petalface import from_petalface

ADAPTERS = Registry("adapter")

__all__ = ["ADAPTERS", "attach", "attached", "from_petalface", "layers", "load", "merge", "state"]


def __getattr__(name: str) -> object:
    # Imported at first use: names and signatures of adapters are asked for before torch is imported.
    if name == "from_petalface":
        from adapters import _petalface

        return _petalface.from_petalface
    if name in __all__:
        from adapters import _attach

        return getattr(_attach, name)
    raise AttributeError(f"module 'adapters' has no attribute '{name}'")
