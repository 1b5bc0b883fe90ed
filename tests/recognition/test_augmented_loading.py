"""Augmentations in the loaders and in recipes: the same pictures from both, settings that arrive, wrong ones told."""

import importlib.util
import itertools
from contextlib import closing

import cv2
import numpy as np
import pytest
import torch

from recognition.config import BASE, load
from recognition.data.augmentations.sequence import Augmentations
from recognition.data.dali_loader import DaliLoader
from recognition.data.order import SampleOrder
from recognition.data.recordio import Header, RecordWriter, pack
from recognition.data.records import Records
from recognition.data.torch_loader import TorchLoader
from recognition.distributed import World
from recognition.inputs import build_loader
from tests.small import photos

needs_dali = pytest.mark.skipif(importlib.util.find_spec("nvidia.dali") is None, reason="nvidia.dali is not installed")


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> Records:
    path = tmp_path_factory.mktemp("records") / "x"
    with RecordWriter(path) as writer:
        for number, face in enumerate(photos(12)):
            image = cv2.imencode(".jpg", face)[1].tobytes()
            writer.write(number, pack(Header(flag=0, label=float(number % 3), id=number, id2=0), image))
    return Records(path)


def test_all_loaders_give_the_same_pictures(records):
    """Stored scores of what was augmented are named stale; landmarks stay where they are but for the mirror."""
    points = np.random.default_rng(0).uniform(0, 111, (12, 5, 2)).astype(np.float32)
    order, chain = SampleOrder(12, 5, 8), Augmentations(["adaface", "arcface_torch"])
    options = {
        "augmentations": chain,
        "seed": 5,
        "device": torch.device("cpu"),
        "fields": ("twin", "level"),
        "per_image": {"landmarks": points, "score": np.zeros(12, np.float32)},
    }
    loaders = [TorchLoader(records, order, None, workers=0, **options), TorchLoader(records, order, None, **options)]
    if importlib.util.find_spec("nvidia.dali") is not None:
        loaders.append(DaliLoader(records, order, None, **options))
    taken = []
    for loader in loaders:
        with closing(loader.batches()) as batches:
            taken.append([*itertools.islice(batches, 3)])
    plain = TorchLoader(records, order, None, **options | {"workers": 0, "augmentations": None})
    with closing(plain.batches()) as batches:
        stored = [*itertools.islice(batches, 3)]
    for first, *others, as_stored in zip(*taken, stored, strict=True):
        for other in others:
            for field in ("image", "twin", "level", "landmarks", "unscored"):
                assert torch.equal(getattr(first, field), getattr(other, field)), field
        assert torch.equal(first.landmarks, as_stored.landmarks)
        changed = (first.image != as_stored.image).flatten(1).any(1).nonzero().flatten().tolist()
        assert changed and set(changed) <= set(first.unscored.tolist()) and len(first.unscored) < 8


def test_settings_reach_the_loader(records, tmp_path):
    (tmp_path / "x.py").write_text(
        f"from easydict import EasyDict as edict\nconfig = edict(data=edict(records=[{str(records.shards[0])!r}]))\n"
    )
    overrides = ["data.loader=torch", "data.workers=0", "adapter.name=full"]
    world = World(0, 0, 1, torch.device("cpu"))

    def built(*more: str) -> Augmentations:
        config = load(tmp_path / "x.py", [*overrides, *more])
        return build_loader(config, records, SampleOrder(12, 0, 4), world).augmentations

    assert not built()
    assert len(built("data.augment=adaface")) == 3
    (member,) = built("data.augment=[{'name': 'hsv', 'probability': 1, 'hue': [5, 6]}]").members
    assert member.hue == (5, 6) and member.probability == 1
    assert "config.data.augment = []" in BASE.read_text()


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (["croop"], r"unknown augmentation 'croop'; did you mean 'crop'\? \(have: adaface, arcface_torch, blur, crop"),
        ([{"probability": 1}], "no name; write a dict"),
        ([3], "3 has no name"),
        ([{"name": "adaface", "probability": 0.5}], "stands for crop, low_res, photometric as published"),
        ([{"name": "crop", "share": 0.5}], "'crop': .*'share'; it takes"),
        ([{"name": "crop", "probability": 1.5}], r"'crop': probability is 1.5; it must be in \[0, 1\]"),
        ([{"name": "gray", "probability": "often"}], "probability is 'often'"),
        ([{"name": "crop", "area": [0.5, 2]}], r"area is \[0.5, 2\]; it must be smallest, largest within 0.001 .. 1"),
        ([{"name": "crop", "ratio": 1}], "ratio is 1; it must be two numbers"),
        ([{"name": "low_res", "factor": [0.9, 0.2]}], "factor"),
        ([{"name": "resize", "factor": [0, 0.2]}], "factor"),
        ([{"name": "photometric", "contrast": [-1, 1]}], "contrast"),
        ([{"name": "hsv", "hue": [0, 181]}], "hue"),
        ([{"name": "hsv", "saturation": "high"}], "saturation"),
        ([{"name": "blur", "windows": [4]}], "windows is .*odd sides"),
        ([{"name": "blur", "windows": []}], "windows is"),
    ],
)
def test_wrong_words_are_named(chosen, said):
    with pytest.raises(ValueError, match=said):
        Augmentations(chosen)
