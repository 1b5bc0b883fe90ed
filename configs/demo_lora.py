"""The demo with plain LoRA in place of the gated pair.

Needs   as configs/demo.py
Run     torchrun --nproc-per-node 2 tools/train.py configs/demo_lora.py
Expect  figures in README.md
"""

from easydict import EasyDict as edict

parent = "demo.py"
config = edict()
config.adapter = edict(name="lora", rank=8)
