"""Alignment: the transform against insightface's, lists of points, detectors, and one picture at a time."""

import io
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from recognition.data.aligner import Aligner, Settings, prepare
from recognition.data.alignment import TEMPLATE, align, likeness, moved, transform
from recognition.data.detection import Faces, InsightFaceDetector, choose, model_file
from recognition.data.points import Face, read_points
from recognition.data.synthetic import SyntheticFaces

MIRROR = [1, 0, 2, 4, 3]
PROFILE = np.array([[50, 50], [48.5, 50], [35, 68], [46, 85], [45, 85.0]])  # the far eye has just crossed


def similarity(scale: float, angle: float, x: float, y: float) -> np.ndarray:
    """Turns and scales about the aligned picture's middle, which comes to (x, y)."""
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[c, -s], [s, c]])
    return np.column_stack([linear, (x, y) - linear @ (56, 56)])


def painted(matrix: np.ndarray, height: int = 420, width: int = 500, number: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A synthetic face (BGR), and a photo of it: placed by `matrix` on a coloured ground."""
    face = cv2.cvtColor(SyntheticFaces(3, 1)[number][0], cv2.COLOR_RGB2BGR)
    photo = np.full((height, width, 3), (40, 90, 140), np.uint8)
    return face, cv2.warpAffine(face, matrix, (width, height), photo, cv2.INTER_CUBIC, cv2.BORDER_TRANSPARENT)


@pytest.mark.filterwarnings("ignore:`estimate`:FutureWarning")
def test_faces_come_out_as_insightface_cuts_them():
    face_align = pytest.importorskip("insightface.utils.face_align")
    rng = np.random.default_rng(0)
    for number in range(40):
        _, photo = painted(similarity(rng.uniform(0.6, 2.5), rng.uniform(-3, 3), 250, 210), number=number % 3)
        points = moved(TEMPLATE, similarity(rng.uniform(0.1, 2.5), rng.uniform(-3, 3), 250, 210))
        points = (points + rng.normal(0, 3, (5, 2))).astype(np.float32)
        wanted, matrix = face_align.norm_crop2(photo, points, 112)
        assert np.abs(transform(points) - matrix).max() < 1e-3
        assert np.abs(align(photo, points).astype(int) - wanted).max() <= 1
    _, photo = painted(similarity(1.5, 0.2, 250, 210))
    points = moved(TEMPLATE, similarity(1.5, 0.2, 250, 210)).astype(np.float32)
    assert np.abs(align(photo, points, 224).astype(int) - face_align.norm_crop(photo, points, 224)).max() <= 1


def test_the_transform_is_the_least_squares_one():
    """Against the normal equations in a, b, x, y of [[a, -b], [b, a]], which leave out mirrors by their form."""
    rng = np.random.default_rng(1)
    placed = [moved(TEMPLATE, similarity(rng.uniform(0.2, 3), rng.uniform(-3, 3), 80, 70)) for _ in range(20)]
    for points in [PROFILE, *(points + rng.normal(0, 2, (5, 2)) for points in placed)]:
        rows = [row for x, y in points for row in ((x, -y, 1, 0), (y, x, 0, 1))]
        a, b, x, y = np.linalg.lstsq(np.array(rows), TEMPLATE.ravel(), rcond=None)[0]
        np.testing.assert_allclose(transform(points), [[a, -b, x], [b, a, y]], atol=1e-9)


@pytest.mark.parametrize("scale, angle", [(1.0, 0.0), (2.2, 0.3), (1.7, -2.5), (1.3, 1.2)])
def test_a_painted_face_comes_back_from_where_it_was_put(scale, angle):
    matrix = similarity(scale, angle, 260, 200)
    face, photo = painted(matrix)
    points = moved(TEMPLATE, matrix)
    np.testing.assert_allclose(moved(points, transform(points)), TEMPLATE, atol=1e-9)
    away = np.abs(align(photo, points).astype(int) - face)[2:-2, 2:-2]
    assert away.mean() < 2.0 and np.percentile(away, 99) < 20  # resampled twice; noise and hair lose a little
    assert np.abs(align(photo, points + np.array([9, 0])).astype(int) - face).mean() > 4  # it can fail


def test_beyond_the_picture_it_is_black_and_grey_stays_grey():
    face = cv2.cvtColor(SyntheticFaces(1, 1)[0][0], cv2.COLOR_RGB2GRAY)
    half = align(face[:, 56:], TEMPLATE - (56, 0))
    assert half.shape == (112, 112) and not half[:, :55].any() and np.array_equal(half[:, 57:], face[:, 57:])


@pytest.mark.parametrize(
    "points, said",
    [
        (np.ones((5, 2)), "all five within a pixel of 1, 1"),
        (np.where(np.eye(5, 2) > 0, np.nan, TEMPLATE), "not finite"),
        (TEMPLATE[MIRROR], "in the mirror"),
        (TEMPLATE * (-1, 1) + (111, 0), "in the mirror"),
        (TEMPLATE[:4], r"five points, \(5, 2\), got \(4, 2\)"),
        (TEMPLATE + 500, "all five points lie outside the picture"),
    ],
)
def test_points_that_are_no_face_are_told(points, said):
    with pytest.raises(ValueError, match=said):
        align(np.zeros((112, 112, 3), np.uint8), points)


def test_what_else_is_refused_and_what_is_not():
    assert align(np.zeros((112, 112, 3), np.uint8), PROFILE).shape == (112, 112, 3)
    with pytest.raises(ValueError, match="size is 120; faces are aligned to 112 px"):
        transform(TEMPLATE, 120)
    with pytest.raises(ValueError, match=r"got float32 \(9, 9, 3\)"):
        align(np.zeros((9, 9, 3), np.float32), TEMPLATE)
    with pytest.raises(ValueError, match="at most 32767 on a side"):
        align(np.zeros((2, 40000), np.uint8), TEMPLATE)
    told = likeness(np.stack([TEMPLATE * 3 + 7, PROFILE, TEMPLATE.T.reshape(5, 2), TEMPLATE[[2, 0, 4, 1, 3]]]))
    assert told[0] == pytest.approx(1) and 0.5 < told[1] < 0.75 and (told[2:] < 0.75).all()


NUMBERS = " ".join(str(v) for v in TEMPLATE.ravel())
COMMAS = NUMBERS.replace(" ", ",")


@pytest.mark.parametrize(
    "name, text",
    [
        ("ijb.txt", f"1.jpg {NUMBERS} 0.75\n./a b/2 3.jpg {NUMBERS} 0.5\n\n"),
        ("plain.txt", f"1.jpg\t{NUMBERS}\t0.75\na b/2 3.jpg {NUMBERS}\n"),
        ("points.csv", f"name,{','.join(f'x{i},y{i}' for i in range(5))},score\n1.jpg,{COMMAS},0.75\n"
         f'"a b/2 3.jpg",{COMMAS},\n'),
        ("points.jsonl", f'{{"format": "x"}}\n{{"name": "1.jpg", "points": {TEMPLATE.tolist()}, "score": 0.75}}\n'
         f'{{"name": "a b/2 3.jpg", "points": {TEMPLATE.ravel().tolist()}}}\n{{"name": "3.jpg", "points": null}}\n'),
    ],
)  # fmt: skip
def test_lists_of_points_in_four_forms(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    found = read_points(tmp_path / name)
    assert list(found) == ["1.jpg", "a b/2 3.jpg"] and found["1.jpg"].score == 0.75
    assert all(np.array_equal(face.points, TEMPLATE) for face in found.values())


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("a.txt", f"1.jpg {NUMBERS}\n2.jpg 1 2 3\n", "line 2: 3 numbers; wanted a picture's name"),
        ("a.txt", f"1.jpg {NUMBERS}\n1.jpg {NUMBERS}\n", "line 2: 1.jpg stands there twice"),
        ("a.txt", "\n", "names no face"),
        ("a.csv", f"1.jpg,{COMMAS}\n2.jpg,{COMMAS[:-1]}x\n", "line 2: could not"),
        ("a.jsonl", '{"name": "1.jpg", "points": [1, 2]}\n', "line 1: 2 numbers"),
        ("a.jsonl", "[1]\n", "line 1: 'list' object"),
        ("a.txt", "".join(f"{i}.jpg {' '.join(map(str, TEMPLATE.T.ravel()))}\n" for i in range(12)), "not x1 x2"),
    ],
)
def test_lists_that_are_refused(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"a.*{said}"):
        read_points(tmp_path / name)


def test_which_of_several_faces():
    boxes = np.array([[0, 0, 90, 90], [70, 70, 130, 130], [150, 0, 160, 10]], float)
    faces = Faces(boxes, np.array([0.6, 0.7, 0.9]), np.zeros((3, 5, 2)))
    assert [choose(faces, which, 200, 200) for which in ("largest", "central", "best")] == [0, 1, 2]
    with pytest.raises(ValueError, match="choose is 'first'"):
        choose(faces, "first", 200, 200)


class OneFace:
    """A detector that finds the faces it is told, where the picture is not black."""

    name, sha256, versions = "fake.onnx", "0" * 64, {}

    def __init__(self, *points: np.ndarray) -> None:
        self.points, self.seen = points, None

    def faces(self, picture: np.ndarray) -> Faces:
        self.seen = picture
        known = np.array(self.points if picture.any() else []).reshape(-1, 5, 2)
        return Faces(np.concatenate([known.min(1), known.max(1)], 1), np.linspace(0.9, 0.5, len(known)), known)


def test_a_detectors_face_is_cut_and_the_largest_taken(tmp_path):
    matrix = similarity(2.0, 0.4, 260, 200)
    face, photo = painted(matrix)
    cv2.imwrite(str(tmp_path / "a.png"), photo)
    points = moved(TEMPLATE, matrix)
    done = Aligner(OneFace(points / 4, points), Settings(quality=0))("a.png", tmp_path / "a.png")
    assert (done.status, done.reason, done.faces, done.score) == ("aligned", "", 2, 0.5)
    np.testing.assert_allclose(done.points, points, atol=6e-4)
    np.testing.assert_allclose(done.landmarks, TEMPLATE, atol=1e-3)
    image = cv2.imdecode(np.frombuffer(done.image, np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(image.astype(int) - face)[2:-2, 2:-2].mean() < 2
    assert np.array_equal(image, align(photo, done.points))


def test_square_pad_and_raised_are_adafaces_custom(tmp_path):
    """Worked out anew: 20 x 16 px -> 20 x 20 -> 32 x 32 -> 3 px of black around -> 38; 9 more on top -> 47 square."""
    photo = np.random.default_rng(0).integers(30, 255, (20, 16, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), photo)
    wide = np.zeros((20, 20, 3), np.uint8)
    wide[:, 2:18] = photo
    wanted = np.zeros((38, 38, 3), np.uint8)
    wanted[3:35, 3:35] = cv2.resize(wide, (32, 32))
    settings = Settings("raised", "central", square=32, pad=0.1, quality=0)
    prepared, into = prepare(photo, settings)
    assert np.array_equal(prepared, wanted)
    np.testing.assert_allclose(into, [[1.6, 0, 2.5 * 1.6 - 0.5 + 3], [0, 1.6, 0.5 * 1.6 - 0.5 + 3]])
    nobody = OneFace()
    done = Aligner(nobody, settings)("a.png", tmp_path / "a.png")
    assert np.array_equal(nobody.seen, wanted)
    raised = np.zeros((47, 47, 3), np.uint8)
    raised[9:, 4:42] = wanted
    image = cv2.imdecode(np.frombuffer(done.image, np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(image, cv2.resize(raised, (112, 112)))
    assert (done.status, done.reason, done.faces) == ("fallback", "no face", None)
    there = TEMPLATE / 112 * 34 + 2
    found = Aligner(OneFace(there), settings)("a.png", tmp_path / "a.png")
    image = cv2.imdecode(np.frombuffer(found.image, np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(image.astype(int) - align(wanted, there)).max() <= 1
    np.testing.assert_allclose(moved(found.points, into), there, atol=1e-3)


def pictures_of_all_kinds(folder: Path) -> None:
    """photo: upright, 140 x 100; the same one as other kinds of file, whatever their names say."""
    rgb = np.array(Image.fromarray(SyntheticFaces(1, 1)[0][0]).resize((100, 140)))
    Image.fromarray(rgb).save(folder / "plain.png")
    Image.fromarray(rgb).save(folder / "a_png.jpg", format="PNG")
    Image.fromarray(rgb).convert("CMYK").save(folder / "cmyk.jpg", quality=98, subsampling=0)
    Image.fromarray(rgb).convert("L").save(folder / "grey.png")
    cv2.imwrite(str(folder / "deep.png"), rgb[..., ::-1].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its left side, to be turned right
    Image.fromarray(np.rot90(rgb).copy()).save(folder / "turned.jpg", exif=exif, quality=98, subsampling=0)
    out = io.BytesIO()
    Image.fromarray(rgb).save(out, "JPEG")
    (folder / "cut.jpg").write_bytes(out.getvalue()[:-900])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "words.jpg").write_text("no picture at all")
    Image.fromarray(rgb[:3]).save(folder / "thin.png")
    png = cv2.imencode(".png", rgb)[1].tobytes()
    (folder / "bomb.png").write_bytes(png[:16] + (60000).to_bytes(4, "big") * 2 + png[24:])


def test_a_mixed_folder_is_handled_one_by_one(tmp_path):
    pictures_of_all_kinds(tmp_path)
    points = TEMPLATE * (100 / 112) + (0, 14)
    aligner = Aligner({path.name: Face(points, None) for path in tmp_path.iterdir()}, Settings("resize", quality=0))
    done = {path.name: aligner(path.name, path) for path in [*tmp_path.iterdir(), tmp_path / "gone.jpg"]}
    plain = cv2.imdecode(np.frombuffer(done["plain.png"].image, np.uint8), cv2.IMREAD_COLOR).astype(int)
    for name, most in (("a_png.jpg", 0), ("deep.png", 0), ("cmyk.jpg", 6), ("turned.jpg", 6)):
        image = cv2.imdecode(np.frombuffer(done[name].image, np.uint8), cv2.IMREAD_COLOR)
        assert done[name].status == "aligned" and np.abs(image - plain).mean() <= most, name
    grey = cv2.imdecode(np.frombuffer(done["grey.png"].image, np.uint8), cv2.IMREAD_COLOR)
    assert grey.shape == (112, 112, 3) and (grey[..., 0] == grey[..., 2]).all()
    said = {name: answer.reason.split(":")[0] for name, answer in done.items() if answer.status == "failed"}
    assert said == {
        "cut.jpg": "undecodable",
        "empty.jpg": "undecodable",
        "words.jpg": "undecodable",
        "thin.png": "too small",
        "bomb.png": "too large",
        "gone.jpg": "unreadable",
    }
    assert done["gone.jpg"].sha256 == "" and len(done["words.jpg"].sha256) == 64


def test_without_points_it_fails_or_falls_back(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), painted(similarity(1, 0, 60, 60), 120, 120)[1])
    known = {"b.png": Face(TEMPLATE, None)}
    assert Aligner(known, Settings())("a.png", tmp_path / "a.png").reason == "points missing"
    done = Aligner(known, Settings("resize"))("a.png", tmp_path / "a.png")
    assert (done.status, done.reason, done.points) == ("fallback", "points missing", None)
    assert np.array_equal(done.landmarks, TEMPLATE)
    done = Aligner({"a.png": Face(TEMPLATE[MIRROR], 0.5)}, Settings())("a.png", tmp_path / "a.png")
    assert done.status == "failed" and done.reason.startswith("points degenerate: ") and done.score == 0.5
    assert Aligner(None, Settings("resize"))("a.png", tmp_path / "a.png").reason == "no detector"
    with pytest.raises(ValueError, match="without a detector and without points"):
        Aligner(None, Settings())
    for wrong in ({"fallback": "crop"}, {"choose": "first"}, {"quality": 101}, {"pad": -1}, {"square": 3}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Settings(**wrong)


def scrfd(path: Path, points: np.ndarray, outputs: int = 9) -> None:
    """An ONNX file with SCRFD's inputs and outputs, 64 px: one face with these points unless the picture is black."""
    nodes = [
        helper.make_node("ReduceMean", ["picture"], ["mean"], keepdims=0),
        helper.make_node("Greater", ["mean", "dark"], ["bright"]),
        helper.make_node("Cast", ["bright"], ["there"], to=TensorProto.FLOAT),
    ]
    weights = [numpy_helper.from_array(np.array(-0.99, np.float32), "dark")]
    given = []
    for kind, columns in (("score", 1), ("box", 4), ("points", 10))[: outputs // 3]:
        for stride in (8, 16, 32):
            values = np.zeros((2 * (64 // stride) ** 2, columns), np.float32)
            if stride == 8:  # the first of two anchors at 32, 32
                values[2 * (4 * 8 + 4)] = {"score": 0.9, "box": 2.5, "points": (points - 32).ravel() / 8}[kind]
            name = f"{kind}_{stride}"
            weights.append(numpy_helper.from_array(values, f"{name}_values"))
            nodes.append(helper.make_node("Mul", [f"{name}_values", "there"], [name]))
            given.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(values.shape)))
    taken = helper.make_tensor_value_info("picture", TensorProto.FLOAT, [1, 3, 64, 64])
    graph = helper.make_graph(nodes, "scrfd", [taken], given, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))


def test_an_onnx_file_is_run_by_insightfaces_own_code(tmp_path):
    """No trained detector: a graph of constants with SCRFD's outputs, which shows the wiring."""
    points = TEMPLATE * (40 / 112) + 12
    scrfd(tmp_path / "det_test.onnx", points)
    detector = InsightFaceDetector(model_file("det_test", tmp_path), 64)
    assert detector.name == "det_test.onnx" and set(detector.versions) == {"insightface", "onnxruntime"}
    found = detector.faces(np.full((128, 128, 3), 90, np.uint8))  # twice the detector's side
    np.testing.assert_allclose(found.points, [points * 2], rtol=1e-5)
    np.testing.assert_allclose(found.boxes, [[24, 24, 104, 104]], rtol=1e-5)
    np.testing.assert_allclose(found.scores, [0.9], rtol=1e-5)
    assert not len(detector.faces(np.zeros((128, 128, 3), np.uint8)).scores)
    with pytest.raises(ValueError, match="takes pictures of 64 x 64 only, not 640 x 640"):
        InsightFaceDetector(tmp_path / "det_test.onnx")
    scrfd(tmp_path / "boxes.onnx", points, outputs=6)
    with pytest.raises(ValueError, match="finds boxes, but no points"):
        InsightFaceDetector(tmp_path / "boxes.onnx", 64)
    (tmp_path / "words.onnx").write_text("no network")
    with pytest.raises(ValueError, match=r"insightface cannot open .*words\.onnx"):
        InsightFaceDetector(tmp_path / "words.onnx", 64)
    with pytest.raises(ValueError, match="multiple of 32"):
        InsightFaceDetector(tmp_path / "det_test.onnx", 100)


def test_a_detector_is_looked_for_and_never_fetched(tmp_path):
    (tmp_path / "pack").mkdir()
    for name in ("pack/det_10g.onnx", "pack/w600k.onnx", "scrfd_2.5g_kps.onnx"):
        (tmp_path / name).write_bytes(b"")
    assert model_file("pack", tmp_path).name == "det_10g.onnx"
    assert model_file("scrfd_2.5g_kps", tmp_path).name == model_file("scrfd_2.5g_kps.onnx", tmp_path).name
    assert model_file(str(tmp_path / "pack/det_10g.onnx"), Path("nowhere")).name == "det_10g.onnx"
    with pytest.raises(FileNotFoundError, match=r"no detector 'retinaface'.*retinaface\.onnx.*there are pack/det_10g"):
        model_file("retinaface", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no \.onnx file lies there\)\. Nothing is downloaded"):
        model_file("retinaface", tmp_path / "nowhere")
    (tmp_path / "pack/det_500m.onnx").write_bytes(b"")
    with pytest.raises(ValueError, match="several detectors"):
        model_file("pack", tmp_path)
