"""Real faces, small budget: two LoRA branches of rank 8, mixed by the image's quality, on MobileFaceNet "y1".

Needs   as configs/lfw_full.py
Run     python tools/train.py configs/lfw_dual_lora.py
Expect  docs/results.md
"""

from easydict import EasyDict as edict

parent = "lfw_full.py"
config = edict()
config.adapter = edict(name="dual_lora", rank=8)
config.scorer = edict(name="sharpness")
config.gate = edict(midpoint=1.4, slope=0.7)  # log energy of a face: 2.1 at 112 px, 1.9 at 56, 1.35 at 28, 0.8 at 14
config.optim = edict(lr=5e-3)
