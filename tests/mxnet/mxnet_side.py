"""Run in the environment that has mxnet: `write FOLDER` makes files, `read FOLDER` checks ours against the cases."""

import json
import sys
from pathlib import Path

import mxnet as mx
import numpy as np
from cases import images, payloads


def write(folder):
    book = mx.recordio.MXIndexedRecordIO(f"{folder}/raw.idx", f"{folder}/raw.rec", "w")
    for key, payload in payloads():
        book.write_idx(key, payload)
    book.close()
    book = mx.recordio.MXIndexedRecordIO(f"{folder}/image.idx", f"{folder}/image.rec", "w")
    for key, label, identifier, second, payload in images():
        book.write_idx(key, mx.recordio.pack(mx.recordio.IRHeader(0, label, identifier, second), payload))
    book.close()
    # pack_img: pictures through mxnet's own encoder, in InsightFace's layout
    book = mx.recordio.MXIndexedRecordIO(f"{folder}/face.idx", f"{folder}/face.rec", "w")
    draw, count, means = np.random.default_rng(0), 30, {}
    book.write_idx(0, mx.recordio.pack(mx.recordio.IRHeader(2, [count + 1, count + 4], 0, 0), b""))
    for key in range(1, count + 1):
        picture = np.kron(draw.integers(0, 255, (7, 7, 3), dtype=np.uint8), np.ones((16, 16, 1), np.uint8))
        form, quality = (".png", 3) if key % 5 == 0 else (".jpg", 90)
        header = mx.recordio.IRHeader(0, float((key - 1) // 10), key, 0)
        record = mx.recordio.pack_img(header, picture, quality=quality, img_fmt=form)
        book.write_idx(key, record)
        _, decoded = mx.recordio.unpack_img(record)
        means[key] = decoded.reshape(-1, 3).mean(0).tolist()
    for person in range(3):
        header = mx.recordio.IRHeader(2, [person * 10 + 1, person * 10 + 11], count + 1 + person, 0)
        book.write_idx(count + 1 + person, mx.recordio.pack(header, b""))
    book.close()
    Path(folder, "means.json").write_text(json.dumps(means))


def read(folder):
    """Number of records that mxnet reads from our files as the cases say; exits on the first that differs."""
    checked = 0
    book = mx.recordio.MXIndexedRecordIO(f"{folder}/raw.idx", f"{folder}/raw.rec", "r")
    assert book.keys == [key for key, _ in payloads()], "raw: other keys"
    for key, payload in payloads():
        assert book.read_idx(key) == payload, f"raw: key {key} differs"
        checked += 1
    book.close()
    book = mx.recordio.MXRecordIO(f"{folder}/raw.rec", "r")  # the same file in sequence, without the index
    for key, payload in payloads():
        assert book.read() == payload, f"raw in sequence: record {key} differs"
        checked += 1
    assert book.read() is None, "raw in sequence: more records than written"
    book.close()
    book = mx.recordio.MXIndexedRecordIO(f"{folder}/image.idx", f"{folder}/image.rec", "r")
    for key, label, identifier, second, payload in images():
        header, found = mx.recordio.unpack(book.read_idx(key))
        same = np.array_equal(np.float32(label), header.label)
        assert same and (header.id, header.id2) == (identifier, second) and found == payload, (
            f"image: key {key} differs"
        )
        checked += 1
    book.close()
    book = mx.recordio.MXIndexedRecordIO(f"{folder}/face.idx", f"{folder}/face.rec", "r")
    means = json.loads(Path(folder, "means.json").read_text())
    for key, mean in means.items():
        _, picture = mx.recordio.unpack_img(book.read_idx(int(key)))
        assert np.allclose(picture.reshape(-1, 3).mean(0), mean), f"face: key {key} differs"
        checked += 1
    return checked


if __name__ == "__main__":
    task, folder = sys.argv[1:]
    if task == "write":
        write(folder)
    else:
        print(read(folder))
