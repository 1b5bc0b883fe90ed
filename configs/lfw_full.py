"""Real faces, small budget: full fine-tuning of MobileFaceNet "y1" on 4,849 LFW faces, 60 % of them low-resolution.

Needs   data/lfw and data/weights, the optional folder of real data (LFW folds 1-6 to train on, 7-8 to test on)
Run     python tools/train.py configs/lfw_full.py
        other setting, every image at 7 to 28 px: degradation.share=1.0 degradation.sides=[7,28]
        all recipes and seeds in one table: python tools/compare.py --help
Expect  docs/results.md
"""

from easydict import EasyDict as edict

config = edict()
LFW = "data/lfw"
HELP = "real faces that do not ship with the project; link the optional folder of real data to data/"

config.needs = [
    edict(path=f"{LFW}/train.rec", help=HELP),
    edict(path=f"{LFW}/test_pairs.csv", help=HELP),
    edict(path="data/weights/mobilefacenet_y1-0000.params", help=HELP),
]
config.backbone = edict(name="mobilefacenet_y1", weights="data/weights/mobilefacenet_y1-0000.params")
config.adapter = edict(name="full")
config.margin = edict(name="cosface", margin=0.4, scale=64.0)
config.classifier = edict(init="class_means")
config.data = edict(records=f"{LFW}/train.rec", batch_size=64, workers=0)
config.degradation = edict(share=0.6, sides=[7, 56])
config.optim = edict(name="adamw", lr=1e-3, weight_decay=0.05)
config.schedule = edict(name="cosine", epochs=2.0, warmup_epochs=0.2)
config.evaluation = edict(
    low_res=[112, 28, 16, 14, 7, [112, 16], [112, 14], [112, 7]],
    sets=[
        edict(name="lfw78", kind="pairs", records=f"{LFW}/test.rec", pairs=f"{LFW}/test_pairs.csv"),
        edict(
            name="lfw78_id",
            kind="identification",
            records=f"{LFW}/test.rec",
            distractors=f"{LFW}/distractors.rec",
            low_res=[112, [112, 28], [112, 16], [112, 14], [112, 7]],
        ),
    ],
)
