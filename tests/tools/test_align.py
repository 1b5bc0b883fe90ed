"""tools/align.py: what it writes from raw pictures, who can read it, and what it refuses."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from recognition import aligning
from recognition.data import aligner, detection
from recognition.data.alignment import TEMPLATE, moved
from recognition.data.detection import Faces
from recognition.data.landmarks import read_landmarks
from recognition.data.named import NamedImages
from recognition.data.recordio import RecordReader
from recognition.data.records import Records
from recognition.data.synthetic import SyntheticFaces
from tests.recognition.test_alignment import painted, similarity
from tools import align as door

ROOT = Path(__file__).parents[2]
WRITTEN = ["aligned.idx", "aligned.landmarks.npz", "aligned.rec", "classes.txt", "manifest.jsonl", "property"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Faces placed at random in photos, raw/PERSON/NUMBER.png; points.txt says where, faces.npz holds the faces."""
    folder, rng, lines, faces = tmp_path_factory.mktemp("raw"), np.random.default_rng(0), [], {}
    people = SyntheticFaces(3, 1)
    for number in range(6):
        name = f"{('zoe', 'ann', 'bob smith')[number % 3]}/{number}.png"
        matrix = similarity(rng.uniform(1.2, 2.0), rng.uniform(-0.6, 0.6), 170, 160)
        faces[name], photo = painted(matrix, 320, 340, number % len(people))
        path = folder / "raw" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), photo)
        lines.append(f"{name} {' '.join(f'{v:.3f}' for v in moved(TEMPLATE, matrix).ravel())} 0.{number + 1}\n")
    (folder / "points.txt").write_text("".join(lines))
    np.savez(folder / "faces.npz", **faces)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def contents_but_folders(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def manifest(folder: Path) -> tuple[dict, dict[str, dict]]:
    head, *entries = map(json.loads, (folder / "manifest.jsonl").read_text().splitlines())
    return head, {entry["name"]: entry for entry in entries}


def run(made: Path, out: Path, *options: str) -> int:
    return door.main([str(made / "raw"), str(out), "--points", str(made / "points.txt"), *options])


def test_photos_become_the_faces_that_were_placed_in_them(made, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(made, out) == 0
    said = capsys.readouterr().out
    assert "6 aligned (100.0%), 0 fallback (0.0%), 0 failed (0.0%) of 6 pictures" in said
    assert "labels from: folder (3 classes)" in said
    assert sorted(contents(out)) == WRITTEN
    faces = np.load(made / "faces.npz")
    images = NamedImages(out)
    assert images.names == sorted(faces.files) and not images.failed
    for name, encoded in zip(images.names, images, strict=True):
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
        assert np.abs(image.astype(int) - faces[name])[2:-2, 2:-2].mean() < 3, name
    assert images.rows(["zoe/0.png", "zoe/9.png"]).tolist() == [4, -1]
    records = Records(out / "aligned")
    assert (len(records), records.num_classes) == (6, 3) and records.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert (out / "classes.txt").read_text() == "0\tann\n1\tbob smith\n2\tzoe\n"
    assert (out / "property").read_text() == "3,112,112\n"
    landmarks = read_landmarks(records)
    assert landmarks.shape == (6, 5, 2) and np.abs(landmarks - TEMPLATE).max() < 0.01
    head, entries = manifest(out)
    assert (head["format"], head["records"], head["size"]) == ("lrface.align/1", "aligned.rec", 112)
    assert (head["detector"], head["fallback"]) == ("points: points.txt", "none")
    assert head["totals"] == {"pictures": 6, "aligned": 6, "fallback": 0, "failed": 0}
    assert head["settings"]["quality"] == 98 and head["versions"]["opencv"] == cv2.__version__
    assert entries["ann/1.png"]["key"] == 0 and entries["ann/1.png"]["score"] == 0.2
    assert set(entries["ann/1.png"]) == {
        "name", "key", "status", "reason", "sha256", "aligned_sha256", "points", "score", "faces"
    }  # fmt: skip


def test_the_files_are_the_same_for_any_number_of_threads(made, tmp_path, monkeypatch):
    monkeypatch.setattr(aligning, "BATCH", 4)
    assert run(made, tmp_path / "one", "--workers", "1") == run(made, tmp_path / "many", "--workers", "5") == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "many")
    points = tmp_path / "one" / "manifest.jsonl"  # what was found once aligns the same pictures in the same way
    assert run(made, tmp_path / "again", "--points", str(points)) == 0
    assert (tmp_path / "again/aligned.rec").read_bytes() == (tmp_path / "one/aligned.rec").read_bytes()


def test_what_fails_is_counted_and_listed(made, tmp_path, capsys):
    raw = tmp_path / "raw"
    for name in ("ann/1.png", "bob smith/2.png", "zoe/0.png"):
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).write_bytes((made / "raw" / name).read_bytes())
    (raw / "ann" / "broken.jpg").write_bytes(b"\xff\xd8 broken")
    (raw / "bob smith" / "2.png").unlink()
    (raw / "bob smith" / "2.jpg").write_text("words")
    cv2.imwrite(str(raw / "zoe" / "new.png"), np.zeros((50, 60, 3), np.uint8))
    (raw / "zoe" / "notes.txt").write_text("aside")
    (raw / "zoe" / "link.jpg").symlink_to(tmp_path / "gone.jpg")
    command = [str(raw), str(tmp_path / "out"), "--points", str(made / "points.txt")]
    assert door.main(command) == 1
    said = capsys.readouterr().out
    assert "2 aligned (33.3%), 0 fallback (0.0%), 4 failed (66.7%) of 6 pictures" in said
    assert "2 failed: undecodable" in said and "1 failed: points missing" in said and "1 failed: unreadable" in said
    assert "note: 1 files are no pictures by their names" in said
    assert (tmp_path / "out/failures.txt").read_text().splitlines() == [
        "ann/broken.jpg\tfailed\tundecodable: 9 bytes that are no picture, or a truncated one",
        "bob smith/2.jpg\tfailed\tundecodable: 5 bytes that are no picture, or a truncated one",
        "zoe/link.jpg\tfailed\tunreadable: No such file or directory",
        "zoe/new.png\tfailed\tpoints missing",
    ]
    failed = NamedImages(tmp_path / "out").failed
    assert list(failed) == ["ann/broken.jpg", "bob smith/2.jpg", "zoe/link.jpg", "zoe/new.png"]
    assert failed["zoe/new.png"] == "points missing" and "undecodable" in failed["ann/broken.jpg"]
    (raw / "zoe" / "link.jpg").unlink()
    assert (tmp_path / "out/classes.txt").read_text() == "0\tann\n1\tzoe\n"  # bob has no picture left
    assert Records(tmp_path / "out").num_classes == 2
    assert door.main([*command, "--fallback", "resize"]) == 2
    assert "holds aligned pictures already: give --overwrite" in capsys.readouterr().err
    assert door.main([*command, "--fallback", "resize", "--overwrite", "--png"]) == 1
    assert "2 aligned (40.0%), 1 fallback (20.0%), 2 failed (40.0%)" in capsys.readouterr().out
    images = NamedImages(tmp_path / "out")
    assert images.names == ["ann/1.png", "zoe/0.png", "zoe/new.png"] and images[2].startswith(b"\x89PNG")
    head, entries = manifest(tmp_path / "out")
    assert head["fallback"] == "resize" and entries["zoe/new.png"]["status"] == "fallback"
    assert np.abs(read_landmarks(Records(tmp_path / "out"))[-1] - TEMPLATE).max() < 1e-4
    assert run(made, tmp_path / "out", "--overwrite", "--label-from", "none") == 0
    assert sorted(contents(tmp_path / "out")) == [name for name in WRITTEN if name != "classes.txt"]


def test_hashes_tell_what_changed(made, tmp_path, capsys):
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    for number, name in enumerate(("ann/1.png", "zoe/0.png")):
        (raw / f"{number}.png").write_bytes((made / "raw" / name).read_bytes())
    line = (made / "points.txt").read_text().splitlines()[0].split()[1:]
    (tmp_path / "p.txt").write_text("".join(f"{n}.png {' '.join(line)}\n" for n in (0, 1)))
    assert door.main([str(raw), str(out), "--points", str(tmp_path / "p.txt")]) == 0
    assert "labels from: none (no labels)" in capsys.readouterr().out and not (out / "classes.txt").exists()
    assert door.main([str(raw), "--verify", str(out)]) == 0
    assert "records and raw pictures of 2 pictures, 0 differences" in capsys.readouterr().out
    reader = RecordReader(out / "aligned.rec")
    content = bytearray((out / "aligned.rec").read_bytes())
    content[int(reader.offsets[1]) + 500] ^= 1
    (out / "aligned.rec").write_bytes(content)
    (raw / "0.png").unlink()
    assert door.main(["--verify", str(out)]) == 1
    said = capsys.readouterr().out
    assert "changed: aligned.rec: has changed" in said
    assert "changed: 1.png: its aligned picture (record 1) has changed" in said and "2 differences" in said
    assert door.main([str(raw), "--verify", str(out)]) == 1
    assert f"changed: {raw / '0.png'}: is missing" in capsys.readouterr().out
    (out / "aligned.rec").write_bytes(content[:40])
    assert door.main(["--verify", str(out)]) == 1
    assert "truncated" in capsys.readouterr().out
    (out / "manifest.jsonl").write_text("[]\n")
    assert door.main(["--verify", str(out)]) == 2
    assert "is no manifest of form lrface.align/1" in capsys.readouterr().err
    assert door.main(["--verify", str(raw)]) == 2


def test_lists_with_and_without_labels(made, tmp_path):
    (tmp_path / "some.txt").write_text("zoe/0.png\tb\nann/1.png\ta\nzoe/3.png\ta\nzoe/gone.png\tb\n")
    assert run(made, tmp_path / "out", "--list", str(tmp_path / "some.txt")) == 1
    head, entries = manifest(tmp_path / "out")
    assert [entry["key"] for entry in entries.values()] == [0, 1, 2, None] and head["settings"]["labels"] == "list"
    assert list(entries) == ["ann/1.png", "zoe/3.png", "zoe/0.png", "zoe/gone.png"]
    assert entries["zoe/gone.png"]["reason"] == "unreadable: No such file or directory"
    assert Records(tmp_path / "out").labels.tolist() == [0, 0, 1]
    (made / "raw" / "list.txt").write_text("zoe/0.png\nbob smith/2.png\n")
    command = [str(made / "raw/list.txt"), str(tmp_path / "plain"), "--points", str(made / "points.txt")]
    assert door.main(command) == 0
    assert list(manifest(tmp_path / "plain")[1]) == ["bob smith/2.png", "zoe/0.png"]
    assert door.main([*command, "--label-from", "folder", "--overwrite"]) == 0
    assert (tmp_path / "plain/classes.txt").read_text() == "0\tbob smith\n1\tzoe\n"
    (made / "raw" / "list.txt").unlink()


class Fake:
    """Finds the template, twice as large, in every picture that is not black."""

    def __init__(self, path: Path, side: int, threshold: float, device: str) -> None:
        self.name, self.sha256, self.versions = path.name, "f" * 64, {"insightface": "0"}

    def faces(self, picture: np.ndarray) -> Faces:
        points = np.array([TEMPLATE * 2] if picture.any() else []).reshape(-1, 5, 2)
        return Faces(np.array([[0, 0, 224, 224.0]])[: len(points)], np.array([0.875])[: len(points)], points)


def test_a_detector_by_name(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(detection, "InsightFaceDetector", Fake)
    (tmp_path / "det.onnx").write_bytes(b"")
    command = [str(made / "raw"), str(tmp_path / "out"), "--detector", "det", "--models", str(tmp_path)]
    assert door.main([*command, "--det-size", "320"]) == 0
    head, entries = manifest(tmp_path / "out")
    assert (head["detector"], head["detector_sha256"], head["versions"]["insightface"]) == ("det.onnx", "f" * 64, "0")
    assert head["settings"]["det_size"] == 320 and head["settings"]["choose"] == "largest"
    entry = entries["zoe/0.png"]
    assert (entry["score"], entry["faces"], entry["points"][0]) == (0.875, 1, [76.589, 103.393])
    assert door.main([*command[:3], "nobody", *command[4:], "--overwrite"]) == 2
    assert "there is no detector 'nobody'" in capsys.readouterr().err


def test_wrong_use_is_told(made, tmp_path, capsys):
    out, points = str(tmp_path / "out"), ["--points", str(made / "points.txt")]
    for command, said in (
        ([str(tmp_path / "gone"), out, *points], "neither a folder nor a list"),
        ([str(made), str(made), *points], "is INPUT"),
        ([str(made / "raw"), out, "--points", str(tmp_path / "gone.txt")], "there is no list of points"),
        ([str(made / "raw" / "zoe"), out, *points], "names none of these pictures: it has 'zoe/0.png'"),
        ([str(made / "raw" / "zoe"), out, *points, "--label-from", "folder"], "0.png lies in no folder of"),
        ([str(made / "raw"), out, *points, "--label-from", "list"], "name one with --list"),
        ([str(made / "raw"), out, "--detector", "none"], "without a detector and without points"),
        ([str(made / "raw"), out, "--points", str(made / "raw/zoe/0.png")], "0.png is no list: it is no text"),
    ):
        assert door.main(command) == 2 and said in capsys.readouterr().err, command
    (tmp_path / "twice.txt").write_text("zoe/0.png\nzoe/0.png\n")
    assert run(made, tmp_path / "out", "--list", str(tmp_path / "twice.txt")) == 2
    assert "zoe/0.png stands there twice" in capsys.readouterr().err
    (tmp_path / "other.txt").write_text("zoe/gone.png\nzoe/0.png\n")
    (tmp_path / "one.txt").write_text("zoe/0.png " + "1 " * 10 + "\n")
    assert run(made, tmp_path / "out", "--points", str(tmp_path / "one.txt")) == 2
    assert "none of 6 pictures came to a record (5 failed: points missing; 1 failed: points" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    for command in (["photos"], ["photos", "out"], ["photos", "out", *points, "--detector", "x"]):
        with pytest.raises(SystemExit):
            door.main(command)


def test_an_interruption_leaves_nothing(made, tmp_path, monkeypatch, capsys):
    read, asked = aligner.read_raw, []

    def interrupted(encoded: bytes) -> np.ndarray:
        asked.append(encoded)
        if len(asked) == 4:
            assert (tmp_path / "new" / ".aligning.tmp").is_dir()
            raise KeyboardInterrupt
        return read(encoded)

    monkeypatch.setattr(aligner, "read_raw", interrupted)
    assert run(made, tmp_path / "new") == 130
    assert "stopped; nothing was written" in capsys.readouterr().err and not (tmp_path / "new").exists()


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_what_was_there(made, tmp_path, sent, code):
    slow = (
        "import sys, time\n"
        "from recognition.data import aligner\n"
        "read = aligner.read_raw\n"
        "def slowly(encoded):\n"
        "    print('reading', flush=True)\n"
        "    time.sleep(0.4)\n"
        "    return read(encoded)\n"
        "aligner.read_raw = slowly\n"
        "from tools import align\n"
        "sys.exit(align.main(sys.argv[1:]))\n"
    )
    out = tmp_path / "out"
    assert run(made, out) == 0
    before = contents(out)
    command = [str(made / "raw"), str(out), "--points", str(made / "points.txt"), "--workers", "1", "--overwrite"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", slow, *command, "--png"], cwd=ROOT, **pipes) as process:
        assert process.stdout.readline() == "reading\n"
        assert (out / ".aligning.tmp").is_dir()
        process.send_signal(sent)
        said = process.communicate(timeout=30)[1]
        assert process.returncode == code and "stopped; nothing was written" in said
    assert contents(out) == before


def test_two_do_not_write_one_folder_and_a_killed_one_is_tidied_away(made, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(made, out) == 0
    before, lock = contents(out), out / ".aligning.tmp" / "lock"
    lock.parent.mkdir()
    (lock.parent / "aligned.rec.partial").write_bytes(b"half")
    hold = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", hold, str(lock)], **pipes) as other:
        other.stdout.readline()
        assert run(made, out, "--overwrite") == 2
        assert f"{out} is being written already" in capsys.readouterr().err
        other.communicate("\n")
    assert (lock.parent / "aligned.rec.partial").exists() and contents_but_folders(out) == before
    assert run(made, out, "--overwrite") == 0
    assert contents(out) == before
