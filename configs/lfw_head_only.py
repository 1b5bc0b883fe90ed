"""Real faces, small budget: the projection to the embedding alone, on MobileFaceNet "y1".

Needs   as configs/lfw_full.py
Run     python tools/train.py configs/lfw_head_only.py
Expect  docs/results.md
"""

from easydict import EasyDict as edict

parent = "lfw_full.py"
config = edict()
config.adapter = edict(name="head_only")
config.optim = edict(lr=1e-3)
