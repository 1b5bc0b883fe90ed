"""Small transformers, real faces: plain LoRA, rank 8, on vit_nano of synthetic faces.

Needs   data/lfw, and a base: python tools/train.py configs/demo_pretrain.py run.name=pretrain_vit \\
            backbone.name=vit_nano train.precision=bf16 optim.lr=1e-3 schedule.epochs=4.0
        and the same with pretrain_swin and swin_nano
Run     python tools/train.py configs/nano_lora.py
        on Swin: backbone.name=swin_nano backbone.weights=runs/pretrain_swin/model/adapter.safetensors
Expect  docs/results.md
"""

from easydict import EasyDict as edict

parent = "lfw_full.py"
config = edict()
BASE = "runs/pretrain_vit/model/adapter.safetensors"
config.backbone = edict(name="vit_nano", weights=BASE)
config.adapter = edict(name="lora", rank=8)
config.optim = edict(lr=5e-3)
