"""Low-resolution faces: CosFace, and the starting network on the clean image as a teacher; not of the comparison.

The simplest guard against forgetting: what becomes of a face stays near what the base makes of its clean image.

Needs   as configs/lfw_full.py
Run     python tools/train.py configs/lrfr_distill.py
Expect  docs/results.md
"""

from easydict import EasyDict as edict

parent = "lrfr_cosface.py"
config = edict()
config.objectives = [edict(name="distill", weight=10.0)]
