"""Low-resolution faces by the losses of one comparison: octuplets alone, no classifier.

Every image is reduced, and its clean twin goes through the network, too: twice the cost of a step.

Needs   as configs/lfw_full.py
Run     python tools/train.py configs/lrfr_octuplet.py
Expect  docs/results.md
"""

from easydict import EasyDict as edict

parent = "lrfr_cosface.py"
config = edict()
config.objectives = [edict(name="octuplet", normalise=True)]
config.classifier = edict(weight=0.0, init="random")
config.data = edict(batch_size=32, sampling="balanced", per_class=2)
config.degradation = edict(share=1.0)
config.optim = edict(accumulate=2)
