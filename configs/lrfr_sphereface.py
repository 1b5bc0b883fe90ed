"""Low-resolution faces by the losses of one comparison: SphereFace, in its revived form.

Needs   as configs/lfw_full.py
Run     python tools/train.py configs/lrfr_sphereface.py
Expect  docs/results.md
"""

from easydict import EasyDict as edict

parent = "lrfr_cosface.py"
config = edict()
config.margin = edict(name="sphereface", scale=30.0)
