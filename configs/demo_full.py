"""The demo with every weight fine-tuned.

Needs   as configs/demo.py
Run     torchrun --nproc-per-node 2 tools/train.py configs/demo_full.py
Expect  figures in README.md
"""

from easydict import EasyDict as edict

parent = "demo.py"
config = edict()
config.adapter = edict(name="full")
config.optim = edict(lr=1e-3)
