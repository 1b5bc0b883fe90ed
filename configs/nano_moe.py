"""Small transformers: three experts, two of them at work, in the place of each MLP, on vit_nano.

Needs   as configs/nano_lora.py
Run     python tools/train.py configs/nano_moe.py
Expect  docs/results.md
"""

from easydict import EasyDict as edict

parent = "nano_lora.py"
config = edict()
config.adapter = edict(name="moe", experts=3, top_k=2)
config.optim = edict(lr=1e-3)
