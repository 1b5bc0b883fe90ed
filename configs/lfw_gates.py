"""Real faces across resolutions: does a quality gate pay? Two gated LoRA branches of rank 8 on MobileFaceNet "y1".

Needs   as configs/lfw_full.py
Run     python tools/train.py configs/lfw_gates.py
        every gate and its yardstick, plain LoRA of rank 16, in one table: the command is in docs/quality.md
Expect  docs/quality.md
"""

from easydict import EasyDict as edict

parent = "lfw_full.py"
config = edict()
LFW = "data/lfw"
config.adapter = edict(name="dual_lora", rank=8)
config.scorer = edict(name="sharpness")
config.gate = edict(midpoint=1.5, slope=0.71)  # rule roles, on these images: tools/calibrate_gate.py
config.data = edict(batch_size=16)
config.degradation = edict(share=0.75, sides=[7, 28])
config.optim = edict(lr=1e-2, accumulate=4)  # updates of 64 images; a core is faster on 16 at a time
config.schedule = edict(epochs=1.0)
config.train = edict(save_every=0.0)
config.evaluation = edict(
    sets=[
        edict(
            name="lfw78",
            kind="pairs",
            records=f"{LFW}/test.rec",
            pairs=f"{LFW}/test_pairs.csv",
            low_res=[28, 14, 7, [112, 28], [112, 14], [112, 7]],
        ),
        edict(
            name="lfw78_id",
            kind="identification",
            records=f"{LFW}/test.rec",
            distractors=f"{LFW}/distractors.rec",
            low_res=[112, [112, 28], [112, 14], [112, 7]],
        ),
    ],
)
