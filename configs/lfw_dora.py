"""Real faces, small budget: LoRA with a magnitude per output channel, rank 8, on MobileFaceNet "y1".

Needs   as configs/lfw_full.py
Run     python tools/train.py configs/lfw_dora.py
Expect  docs/results.md
"""

from easydict import EasyDict as edict

parent = "lfw_full.py"
config = edict()
config.adapter = edict(name="dora", rank=8)
config.optim = edict(lr=5e-3)
