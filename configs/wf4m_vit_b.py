"""WebFace4M from scratch: ViT-B with sampled partial FC and AdamW.

Needs   as configs/wf4m_r50.py
Run     torchrun --nproc-per-node 8 tools/train.py configs/wf4m_vit_b.py
Expect  not measured here yet
"""

from easydict import EasyDict as edict

parent = "wf4m_r50.py"
config = edict()
config.backbone = edict(name="vit_b", mask_ratio=0.1)
config.classifier = edict(sample_rate=0.3)
config.data = edict(batch_size=384)
config.optim = edict(name="adamw", lr=1e-3, weight_decay=0.1)
config.schedule = edict(power=1.0, epochs=40.0, warmup_epochs=4.0)
config.train = edict(precision="bf16", checkpoint_activations=True)
