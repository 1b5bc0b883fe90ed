"""Small transformers: eight learned tokens beside the patches of every block, on vit_nano.

Needs   as configs/nano_lora.py
Run     python tools/train.py configs/nano_prompt.py
Expect  docs/results.md
"""

from easydict import EasyDict as edict

parent = "nano_lora.py"
config = edict()
config.adapter = edict(name="prompt", tokens=8, deep=True)
config.optim = edict(lr=2e-2)
