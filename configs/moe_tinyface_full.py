"""TinyFace: mixture of experts, second of two stages: the whole network, from the first stage's class centres.

Needs   runs/moe_tinyface_classifier, the run of configs/moe_tinyface_classifier.py, and what that one needed
Run     torchrun --nproc-per-node 8 tools/train.py configs/moe_tinyface_full.py
Expect  not measured here yet; the authors published no TinyFace figure that we know of.
        Routers are drawn from run.seed, so keep the first stage's.
"""

from easydict import EasyDict as edict

parent = "moe_tinyface_classifier.py"
config = edict()
config.needs = [
    edict(
        path="runs/moe_tinyface_classifier/model/adapter.safetensors",
        help="train the class centres first: torchrun --nproc-per-node 8 tools/train.py "
        "configs/moe_tinyface_classifier.py",
    ),
]
config.adapter = edict(name="moe", train="all")
config.classifier = edict(sample_rate=1.0, init="runs/moe_tinyface_classifier")
config.data = edict(batch_size=8)
config.optim = edict(lr=1e-4)
config.schedule = edict(epochs=40.0, warmup_epochs=4.0)
