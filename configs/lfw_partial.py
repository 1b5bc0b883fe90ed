"""Real faces, small budget: the last two blocks and the head, on MobileFaceNet "y1".

Needs   as configs/lfw_full.py
Run     python tools/train.py configs/lfw_partial.py
Expect  docs/results.md
"""

from easydict import EasyDict as edict

parent = "lfw_full.py"
config = edict()
config.adapter = edict(name="partial", blocks=2)
config.optim = edict(lr=1e-3)
