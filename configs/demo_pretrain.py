"""The demo's base model: MobileFaceNet-nano from scratch on high-quality synthetic faces only.

Needs   data/demo_pretrain, made by: python tools/make_synthetic.py data/demo_pretrain --identities 700 --images 14
Run     python tools/train.py configs/demo_pretrain.py
        python tools/convert_checkpoint.py runs/demo_pretrain/model/adapter.safetensors weights/demo_base.safetensors
Expect  the rows "before" of README.md: 98.9 % of pairs of people it never saw at 112 px, 67.7 % at 8 px
"""

from easydict import EasyDict as edict

config = edict()
config.needs = [
    edict(
        path="data/demo_pretrain/train.rec",
        help="make it: python tools/make_synthetic.py data/demo_pretrain --identities 700 --images 14",
    )
]
config.backbone = edict(name="mobilefacenet_nano")
config.adapter = edict(name="full")
config.margin = edict(name="cosface", margin=0.3, scale=32.0)
config.data = edict(records="data/demo_pretrain/train.rec", batch_size=64, workers=0)
config.optim = edict(name="adamw", lr=2e-3, weight_decay=0.05)
config.schedule = edict(name="cosine", epochs=5.0, warmup_epochs=0.5)
config.train = edict(log_every=20, save_every=1.0)
