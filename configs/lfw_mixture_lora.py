"""Real faces, small budget: three LoRA branches of rank 8, mixed by the image's quality, on MobileFaceNet "y1".

Needs   as configs/lfw_full.py
Run     python tools/train.py configs/lfw_mixture_lora.py
Expect  docs/results.md
"""

from easydict import EasyDict as edict

parent = "lfw_dual_lora.py"
config = edict()
config.adapter = edict(name="mixture_lora", branches=3, rank=8)
