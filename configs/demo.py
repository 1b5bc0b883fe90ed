"""The main job on synthetic faces: adapt a small base model to low resolution with quality-gated dual LoRA.

Needs   data/demo and data/demo_test, which `make demo` makes; weights/demo_base.safetensors ships with the project
Run     make demo, or: torchrun --nproc-per-node 2 tools/train.py configs/demo.py
Expect  a few minutes on two CPU cores; figures in README.md
"""

from easydict import EasyDict as edict

config = edict()
HELP = "synthetic faces; make them: make demo-data in a source tree, or lrface make_synthetic"
config.needs = [
    edict(path="data/demo/train.rec", help=f"{HELP} data/demo --identities 200 --images 12 --first-identity 100000"),
    edict(
        path="data/demo_test/train.rec",
        help=f"{HELP} data/demo_test --identities 120 --images 8 --first-identity 200000 --pairs 600",
    ),
    edict(path="weights/demo_base.safetensors", help="the demo's base model ships with the project; restore it"),
]
config.backbone = edict(name="mobilefacenet_nano", weights="weights/demo_base.safetensors")
config.adapter = edict(name="dual_lora", rank=8)
config.scorer = edict(name="sharpness")
config.gate = edict(midpoint=1.4, slope=0.7)  # log energy of a face: 2.1 at 112 px, 1.9 at 56, 1.35 at 28, 0.8 at 14
config.margin = edict(name="cosface", margin=0.3, scale=32.0)
config.classifier = edict(init="class_means")
config.data = edict(records="data/demo/train.rec", batch_size=32, workers=0)
config.degradation = edict(share=0.7, sides=[8, 32], blur=0.6, noise=4.0, jpeg=[50, 95])
config.optim = edict(name="adamw", lr=5e-3, weight_decay=0.05)
config.schedule = edict(name="cosine", epochs=2.0, warmup_epochs=0.2)
config.evaluation = edict(
    low_res=[112, 16, 12, 8, [112, 12]],
    sets=[
        edict(name="pairs", kind="pairs", records="data/demo_test/train.rec", pairs="data/demo_test/pairs.csv"),
        edict(
            name="search",
            kind="identification",
            records="data/demo_test/train.rec",
            low_res=[112, [112, 16], [112, 12], [112, 8]],
        ),
    ],
)
