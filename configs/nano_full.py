"""Small transformers: full fine-tuning, on vit_nano.

Needs   as configs/nano_lora.py
Run     python tools/train.py configs/nano_full.py
Expect  docs/results.md
"""

from easydict import EasyDict as edict

parent = "nano_lora.py"
config = edict()
config.adapter = edict(name="full")
config.optim = edict(lr=5e-4)
