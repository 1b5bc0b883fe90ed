"""Low-resolution faces: octuplets, and the starting network as a teacher of the clean images, which guards them.

Of the house, not of the comparison: octuplets alone gain most across resolutions and lose rank-1 at 112 px.

Needs   as configs/lfw_full.py
Run     python tools/train.py configs/lrfr_octuplet_distill.py
Expect  docs/results.md
"""

from easydict import EasyDict as edict

parent = "lrfr_octuplet.py"
config = edict()
config.objectives = [
    edict(name="octuplet", normalise=True),
    edict(name="distill", weight=2.0, of="twin"),
]
