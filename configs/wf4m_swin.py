"""WebFace4M from scratch: the 120 px Swin that PETALface adapts.

Needs   as configs/wf4m_r50.py
Run     torchrun --nproc-per-node 8 tools/train.py configs/wf4m_swin.py
Expect  PETALface's pre-trained row: LFW 99.78, IJB-C 96.79 at FAR 1e-2, TinyFace rank-1 72.74; not measured here yet.
        The shift mask is applied, which the published weights lack.
"""

from easydict import EasyDict as edict

parent = "wf4m_r50.py"
config = edict()
config.backbone = edict(name="swin_120")
config.optim = edict(name="adamw", lr=1e-3, weight_decay=0.05)
config.schedule = edict(power=1.0, epochs=26.0, warmup_epochs=1.0)
config.train = edict(precision="bf16")
