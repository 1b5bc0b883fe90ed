"""TinyFace: mixture of experts, first of two stages: the class centres alone, on a network that stands still.

Needs   as configs/petal_tinyface.py
Run     torchrun --nproc-per-node 8 tools/train.py configs/moe_tinyface_classifier.py
        then configs/moe_tinyface_full.py
Expect  centres for the second stage; the network's own figures stay those of its base weights.
        FaceMoE (arXiv 2606.32040) trains its experts from scratch on WebFace4M; here the dense Swin is up-cycled: every
        expert starts as its MLP. Its crops and colour changes are not made, and its statistics move in this stage too.
"""

from easydict import EasyDict as edict

parent = "petal_tinyface.py"
config = edict()
config.adapter = edict(name="moe", experts=3, top_k=2, train="none")
config.classifier = edict(sample_rate=0.6)
config.data = edict(batch_size=16)
config.degradation = edict(share=0.2, sides=[22, 112])
config.optim = edict(name="adamw", lr=1e-3, weight_decay=0.1)
config.schedule = edict(name="polynomial", power=1.0, epochs=10.0, warmup_epochs=2.0)
