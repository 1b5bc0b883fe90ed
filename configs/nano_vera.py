"""Small transformers: vectors on shared random matrices of rank 64, on vit_nano.

Needs   as configs/nano_lora.py
Run     python tools/train.py configs/nano_vera.py
Expect  docs/results.md
"""

from easydict import EasyDict as edict

parent = "nano_lora.py"
config = edict()
config.adapter = edict(name="vera", rank=64)
config.optim = edict(lr=5e-2)
