"""Real faces, small budget: vectors that scale one pair of random matrices shared by all layers, on MobileFaceNet "y1".

Needs   as configs/lfw_full.py
Run     python tools/train.py configs/lfw_vera.py
Expect  docs/results.md
"""

from easydict import EasyDict as edict

parent = "lfw_full.py"
config = edict()
config.adapter = edict(name="vera", rank=64)
config.optim = edict(lr=5e-2)
