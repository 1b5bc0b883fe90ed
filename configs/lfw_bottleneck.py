"""Real faces, small budget: a small MLP beside the embedding, on MobileFaceNet "y1".

Needs   as configs/lfw_full.py
Run     python tools/train.py configs/lfw_bottleneck.py
Expect  docs/results.md
"""

from easydict import EasyDict as edict

parent = "lfw_full.py"
config = edict()
config.adapter = edict(name="bottleneck")
config.optim = edict(lr=5e-3)
