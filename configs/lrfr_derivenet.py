"""Low-resolution faces by the losses of one comparison: DeriveNet, as far as it is published.

A plain softmax beside it; what a decoder makes of the embedding is held against the clean image.

Needs   as configs/lfw_full.py
Run     python tools/train.py configs/lrfr_derivenet.py
Expect  docs/results.md
"""

from easydict import EasyDict as edict

parent = "lrfr_cosface.py"
config = edict()
config.margin = edict(name="cosface", margin=0.0)
config.objectives = [edict(name="derivenet", embedding_size=128)]
config.data = edict(batch_size=32, sampling="balanced", per_class=2)
config.optim = edict(accumulate=2)
