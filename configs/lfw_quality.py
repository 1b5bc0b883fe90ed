"""Real faces: which quality scorer finds the pairs that MobileFaceNet "y1" gets wrong at mixed resolutions?

Needs   data/lfw and data/weights, the optional folder of real data (LFW folds 1-6 to fit on, 7-8 to test on)
Run     python tools/evaluate.py data/weights/mobilefacenet_y1-0000.params --edc --config configs/lfw_quality.py \\
            --output runs/quality
        scorers whose files are not there are listed with the reason; docs/quality.md has the commands that fit them
Expect  docs/quality.md
"""

from easydict import EasyDict as edict

parent = "lfw_full.py"
config = edict()
WEIGHTS, FITTED = "data/weights", "runs/quality"

config.evaluation = edict(
    sets=[edict(name="lfw78", kind="pairs", records="data/lfw/test.rec", pairs="data/lfw/test_pairs.csv")],
    edc=edict(
        against=["oracle", "sharpness"],
        scorers=[
            "oracle",
            "constant",
            "degradation",
            "sharpness",
            "sharpness:variance",
            "sharpness:tenengrad",
            "spectral_slope",
            f"brisque weights={WEIGHTS}/brisque_model_live.yml ranges={WEIGHTS}/brisque_range_live.yml",
            f"cnniqa:{WEIGHTS}/cnniqa_live.npz form=live",
            "feature_norm",
            "ser_fiq",
            f"recognizability:{FITTED}/y1_recognizability.safetensors",
            f"cr_fiqa:{FITTED}/y1_cr_fiqa.safetensors",
            "attn_fiqa base=runs/pretrain_vit",
            "attn_fiqa base=runs/pretrain_swin",
            f"ex_fiqa:{FITTED}/vit_cr_fiqa.safetensors base=runs/pretrain_vit",
            f"ex_fiqa:{FITTED}/swin_cr_fiqa.safetensors base=runs/pretrain_swin",
            "landmark_forest",
            "onnx",
            "pyiqa:musiq",
        ],
    ),
)
