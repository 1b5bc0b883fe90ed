"""TinyFace: one un-gated LoRA on Swin's qkv, the plain baseline of PETALface.

Needs   as configs/petal_tinyface.py
Run     torchrun --nproc-per-node 8 tools/train.py configs/lora_tinyface.py
Expect  the paper reports TinyFace rank-1 75.37; not measured here yet. Measured as configs/petal_tinyface.py: training
        measures nothing
"""

from easydict import EasyDict as edict

parent = "petal_tinyface.py"
config = edict()
config.adapter = edict(name="lora", rank=8, dropout=0.1, dropout_at="output", targets=["**.attn.qkv"])
