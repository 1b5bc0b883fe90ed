"""TinyFace: PETALface's published recipe, two quality-gated LoRA branches on Swin (arXiv 2412.07771).

Needs   data/tinyface/train.rec (7,804 faces of 2,570 people, 112 px) and checkpoints/swin_cosface_webface4m.pt
Run     torchrun --nproc-per-node 8 tools/train.py configs/petal_tinyface.py
        python tools/evaluate.py runs/petal_tinyface --protocol tinyface --data TinyFace
Expect  the paper reports TinyFace rank-1 75.45 and LFW 99.68 from these weights; not measured here yet.
        No evaluation.sets: training measures nothing, the second command does. TinyFace is low-resolution by itself,
        so nothing is degraded.
        Differs from the published program: warm-up from the first update, step 0 equal to the base, frozen statistics,
        a gate bounded to [0, 1]; the paper's score threshold was never published, so midpoint and slope are our own.
"""

from easydict import EasyDict as edict

config = edict()
config.needs = [
    edict(
        path="data/tinyface/train.rec",
        help="TinyFace comes from its authors on request (https://qmul-tinyface.github.io); align its Training_Set to "
        "112 px, one folder per person, then: python tools/make_records.py FOLDER data/tinyface",
    ),
    edict(
        path="checkpoints/swin_cosface_webface4m.pt",
        help="PETALface's pre-trained Swin; its authors publish it as swin_cosface_webface4m/model.pt on the Hugging "
        "Face hub under kartiknarayan/PETALface; save it under this name",
    ),
]
config.backbone = edict(
    name="swin_120",
    shift_mask=False,  # as the published weights were trained
    weights="checkpoints/swin_cosface_webface4m.pt",
)
config.adapter = edict(name="dual_lora", rank=8, dropout=0.1, dropout_at="output", targets=["**.attn.qkv"], head=True)
config.scorer = edict(name="sharpness")
config.gate = edict(midpoint=1.4, slope=0.7)  # log energy of a face: 2.1 at 112 px, 1.9 at 56, 1.35 at 28, 0.8 at 14
config.margin = edict(name="cosface", margin=0.4, scale=64.0)
config.data = edict(records="data/tinyface/train.rec", batch_size=8, workers=2)
config.optim = edict(name="adamw", lr=5e-4, weight_decay=0.1, clip=5.0)
config.schedule = edict(name="polynomial", power=1.0, epochs=50.0, warmup_epochs=2.0)
