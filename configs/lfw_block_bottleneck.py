"""Real faces, small budget: a bottleneck of width 8 after every block, on MobileFaceNet "y1".

Needs   as configs/lfw_full.py
Run     python tools/train.py configs/lfw_block_bottleneck.py
Expect  docs/results.md
"""

from easydict import EasyDict as edict

parent = "lfw_full.py"
config = edict()
config.adapter = edict(name="bottleneck", place="blocks", width=8)
config.optim = edict(lr=5e-3)
