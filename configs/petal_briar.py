"""BRIAR: PETALface's published recipe on 301,000 faces of 778 people.

Needs   data/briar/train.rec, and the Swin weights of configs/petal_tinyface.py
Run     torchrun --nproc-per-node 8 tools/train.py configs/petal_briar.py
Expect  the paper reports TAR 35.12 at FAR 1e-4 and rank-1 67.42 on Protocol 3.1; not measured here yet
"""

from easydict import EasyDict as edict

parent = "petal_tinyface.py"
config = edict()
config.needs = [
    edict(
        path="data/briar/train.rec",
        help="BRIAR is distributed by the United States government to approved users only; align it to 112 px, one "
        "folder per person, then: python tools/make_records.py FOLDER data/briar",
    ),
    edict(
        path="checkpoints/swin_cosface_webface4m.pt",
        help="PETALface's pre-trained Swin, swin_cosface_webface4m/model.pt on the Hugging Face hub under "
        "kartiknarayan/PETALface; save it under this name",
    ),
]
config.data = edict(records="data/briar/train.rec")
config.schedule = edict(epochs=10.0, warmup_epochs=1.0)
