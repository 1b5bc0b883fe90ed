"""Low-resolution faces by the losses of one comparison: its approach 2, the margin from the Laplacian.

Needs   as configs/lfw_full.py
Run     python tools/train.py configs/lrfr_approach2.py
Expect  docs/results.md
"""

from easydict import EasyDict as edict

parent = "lrfr_cosface.py"
config = edict()
config.margin = edict(name="laplacian_margin", approach="laplacian")
