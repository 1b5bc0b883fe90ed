"""A miniature of a folder in which somebody works: the names that the documents use, with next to nothing behind."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy.io import savemat

from recognition.backbones import BACKBONES
from recognition.data.alignment import TEMPLATE
from recognition.data.pairs import PairSet, write_bin
from recognition.data.recordio import RecordReader, unpack
from recognition.weights import write_weights
from tests.documents.collect import ROOT, python_of
from tests.recognition.evaluation.protocols import retrieving
from tests.recognition.migration import sources
from tests.recognition.test_alignment import scrfd
from tests.recognition.test_import_set import write_set
from tests.small import write_records
from tests.tiny import Tiny, TinyViT
from tests.tools.sources import write_lmdb

FOREIGN = (
    "backbone.pth",
    "adaface_ir50_ms1mv2.ckpt",
    "cvlface/pretrained_model/model.pt",
    "petalface_swin.pt",
    "facemoe_model.pt",
)
PEOPLE, IMAGES = 6, 5
SETS = (  # folders of records, with pairs.csv beside them
    "data/mine",
    "data/mine_test",
    "data/demo",
    "data/demo_test",
    "data/demo_pretrain",
    "data/forget_forgotten",
    "data/forget_remaining",
    "data/faces",
    "data/tinyface",
    "data/briar",
    "data/webface4m",
    "data/lfw",
)
PICTURES = ("faces", "FOLDER", "people", "probes", "my_faces")  # folders of aligned faces, one folder per person
PHOTOS = ("photos", "my_photos", "my_test_photos")  # raw ones
DETECTORS = ("DIR", "models", "buffalo_l")
RUNS = (
    "RUN",
    "runs/mine",
    "runs/my_faces",
    "runs/a",
    "runs/b",
    "runs/c",
    "runs/petal_tinyface",
    "runs/wf4m_r50",
)  # each as runs/demo
CHECKPOINTS = ("checkpoints/swin_cosface_webface4m.pt", "my.safetensors", "weights.safetensors")


def build(folder: Path) -> None:
    """Fill an empty folder with everything but runs."""
    for name in ("tools", "recognition", "adapters", "iqa", "tests"):
        (folder / name).symlink_to(ROOT / name)
    for name in ("configs", "weights"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "docs").mkdir()
    records(folder)
    pictures(folder)
    weights(folder)
    benchmarks(folder)
    foreign(folder)


def records(folder: Path) -> None:
    """Six people, five pictures of each, under every name."""
    first = folder / "data" / "first"
    write_records(first / "train", PEOPLE, IMAGES)
    pairs = [f"{a},{b},{int(a % PEOPLE == b % PEOPLE)},{f}\n" for f in (0, 1) for a, b in drawn(f)]
    (first / "pairs.csv").write_text("key_1,key_2,same,fold\n" + "".join(pairs))
    (first / "property").write_text(f"{PEOPLE},112,112\n")
    for name in SETS:
        shutil.copytree(first, folder / name, copy_function=os.link)
    for ending in (".rec", ".idx"):
        (folder / "data" / "demo_test" / f"train{ending}").unlink()
    people, images = 2 * PEOPLE, 2 * PEOPLE * IMAGES  # a thousand pairs of strangers, for a threshold at FAR 1e-3
    write_records(folder / "data" / "demo_test" / "train", people, IMAGES)
    pairs = [
        f"{k},{(k + by) % images},{same},{k % 2}\n"
        for k in range(images)
        for by, same in ((people, 1), (people + 2, 0))
    ]
    (folder / "data" / "demo_test" / "pairs.csv").unlink()
    (folder / "data" / "demo_test" / "pairs.csv").write_text("key_1,key_2,same,fold\n" + "".join(pairs))
    lfw = folder / "data" / "lfw"
    for name in ("test", "distractors"):
        for ending in (".rec", ".idx"):
            os.link(lfw / f"train{ending}", lfw / f"{name}{ending}")
    os.link(lfw / "pairs.csv", lfw / "test_pairs.csv")
    shutil.rmtree(first)


def drawn(fold: int) -> list[tuple[int, int]]:
    """Six pairs of one person and six of two; three people in each fold."""
    own = [fold, fold + 2, fold + 4]
    return [(p, p + PEOPLE * k) for p in own for k in (1, 2)] + [
        (a, b + PEOPLE * k) for k in (1, 2) for a, b in zip(own, own[1:] + own[:1], strict=True)
    ]


def faces(folder: Path) -> list[bytes]:
    """The encoded pictures of the records, in order."""
    with contextlib.closing(RecordReader(folder / "data" / "mine" / "train")) as reader:
        return [unpack(reader.read(key))[1] for key in range(PEOPLE * IMAGES)]


def pictures(folder: Path) -> None:
    """Aligned faces in folders by person, raw photos with lists of points, single pictures, detectors of constants."""
    jpegs = faces(folder)
    for name in PICTURES:
        for key, jpeg in enumerate(jpegs[:12]):
            path = folder / name / f"person_{key % PEOPLE}" / f"{key}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg)
    for name, key in (("a.jpg", 0), ("b.jpg", 6), ("c.jpg", 1), ("face.jpg", 0), ("probe.jpg", 6)):
        (folder / name).write_bytes(jpegs[key])
    points = TEMPLATE * 2 + 20
    lines = []
    for name in PHOTOS:
        for key in range(12):
            photo = np.full((320, 320, 3), 90, np.uint8)
            face = cv2.imdecode(np.frombuffer(jpegs[key], np.uint8), cv2.IMREAD_COLOR)
            photo[20:244, 20:244] = cv2.resize(face, (224, 224))
            path = folder / name / f"person_{key % PEOPLE}" / f"{key}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(cv2.imencode(".jpg", photo)[1].tobytes())
            if name == "photos":
                lines.append((f"person_{key % PEOPLE}/{key}.jpg", points))
    numbers = " ".join(f"{value:.2f}" for value in points.ravel())
    (folder / "points.csv").write_text("".join(f"{name},{numbers.replace(' ', ',')}\n" for name, _ in lines))
    in_json = str([[round(float(x), 2), round(float(y), 2)] for x, y in points])
    (folder / "points.jsonl").write_text("".join(f'{{"name": "{n}", "points": {in_json}}}\n' for n, _ in lines))
    (folder / "wanted.txt").write_text("".join(f"{name}\n" for name, _ in lines[:4]))
    for name in DETECTORS:
        (folder / name).mkdir(exist_ok=True)
        scrfd(folder / name / "det_10g.onnx", TEMPLATE * (40 / 112) + 12)


def weights(folder: Path) -> None:
    """The two tiny networks under the names of files to start from."""
    card = {"backbone": "tiny_of_tests", "arguments": {}, "licence": "none"}
    tiny = folder / "weights" / "tiny.safetensors"
    write_weights(tiny, Tiny().state_dict(), card)
    write_weights(
        folder / "weights" / "tiny_vit.safetensors", TinyViT().state_dict(), {"backbone": "tiny_vit_of_tests"}
    )
    for name in ("pretrain_vit", "pretrain_swin"):
        path = folder / "runs" / name / "model" / "adapter.safetensors"
        path.parent.mkdir(parents=True)
        shutil.copy(folder / "weights" / "tiny_vit.safetensors", path)
    for name in CHECKPOINTS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_weights((folder / name).with_suffix(".safetensors"), Tiny().state_dict(), card)
        if not name.endswith(".safetensors"):
            shutil.move((folder / name).with_suffix(".safetensors"), folder / name)
    shutil.copytree(folder / "weights", folder / "data" / "weights")
    shutil.copy(tiny, folder / "data" / "weights" / "mobilefacenet_y1-0000.params")  # stands there, is never read
    write_set(folder / "arcface_out", PEOPLE, 2)


def name_runs(folder: Path) -> None:
    """The finished run runs/demo under the other names, too, the recipe that RECIPE stands for, the quick start's."""
    for name in RUNS:
        shutil.copytree(folder / "runs" / "demo", folder / name, ignore=shutil.ignore_patterns("onnx"))
    shutil.copy(folder / "configs" / "demo.py", folder / "RECIPE")
    quick_start = "docs/quick_start.md"
    (folder / "my_faces.py").write_text(python_of((ROOT / quick_start).read_text(), quick_start)[0].text)


def foreign(folder: Path) -> None:
    """Configs, a launch script and weights of other programs, and pictures in other forms."""
    (folder / "arcface_config.py").write_text(sources.ARCFACE.replace("/data/faces", "data/mine"))
    for name in ("lfw.bin", "agedb_30.bin"):
        shutil.copy(folder / "lfw.bin", folder / "data" / "mine" / name)
    (folder / "train_iqa.sh").write_text(sources.petalface(rest=f"{sources.LORA} --iqa cnniqa --threshold 0.5"))
    for name, stage, start in (("facemoe_fc", "fc", "base"), ("facemoe_full", "full", "tiny_fc")):
        (folder / f"{name}.py").write_text(sources.FACEMOE.format(stage=stage, start=start))
    network = BACKBONES.create("mobilefacenet_nano", embedding_size=32).state_dict()  # stands in for larger ones
    for name in FOREIGN:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save(network, folder / name)
    paths = sorted(path.relative_to(folder / "FOLDER") for path in (folder / "FOLDER").rglob("*.jpg"))
    (folder / "faces.txt").write_text("".join(f"{path}\t{path.parts[0]}\n" for path in paths))
    entries = [(str(path).encode(), (folder / "FOLDER" / path).read_bytes()) for path in paths]
    write_lmdb(folder / "faces.lmdb", entries, subdir=True)


def benchmarks(folder: Path) -> None:
    """TinyFace, SCface, IJB-C's loose crops and an InsightFace .bin of a few pictures each."""
    jpegs = faces(folder)
    testing = folder / "TinyFace" / "Testing_Set"
    kinds = {"Probe": [0, 1, 2], "Gallery_Match": [6, 7, 8], "Gallery_Distractor": [3, 4, 5]}
    for kind, keys in kinds.items():
        for key in keys:
            retrieving.write(testing / kind, [f"{key % PEOPLE + 1}_{key}.jpg"], jpegs[key])
    for kind, key, folder_of in (("probe", "probe", "Probe"), ("gallery_match", "gallery", "Gallery_Match")):
        names = [f"{k % PEOPLE + 1}_{k}.jpg" for k in kinds[folder_of]]
        ids = np.array([[k % PEOPLE + 1] for k in kinds[folder_of]], np.uint16)
        path = testing / f"{kind}_img_ID_pairs.mat"
        savemat(path, {f"{key}_set": retrieving.cells(names), f"{key}_ids": ids})
    for person in (1, 2):
        retrieving.write(folder / "SCface", [f"mugshot_frontal_cropped_all/{person:03d}_frontal.jpg"], jpegs[person])
        probes = [f"{person:03d}_cam{camera}_{distance}.jpg" for camera in range(1, 8) for distance in (1, 2, 3)]
        retrieving.write(folder / "SCface" / "surveillance_cameras_all", probes, jpegs[person + PEOPLE])
    crops = folder / "IJBC" / "loose_crop"
    retrieving.write(crops, ["1.jpg", "2.jpg"], (folder / "photos" / "person_0" / "0.jpg").read_bytes())
    numbers = " ".join(f"{value:.2f}" for value in (TEMPLATE * 2 + 20).ravel())
    (folder / "IJBC" / "meta").mkdir()
    points = "".join(f"{n}.jpg {numbers} 0.9\n" for n in (1, 2))
    (folder / "IJBC" / "meta" / "ijbc_name_5pts_score.txt").write_text(points)
    same = np.arange(20) % 2 == 0
    first = np.arange(20) // 2
    write_bin(folder / "lfw.bin", PairSet("lfw", jpegs[:16], first, np.where(same, first + PEOPLE, first + 1), same))


def copied(template: Path, folder: Path) -> Path:
    """The workspace for one command: data are linked, since nothing writes into a file of them; the rest is copied."""

    def copy(source: str, target: str) -> None:
        (os.link if "/data/" in source or "/photos/" in source else shutil.copyfile)(source, target)

    shutil.copytree(template, folder, symlinks=True, copy_function=copy)
    return folder
