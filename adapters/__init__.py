"""Ways to adapt a backbone from outside: which layers change, what trains, what a deliverable holds.

report = attach(backbone, ADAPTERS.create("lora", rank=8), gate)
write_folder(path, state(backbone), card)        load(backbone, read_folder(path).tensors)        merge(backbone)
bank = Adapters(backbone, gate)        bank.load("low", path)        bank.activate("low")        bank.disable()
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from recognition.registry import Registry

if TYPE_CHECKING:
    from adapters._attach import attach, attached, check, layers, live, load, merge, state
    from adapters._facemoe import from_facemoe
    from adapters._files import Saved, card_texts, read_folder, tensor_file, whole_arguments, write_folder
    from adapters._many import Adapters
    from adapters._peft import from_cvlface, from_peft, to_peft
    from adapters._petalface import from_petalface
    from recognition.hashes import hash_tensors

ADAPTERS = Registry("adapter")

__all__ = [
    "ADAPTERS",
    "Adapters",
    "Saved",
    "attach",
    "attached",
    "card_texts",
    "check",
    "from_cvlface",
    "from_facemoe",
    "from_peft",
    "from_petalface",
    "hash_tensors",
    "layers",
    "live",
    "load",
    "merge",
    "read_folder",
    "state",
    "tensor_file",
    "to_peft",
    "whole_arguments",
    "write_folder",
]


def __getattr__(name: str) -> object:
    # Imported at first use: names and signatures of adapters are asked for before torch is imported.
    if name in __all__:
        from adapters import _attach, _facemoe, _files, _many, _peft, _petalface
        from recognition import hashes

        for module in (_attach, _facemoe, _files, _many, _peft, _petalface, hashes):
            if name in vars(module):
                return vars(module)[name]
    raise AttributeError(f"module 'adapters' has no attribute '{name}'")
