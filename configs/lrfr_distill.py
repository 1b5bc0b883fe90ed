"""Low-resolution faces without labels: the starting network on the clean image is the teacher; not of the comparison.

No classifier: what the network makes of a degraded face is drawn to what the base makes of the same face before. The
share of degraded images was chosen on held-out training people.

Needs   as configs/lfw_full.py
Run     python tools/train.py configs/lrfr_distill.py
Expect  docs/results.md
"""

from easydict import EasyDict as edict

parent = "lrfr_cosface.py"
config = edict()
config.objectives = [edict(name="distill", weight=10.0)]
config.classifier = edict(weight=0.0, init="random")
config.degradation = edict(share=0.75)
