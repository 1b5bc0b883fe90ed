"""Real faces, small budget: dual LoRA's fair twin without a gate, on MobileFaceNet "y1".

Needs   as configs/lfw_full.py
Run     python tools/train.py configs/lfw_twin_lora.py
Expect  docs/results.md
"""

from easydict import EasyDict as edict

parent = "lfw_full.py"
config = edict()
config.adapter = edict(name="dual_lora", rank=8, gated=False)  # as many parameters, both branches weigh 1/2
config.optim = edict(lr=5e-3)
