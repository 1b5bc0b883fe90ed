"""Real faces, small budget: plain LoRA, rank 8, on every 1x1 convolution and the head of MobileFaceNet "y1".

Needs   as configs/lfw_full.py
Run     python tools/train.py configs/lfw_lora.py
Expect  docs/results.md
"""

from easydict import EasyDict as edict

parent = "lfw_full.py"
config = edict()
config.adapter = edict(name="lora", rank=8)
config.optim = edict(lr=5e-3)
