"""WebFace4M from scratch: ResNet-50 with partial FC, arcface_torch's use.

Needs   data/webface4m: WebFace4M as RecordIO (4,235,242 faces of 205,990 people, 112 px)
Run     torchrun --nproc-per-node 8 tools/train.py configs/wf4m_r50.py
Expect  arcface_torch's log of this setting: 5.5 hours on 8 V100; AdaFace's R50 reaches IJB-C 96.98 at FAR 1e-4;
        not measured here yet
"""

from easydict import EasyDict as edict

config = edict()
config.needs = [
    edict(
        path="data/webface4m",
        help="WebFace4M comes from its authors on request (https://www.face-benchmark.org); its RecordIO shards are "
        "read as they are, folders of pictures through: python tools/make_records.py FOLDER data/webface4m",
    )
]
config.backbone = edict(name="r50")
config.adapter = edict(name="full")
config.margin = edict(name="cosface", margin=0.4, scale=64.0)
config.data = edict(records="data/webface4m", batch_size=128, workers=4)
config.optim = edict(name="sgd", lr=0.1, momentum=0.9, weight_decay=5e-4)
config.schedule = edict(name="polynomial", power=2.0, epochs=20.0, warmup_epochs=0.0)
config.train = edict(precision="fp16")
