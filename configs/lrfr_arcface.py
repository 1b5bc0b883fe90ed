"""Low-resolution faces by the losses of one comparison: ArcFace.

Needs   as configs/lfw_full.py
Run     python tools/train.py configs/lrfr_arcface.py
Expect  docs/results.md
"""

from easydict import EasyDict as edict

parent = "lrfr_cosface.py"
config = edict()
config.margin = edict(name="arcface", margin=0.5)
