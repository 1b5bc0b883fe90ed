import importlib.util
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from recognition.data.augment import flips
from recognition.data.dali_loader import DaliLoader
from recognition.data.decode import decode
from recognition.data.degrade import Degradation
from recognition.data.encoded import plain_jpeg_size
from recognition.data.order import SampleOrder
from recognition.data.recordio import Header, RecordWriter, pack
from recognition.data.records import Records
from recognition.data.torch_loader import TorchLoader
from recognition.types import Batch

needs_dali = pytest.mark.skipif(
    importlib.util.find_spec("nvidia.dali") is None, reason="nvidia.dali is not installed: pip install -e '.[dali]'"
)
LOADERS = [
    pytest.param(TorchLoader, 0, id="torch, in process"),
    pytest.param(TorchLoader, 1, id="torch, 1 worker"),
    pytest.param(TorchLoader, 2, id="torch, 2 workers"),
    pytest.param(DaliLoader, 1, id="dali, 1 thread", marks=needs_dali),
    pytest.param(DaliLoader, 2, id="dali, 2 threads", marks=needs_dali),
]
ONE_OF_EACH = [LOADERS[0], LOADERS[1], LOADERS[3]]
IMAGES, CLASSES, SEED = 23, 4, 5


def picture(number: int, side: int = 112) -> np.ndarray:
    """Smooth colours that differ from picture to picture, and from left to right."""
    coarse = np.random.default_rng(number).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)


def encoded(number: int, side: int = 112, suffix: str = ".jpg") -> bytes:
    return cv2.imencode(suffix, picture(number, side))[1].tobytes()


def write(path: Path, images: list[bytes], first_key: int = 0) -> Path:
    with RecordWriter(path) as writer:
        for number, image in enumerate(images):
            key = first_key + number
            writer.write(key, pack(Header(flag=0, label=float(number % CLASSES), id=key, id2=0), image))
    return path


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> Records:
    """Two shards; keys of the second start at 100."""
    folder = tmp_path_factory.mktemp("records")
    images = [encoded(number) for number in range(IMAGES)]
    return Records(
        [write(folder / "a", images[:10]), write(folder / "b", images[10:], first_key=100)], classes="shared"
    )


def take(loader, steps: int, first_step: int = 0) -> list[Batch]:
    with closing(loader.batches(first_step)) as batches:
        return list(itertools.islice(batches, steps))


def make(kind, records, order, workers=0, degradation=None, **options):
    return kind(records, order, degradation, workers=workers, device=torch.device("cpu"), **options)


def expected(records: Records, order: SampleOrder, step: int, flip: bool) -> Batch:
    """The batch by the words of the contract: permutation, OpenCV, mirror, x / 127.5 - 1."""
    positions = order.positions(step)
    rows = order.indices(positions)
    images = [
        cv2.cvtColor(cv2.imdecode(np.frombuffer(records.read(row), np.uint8), 1), cv2.COLOR_BGR2RGB) for row in rows
    ]
    mirrored = flips(SEED, positions) & flip
    images = np.stack([image[:, ::-1] if mirror else image for image, mirror in zip(images, mirrored, strict=True)])
    numbers = [(0, row) if row < 10 else (1, 100 + row - 10) for row in rows]
    return Batch(
        image=torch.from_numpy((images.transpose(0, 3, 1, 2) / 127.5 - 1).astype(np.float32)),
        label=torch.tensor([(row if row < 10 else row - 10) % CLASSES for row in rows]),
        key=torch.tensor(numbers),
    )


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize(("kind", "workers"), LOADERS)
def test_batches_are_the_contracts(records, kind, workers, world_size):
    for rank in range(world_size):
        order = SampleOrder(IMAGES, SEED, 7, rank, world_size)  # 7 on 2 processes: shares of 4 and 3
        for step, batch in enumerate(take(make(kind, records, order, workers, seed=SEED), 5)):
            wanted = expected(records, order, step, flip=True)
            assert len(batch) == order.counts()[rank]
            assert batch.image.dtype == torch.float32 and batch.image.is_contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(batch.image, wanted.image, rtol=0, atol=1e-6)
            assert torch.equal(batch.label, wanted.label) and batch.label.dtype == torch.int64
            assert torch.equal(batch.key, wanted.key) and batch.key.dtype == torch.int64
            assert batch.twin is None and batch.level is None and batch.score is None


@pytest.mark.parametrize(("kind", "workers"), LOADERS)
def test_start_at_a_step_is_skipping(records, kind, workers):
    order = SampleOrder(IMAGES, SEED, 5)
    loader = make(kind, records, order, workers, Degradation(noise=3.0), seed=SEED)
    whole, later = take(loader, 7), take(loader, 3, first_step=4)
    for one, two in zip(whole[4:], later, strict=True):
        assert torch.equal(one.image, two.image) and torch.equal(one.key, two.key)


@pytest.mark.parametrize(("kind", "workers"), LOADERS[1:])
def test_degradations_and_fields_are_alike(records, kind, workers):
    order = SampleOrder(IMAGES, SEED, 6)
    options = {"degradation": Degradation(share=0.7, blur=1.0), "seed": SEED, "fields": ("twin", "level")}
    reference = take(make(TorchLoader, records, order, 0, **options), 4)
    for one, two in zip(reference, take(make(kind, records, order, workers, **options), 4), strict=True):
        assert torch.equal(one.image, two.image) and torch.equal(one.twin, two.twin)
        assert torch.equal(one.level, two.level)
    assert 0 < np.mean([(batch.level > 0).float().mean() for batch in reference]) < 1
    clean = take(make(TorchLoader, records, order, 0, seed=SEED), 4)
    for one, two in zip(reference, clean, strict=True):
        assert torch.equal(one.twin, two.image)
        untouched = one.level == 0
        assert torch.equal(one.image[untouched], two.image[untouched])
        assert (one.image[~untouched] != two.image[~untouched]).flatten(1).any(1).all()


@pytest.mark.parametrize(("kind", "workers"), ONE_OF_EACH)
def test_flips(records, kind, workers):
    order = SampleOrder(IMAGES, SEED, IMAGES)
    (plain,), (mirrored,) = (
        take(make(kind, records, order, workers, seed=SEED, flip=flip), 1) for flip in (False, True)
    )
    rows = torch.from_numpy(flips(SEED, order.positions(0)))
    assert 0 < rows.sum() < IMAGES
    assert torch.equal(mirrored.image[rows], plain.image[rows].flip(3))
    assert torch.equal(mirrored.image[~rows], plain.image[~rows])


@pytest.mark.parametrize(("kind", "workers"), LOADERS)
@pytest.mark.parametrize("damage", ["cut", "no end", "empty header", "no image"])
def test_unreadable_record_is_named_at_its_step(tmp_path, kind, workers, damage):
    images = [encoded(number) for number in range(8)]
    whole = images[5]
    tables = whole.index(b"\xff\xc4") + 5  # counts of the Huffman codes: markers stay whole, decoding is impossible
    images[5] = {
        "cut": whole[: len(whole) // 3],
        "no end": whole[:-2],
        "empty header": whole[:tables] + b"\xff" + whole[tables + 1 :],
        "no image": b"these are words",
    }[damage]
    records = Records(write(tmp_path / "x", images, first_key=40))
    order = SampleOrder(8, SEED, 2)
    step = next(step for step in range(4) if 5 in order.indices(order.positions(step)))
    with closing(make(kind, records, order, workers).batches()) as batches:
        assert len(list(itertools.islice(batches, step))) == step
        with pytest.raises(ValueError, match=r"x\.rec, key 45\b.*do not decode as an image") as raised:
            next(batches)
    assert "Traceback" not in str(raised.value)
    assert not multiprocessing.active_children()


@needs_dali
def test_other_sizes_and_formats(tmp_path):
    """0/255 where the size is image_size or DALI does not decode, 1/255 where it resizes."""
    rotated = cv2.imencode(".jpg", picture(4))[1].tobytes()
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # orientation 6: a quarter turn
    rotated = rotated[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + rotated[2:]
    grey = cv2.imencode(".jpg", cv2.cvtColor(picture(5), cv2.COLOR_BGR2GRAY))[1].tobytes()
    progressive = cv2.imencode(".jpg", picture(6), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    images = [encoded(0), encoded(1, suffix=".png"), encoded(2, side=160), encoded(3, side=90), rotated, grey]
    images += [progressive, encoded(7) + b"after the end", encoded(8, side=90, suffix=".png")]
    assert [plain_jpeg_size(image) is None for image in images] == [
        False,
        True,
        False,
        False,
        True,
        False,
        False,
        False,
        True,
    ]
    records = Records(write(tmp_path / "x", images))
    order = SampleOrder(len(images), SEED, len(images))
    (one,), (two,) = (take(make(kind, records, order, 1), 1) for kind in (TorchLoader, DaliLoader))
    assert torch.equal(one.key, two.key)
    difference = ((one.image - two.image) * 127.5).abs().amax((1, 2, 3)).round()
    resized = torch.isin(one.key[:, 1], torch.tensor([2, 3]))
    assert (difference[~resized] == 0).all() and (difference[resized] <= 1).all()
    upright = decode(encoded(4), 112, "")
    (row,) = torch.nonzero(one.key[:, 1] == 4)[0]
    turned = decode(rotated, 112, "").astype(int)
    assert np.abs(turned - np.rot90(upright, -1)).max() == 0, "the turn of this test's EXIF is not seen"
    assert flips(0, order.positions(0))[row] or np.allclose((one.image[row] + 1) * 127.5, turned.transpose(2, 0, 1))


@needs_dali
def test_dalis_memory_is_not_written_while_in_use(records):
    order = SampleOrder(IMAGES, SEED, 4)
    loader = make(DaliLoader, records, order, 1, seed=SEED, flip=False)
    with closing(loader.batches()) as batches:
        kept = list(itertools.islice(batches, 12))
    for step, batch in enumerate(kept):
        torch.testing.assert_close(batch.image, expected(records, order, step, False).image, rtol=0, atol=1e-6)


@needs_dali
def test_torch_workers_beside_and_after_dali(records):
    """A process forked while DALI runs, or before its garbage is collected, must not hang."""
    order = SampleOrder(IMAGES, SEED, 4)
    with closing(make(DaliLoader, records, order, 1).batches()) as running:
        next(running)
        assert len(take(make(TorchLoader, records, order, 2), 3)) == 3
        next(running)
    assert len(take(make(TorchLoader, records, order, 2), 3)) == 3


def test_missing_dali_tells_how_to_install_it(records, monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(ImportError, match=r"pip install -e '\.\[dali\]'"):
        make(DaliLoader, records, SampleOrder(IMAGES, 0, 4))


def test_unknown_field(records):
    with pytest.raises(ValueError, match="no batch field 'twins'; did you mean 'twin'"):
        make(TorchLoader, records, SampleOrder(IMAGES, 0, 4), fields=("twins",))


@pytest.mark.parametrize(("kind", "workers"), ONE_OF_EACH)
def test_what_is_known_of_each_image_comes_with_it(records, kind, workers):
    """Landmarks are mirrored with their image; degraded images are named, as their stored score is not theirs."""
    points = np.random.default_rng(0).uniform(0, 111, (IMAGES, 5, 2)).astype(np.float32)
    score, order = np.arange(IMAGES, dtype=np.float32), SampleOrder(IMAGES, SEED, 6)
    degradation = Degradation(share=0.5)
    options = {"seed": SEED, "fields": ("level",), "per_image": {"landmarks": points, "score": score}}
    mirrored_ones = 0
    for step, batch in enumerate(take(make(kind, records, order, workers, degradation, **options), 3)):
        positions = order.positions(step)
        rows = order.indices(positions)
        assert batch.score.tolist() == score[rows].tolist() and batch.score.dtype == torch.float32
        wanted = np.flatnonzero(degradation.draw(SEED, positions).side)
        assert batch.unscored.tolist() == wanted.tolist() == (batch.level > 0).nonzero().flatten().tolist()
        for found, row, mirror in zip(batch.landmarks.numpy(), rows, flips(SEED, positions), strict=True):
            left, right, nose, mouth, other = points[row]
            face = np.stack([right, left, nose, other, mouth]) * (-1, 1) + (111, 0) if mirror else points[row]
            np.testing.assert_allclose(found, face, rtol=1e-6)
            mirrored_ones += mirror
    assert 0 < mirrored_ones < 18


def test_blur_alone_makes_a_stored_score_stale(records):
    order, known = SampleOrder(IMAGES, SEED, 6), {"score": np.zeros(IMAGES, np.float32)}
    (batch,) = take(make(TorchLoader, records, order, 0, Degradation(1.0, (112, 112), blur=2.0), per_image=known), 1)
    assert batch.unscored.tolist() == [0, 1, 2, 3, 4, 5]


def test_what_is_not_known_of_each_image(records):
    order = SampleOrder(IMAGES, 0, 4)
    with pytest.raises(ValueError, match="no 'scores' for each image; did you mean 'score'"):
        make(TorchLoader, records, order, per_image={"scores": np.zeros(IMAGES)})
    with pytest.raises(ValueError, match=f"22 rows of 'score' for {IMAGES} records"):
        make(TorchLoader, records, order, per_image={"score": np.zeros(IMAGES - 1)})


def test_global_generator_stays_where_it_is(records):
    before = torch.get_rng_state()
    take(make(TorchLoader, records, SampleOrder(IMAGES, 0, 4), 1), 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_workers_end_with_the_iterator_and_keep_out_of_the_process_group(records):
    batches = make(TorchLoader, records, SampleOrder(IMAGES, 0, 4), 2).batches()
    next(batches)
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    for _ in range(200):  # the second worker may only just be starting
        if own := all(os.getpgid(worker.pid) == worker.pid for worker in workers):
            break
        time.sleep(0.1)
    assert own
    batches.close()
    assert not multiprocessing.active_children()


SCRIPT = """
    import multiprocessing, os, signal, sys, time
    import torch
    from recognition.data.dali_loader import DaliLoader
    from recognition.data.order import SampleOrder
    from recognition.data.records import Records
    from recognition.data.torch_loader import TorchLoader

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit it as ignored
    records = Records(sys.argv[1])
    kind = DaliLoader if sys.argv[2] == "dali" else TorchLoader
    batches = kind(records, SampleOrder(len(records), 0, 4), None, workers=2, device=torch.device("cpu")).batches()
    for step, batch in enumerate(batches):
        if step == 3:
            print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
        if sys.argv[3] == "leave" and step == 5:
            sys.exit(0)  # with the iterator open
"""


def start(tmp_path: Path, kind: str, end: str) -> subprocess.Popen:
    write(tmp_path / "x", [encoded(number) for number in range(8)])
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path / "x"), kind, end]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def is_gone(pid: int, seconds: float) -> bool:
    for _ in range(int(seconds * 10)):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":  # dead, and not yet reaped by whoever inherited it
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["torch", pytest.param("dali", marks=needs_dali)])
@pytest.mark.parametrize(
    ("end", "code"), [("leave", 0), (signal.SIGINT, -signal.SIGINT), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_no_process_is_left_behind(tmp_path, kind, end, code):
    process = start(tmp_path, kind, str(end))
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == (2 if kind == "torch" else 0)
    if end != "leave":
        os.killpg(process.pid, end)  # as a terminal or torchrun does: the whole group at once
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code, errors
    assert "killed by signal" not in errors and "Exception ignored" not in errors, errors
    if end == signal.SIGINT:  # a worker may add a line about the broken handshake of a tensor's file descriptor
        assert errors.rstrip().endswith("KeyboardInterrupt"), errors
    elif end == signal.SIGKILL:  # and may, in the moment that it outlives the main process, about the same handshake
        told = errors.split("Traceback (most recent call last):")
        assert all("resource_sharer.py" in one and one.rstrip().endswith("reset by peer") for one in told[1:]), errors
    else:
        assert "Traceback" not in errors, errors
    assert all(is_gone(worker, 20) for worker in workers)


@needs_dali
@pytest.mark.gpu
def test_mixed_decoder_on_the_gpu(records):
    order = SampleOrder(IMAGES, SEED, 7)
    here = torch.device("cuda", 0)
    degradation = Degradation(share=0.5)
    worst, means = 0.0, []
    for options in ({}, {"degradation": degradation}):
        one = take(TorchLoader(records, order, options.get("degradation"), device=here, seed=SEED), 4)
        two = take(DaliLoader(records, order, options.get("degradation"), device=here, seed=SEED), 4)
        for a, b in zip(one, two, strict=True):
            assert a.image.device == b.image.device == here
            assert torch.equal(a.key, b.key) and torch.equal(a.label, b.label)
            difference = ((a.image - b.image) * 127.5).abs()
            worst, means = max(worst, difference.max().item()), [*means, difference.mean().item()]
    print(f"GPU against OpenCV: at most {worst:.0f}/255, mean {np.mean(means):.3f}/255")
    assert np.mean(means) < 1 and worst < 16
