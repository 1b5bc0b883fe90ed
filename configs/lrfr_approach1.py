"""Low-resolution faces by the losses of one comparison: its approach 1, a larger margin for degraded faces.

Needs   as configs/lfw_full.py
Run     python tools/train.py configs/lrfr_approach1.py
Expect  docs/results.md
"""

from easydict import EasyDict as edict

parent = "lrfr_cosface.py"
config = edict()
config.margin = edict(name="laplacian_margin", approach="level")
