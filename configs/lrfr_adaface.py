"""Low-resolution faces by the losses of one comparison: AdaFace.

Needs   as configs/lfw_full.py
Run     python tools/train.py configs/lrfr_adaface.py
Expect  docs/results.md
"""

from easydict import EasyDict as edict

parent = "lrfr_cosface.py"
config = edict()
config.margin = edict(name="adaface", margin=0.4)
