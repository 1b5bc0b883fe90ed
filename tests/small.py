"""A small set of face-like pictures on disk, and a recipe over it, for tests that train."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from recognition.data.recordio import Header, RecordWriter, pack

RECIPE = """
from easydict import EasyDict as edict

config = edict()
config.run = edict(name="small", root={root!r})
config.backbone = edict(name="mobilefacenet_nano", embedding_size=32)
config.data = edict(records={records!r}, batch_size=6, workers=0)
config.optim = edict(name="adamw", lr=2e-3)
config.schedule = edict(epochs=2.0, power=1.0)
config.train = edict(device="cpu", log_every=1)
config.evaluation = edict(low_res=[112, 14], bootstrap=50, every=0.0, budget=1.0, sets=[
    edict(name="small", kind="drawn", records={records!r}, count=20, folds=2)])
"""


def write_records(path: Path, people: int = 6, images: int = 5, seed: int = 0) -> Path:
    """A record file of coloured shapes, one kind for each person: path.rec and path.idx."""
    rng = np.random.default_rng(seed)
    with RecordWriter(path) as writer:
        for key in range(people * images):
            person = key % people
            looks = np.random.default_rng([seed, person])
            picture = np.full((112, 112, 3), looks.integers(40, 215, 3), np.uint8)
            for _ in range(6):
                centre, axes = looks.integers(15, 97, 2), looks.integers(5, 25, 2)
                shift = rng.integers(-3, 4, 2)
                colour = looks.integers(0, 255, 3).tolist()
                cv2.ellipse(picture, (centre + shift).tolist(), axes.tolist(), 0, 0, 360, colour, -1)
            noisy = np.clip(picture + rng.normal(0, 6, picture.shape), 0, 255).astype(np.uint8)
            payload = cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
            writer.write(key, pack(Header(0, float(person), key, 0), payload))
    return path.with_suffix(".rec")


def write_recipe(folder: Path, extra: str = "") -> Path:
    """A recipe over a fresh small set in `folder`; its runs go to folder/runs."""
    records = folder / "train.rec"
    if not records.exists():
        write_records(folder / "train")
    path = folder / "small.py"
    path.write_text(RECIPE.format(root=str(folder / "runs"), records=str(records)) + extra)
    return path


def photos(n: int, size: int = 112) -> np.ndarray:
    """Smooth colours and fine detail: (n, size, size, 3) uint8."""
    rng = np.random.default_rng(0)
    fields = []
    for _ in range(n):
        noise = rng.standard_normal((size, size, 3)).astype(np.float32)
        field = sum(s * cv2.GaussianBlur(noise, (0, 0), s) for s in (0.7, 2.0, 8.0))
        fields.append(128 + 60 * field / field.std())
    return np.clip(np.rint(fields), 0, 255).astype(np.uint8)
