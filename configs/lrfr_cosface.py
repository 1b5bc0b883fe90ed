"""Low-resolution faces by the losses of one comparison: CosFace. The parent of the other lrfr_ recipes.

Half of each batch is reduced to 7 .. 56 px (cross-resolution batches); LoRA of rank 16 on MobileFaceNet "y1", 4,849 LFW
faces. Each lrfr_ recipe changes the loss, and what that loss needs of a batch, and nothing else (balanced batches take
81 updates an epoch in place of 76).

Needs   as configs/lfw_full.py
Run     python tools/train.py configs/lrfr_cosface.py
        all of them in one table: the command is in docs/results.md
Expect  docs/results.md
"""

from easydict import EasyDict as edict

parent = "lfw_full.py"
config = edict()
LFW = "data/lfw"
config.adapter = edict(name="lora", rank=16)
config.margin = edict(name="cosface", margin=0.35)
config.data = edict(batch_size=16)
config.degradation = edict(share=0.5, choose="half_batch", sides=[7, 56])
config.optim = edict(lr=5e-3, accumulate=4)  # updates of 64 images; a core is faster on 16 at a time
config.schedule = edict(epochs=1.0)
config.train = edict(save_every=0.0)
config.evaluation = edict(
    sets=[
        edict(
            name="lfw78",
            kind="pairs",
            records=f"{LFW}/test.rec",
            pairs=f"{LFW}/test_pairs.csv",
            low_res=[112, 56, 28, 14, 7, [112, 14], [112, 7]],
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
