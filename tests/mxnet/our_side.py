"""Run in the project's environment: reads FROM as mxnet wrote it, and writes the same records to TO."""

import filecmp
import json
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
from cases import images, payloads

from recognition.data.recordio import Header, RecordReader, RecordWriter, pack, unpack
from recognition.data.records import Records


def check_raw(source: Path, target: Path) -> int:
    cases = payloads()
    with RecordReader(source / "raw") as reader, RecordWriter(target / "raw") as writer:
        assert reader.keys.tolist() == [key for key, _ in cases], "raw: other keys"
        for key, payload in cases:
            assert reader.read(key) == payload, f"raw: key {key} differs"
            writer.write(key, payload)
    return len(cases)


def check_images(source: Path, target: Path) -> int:
    cases = images()
    with RecordReader(source / "image") as reader, RecordWriter(target / "image") as writer:
        for key, label, identifier, second, payload in cases:
            record = reader.read(key)
            header, found = unpack(record)
            same = np.array_equal(np.float32(label), header.label)
            assert same and (header.id, header.id2) == (identifier, second), f"image: header of key {key} differs"
            assert found == payload, f"image: payload of key {key} differs"
            ours = pack(Header(0, label, identifier, second), payload)
            assert ours == record, f"image: pack of key {key} differs"
            writer.write(key, ours)
    return len(cases)


def check_faces(source: Path, target: Path) -> int:
    records = Records(source / "face")
    means = json.loads((source / "means.json").read_text())
    assert records.counts == {"image": 30, "header": 1, "identity": 3, "empty": 0}, f"face: {records.counts}"
    assert records.labels.tolist() == [i // 10 for i in range(30)], "face: other labels"
    for i in range(len(records)):
        picture = cv2.imdecode(np.frombuffer(records.read(i), np.uint8), cv2.IMREAD_COLOR)
        # The two sides' decoders may round differently by 1 of 255.
        assert np.allclose(picture.reshape(-1, 3).mean(0), means[str(records.key[i])], atol=0.5), f"face {i} differs"
    with RecordReader(source / "face") as reader, RecordWriter(target / "face") as writer:
        for key in reader.keys.tolist():
            writer.write(key, reader.read(key))
    shutil.copy(source / "means.json", target)
    return len(records)


def main() -> None:
    source, target = map(Path, sys.argv[1:])
    checked = check_raw(source, target) + check_images(source, target) + check_faces(source, target)
    for name in ("raw", "image", "face"):
        for ending in (".rec", ".idx"):
            same = filecmp.cmp(source / (name + ending), target / (name + ending), shallow=False)
            assert same, f"{name}{ending}: our bytes differ from mxnet's"
    (source / (name := "raw.idx")).rename(source / "lost.idx")
    rebuilt = RecordReader(source / "raw")
    indexed = RecordReader(target / "raw")
    assert rebuilt.index_rebuilt and np.array_equal(rebuilt.offsets, indexed.offsets), f"{name}: rebuilt differently"
    print(checked)


if __name__ == "__main__":
    main()
