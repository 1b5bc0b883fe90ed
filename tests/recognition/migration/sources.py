"""Settings of the same shape as those of the programs, written for the tests."""

from __future__ import annotations

from pathlib import Path

ARCFACE = """
from easydict import EasyDict as edict

config = edict()
config.margin_list = (1.0, 0.0, 0.4)
config.network = "mbf"
config.resume = False
config.output = "work_dirs/mine"
config.embedding_size = 512
config.sample_rate = 0.2
config.interclass_filtering_threshold = 0.4
config.fp16 = True
config.momentum = 0.9
config.weight_decay = 1e-4
config.batch_size = 64
config.lr = 0.1
config.verbose = 500
config.frequent = 20
config.dali = True
config.dali_aug = True
config.num_workers = 4
config.seed = 7
config.using_wandb = True
config.wandb_key = "0123456789"
config.save_all_states = True

config.rec = "/data/faces"
config.num_classes = 1000
config.num_image = 50 * 1000
config.num_epoch = 10
config.warmup_epoch = config.num_epoch // 5
config.val_targets = ["lfw", "agedb_30"]
"""

FACEMOE = """
from easydict import EasyDict as edict

config = edict()
config.margin_list = (1.0, 0.0, 0.4)
config.network = "swin_moe"
config.output = "/weights/tiny_{stage}"
config.pretrained = "/weights/{start}"
config.embedding_size = 512
config.sample_rate = 0.6
config.fp16 = True
config.weight_decay = 1e-1
config.batch_size = 16
config.size = 120
config.gradient_acc = 24
config.optimizer = "adamw"
config.lr = 0.001
config.dali = False
config.num_experts = 4
config.k = 1
config.rec = "/data/tiny"
config.num_classes = 2570
config.num_image = 7804
config.num_epoch = 10
config.warmup_epoch = 2
config.val_targets = []
"""

PETALFACE = """
### CNN-IQA | CosFace ###
CUDA_VISIBLE_DEVICES=0,1 torchrun --nproc_per_node=2 --master_port=29190 {script} \\
    --network {network} \\
    --head partial_fc --output /store/<folder> \\
    --margin_list 1.0,0.0,0.4 \\
    --batch-size 8 --optimizer adamw --weight_decay 0.1 \\
    --rec /data/tiny --num_classes 2570 --num_image 7804 \\
    --num_epoch 50 --lr 0.0005 --fp16 --warmup_epoch 2 --image_size 120 \\
    {rest}
"""
LORA = "--use_lora --lora_rank 4 --lora_scale 2 --seed 19 --load_pretrained /store/base"


def write(path: Path, text: str) -> Path:
    """The file, its folders made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def petalface(script: str = "train_iqa.py", network: str = "swin_256new_iqa", rest: str = LORA) -> str:
    """A launch script of PETALface."""
    return PETALFACE.format(script=script, network=network, rest=rest)
