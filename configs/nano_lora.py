"""Small transformers: plain LoRA, rank 8, on a vit_nano pre-trained on synthetic faces, adapted to low resolution.

Needs   data/demo and data/demo_test (make demo-data); data/demo_pretrain, and a base from it:
        python tools/train.py configs/demo_pretrain.py run.name=pretrain_vit backbone.name=vit_nano \\
            train.precision=bf16 optim.lr=1e-3 schedule.epochs=3.0
        and the same with pretrain_swin, swin_nano and 4 epochs
Run     python tools/train.py configs/nano_lora.py
        on Swin: backbone.name=swin_nano backbone.weights=runs/pretrain_swin/model/adapter.safetensors
Expect  docs/results.md
"""

from easydict import EasyDict as edict

parent = "demo.py"
config = edict()
BASE = "runs/pretrain_vit/model/adapter.safetensors"
config.backbone = edict(name="vit_nano", weights=BASE)
config.adapter = edict(name="lora", rank=8)
config.optim = edict(lr=5e-3)
