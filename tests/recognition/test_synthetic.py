from dataclasses import fields, replace

import cv2
import numpy as np
import pytest

from recognition.data._face_render import TEMPLATE, render_face
from recognition.data.synthetic import (
    ACCESSORIES,
    Appearance,
    Identity,
    SyntheticFaces,
    appearance,
    contact_sheet,
    identity,
    render,
)

PLAIN = Appearance(
    **{f.name: f.metadata["draw"][0] for f in fields(Appearance) if "draw" in f.metadata}
    | {"grain": 0.0, "mouth_open": 0.0, "frown": 0.0}
)


def grey(picture: np.ndarray) -> np.ndarray:
    """The face's inner part, coarse enough not to mind grain, free of exposure and contrast."""
    small = cv2.resize(picture[24:108, 16:96].astype(np.float32).mean(2), (40, 42), interpolation=cv2.INTER_AREA)
    return ((small - small.mean()) / (small.std() + 1e-3)).ravel()


def test_same_numbers_same_picture():
    faces = SyntheticFaces(3, 4, seed=5)
    picture, label = faces[7]
    assert picture.shape == (112, 112, 3) and picture.dtype == np.uint8 and label == 1
    np.testing.assert_array_equal(picture, SyntheticFaces(9, 4, seed=5)[7][0])
    np.testing.assert_array_equal(picture, render(identity(5, 1), appearance(5, 1, 3)))
    np.testing.assert_array_equal(picture, SyntheticFaces(1, 4, seed=5, first_identity=1)[3][0])
    assert (picture != SyntheticFaces(3, 4, seed=6)[7][0]).mean() > 0.5


def test_rendering_does_not_depend_on_what_was_painted_before():
    person, look = identity(0, 3), appearance(0, 3, 1)
    first = render(person, look)
    for i in range(5):
        render(identity(1, i), appearance(1, i, 0))
    np.testing.assert_array_equal(render(person, look), first)


def test_length_labels_and_iteration():
    faces = SyntheticFaces(3, 2)
    assert len(faces) == 6
    np.testing.assert_array_equal(faces.labels, [0, 0, 1, 1, 2, 2])
    assert [label for _, label in faces] == faces.labels.tolist()
    np.testing.assert_array_equal(faces[-1][0], faces[5][0])
    with pytest.raises(IndexError):
        faces[6]


def test_impossible_sets_are_named():
    for arguments in ((0, 1), (1, 0), (1, 1, -1)):
        with pytest.raises(ValueError, match="synthetic faces"):
            SyntheticFaces(*arguments)


def test_people_differ_in_every_measure():
    people = [identity(0, i) for i in range(60)]
    for f in fields(Identity):
        if "draw" in f.metadata:
            values = np.array([getattr(person, f.name) for person in people])
            _, spread, low, high = f.metadata["draw"]
            assert values.std() > 0.15 * spread, f.name
            assert values.min() >= low and values.max() <= high, f.name
    assert len({person.marks for person in people}) > 30


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("face_width", 4.0), ("jaw_width", 0.1), ("eye_gap", 1.5), ("eye_width", 1.5), ("eye_upper", 1.2),
        ("eye_tilt", 0.15), ("iris_hue", 1.0), ("brow_rise", 2.0), ("brow_thick", 0.8), ("brow_arch", 1.8),
        ("nose_width", 1.8), ("nose_y", 2.0), ("nose_height", 4.0), ("mouth_width", 2.5), ("lip_upper", 1.4),
        ("lip_lower", 1.6), ("lip_red", 0.4), ("melanin", 0.3), ("hairline", 8.0), ("hair_dark", -0.4),
        ("hair_length", 40.0), ("beard", 0.6), ("moustache", 0.6), ("folds", 0.6), ("bags", 0.5),
    ],
)  # fmt: skip
def test_every_measure_shows(name, change):
    person = replace(identity(0, 2), marks=(), beard=0.0, moustache=0.0, iris_hue=0.0, bags=0.1, folds=0.1)
    other = replace(person, **{name: getattr(person, name) + change})
    difference = np.abs(render(person, PLAIN).astype(int) - render(other, PLAIN))
    assert difference.max() > 6


@pytest.mark.parametrize(
    "change",
    [
        {"yaw": 0.35}, {"pitch": 0.2}, {"roll": 0.06}, {"light_x": 0.9}, {"ambient": 0.3}, {"warmth": 0.15},
        {"smile": 1.0}, {"mouth_open": 0.6}, {"eye_open": 0.4}, {"gaze_x": 2.0}, {"brow_raise": 2.0},
        {"hair_lift": 6.0}, {"blur": 0.75}, {"grain": 4.0}, {"scene": 9}, {"accessory": "glasses"},
        {"accessory": "sunglasses"}, {"accessory": "mask"}, {"accessory": "hand"},
    ],
)  # fmt: skip
def test_every_circumstance_shows(change):
    person = identity(0, 2)
    difference = np.abs(render(person, PLAIN).astype(int) - render(person, replace(PLAIN, **change)))
    assert (difference > 4).mean() > 0.003


@pytest.mark.parametrize("yaw", [-0.4, 0.0, 0.4])
def test_eyes_lie_on_the_template(yaw):
    """Irises are the darkest spots near the template's eyes, whichever way the head turns."""
    person = replace(identity(0, 2), iris_light=0.05, iris_hue=0.0, melanin=0.1, lash=0.1, hair_grey=1.0)
    look = replace(PLAIN, yaw=yaw, eye_open=1.2, gaze_y=0.0, blur=0.0)
    picture = cv2.GaussianBlur(render_face(person, look).astype(np.float32).mean(2), (0, 0), 1.5)
    for eye in TEMPLATE[:2]:
        x, y = round(eye.real), round(eye.imag)
        near = picture[y - 8 : y + 9, x - 8 : x + 9]
        row, column = np.unravel_index(near.argmin(), near.shape)
        assert np.hypot(row - 8, column - 8) < 4.5


def test_a_turned_head_shows_parallax():
    """The nose moves against the eyes, the more the higher it is: a turn is no similarity of the picture."""
    person = replace(identity(0, 2), nostril=1.0, nose_bend=0.0, moustache=0.0, marks=())
    columns = []
    for yaw in (-0.4, 0.4):
        below = render(person, replace(PLAIN, yaw=yaw, light_x=0.0))[73:82, 40:72].astype(int).sum(2)
        columns.append(np.argsort(below.ravel())[:16] % 32)  # the nostrils
    assert columns[1].mean() - columns[0].mean() > 3


def test_a_person_resembles_itself_more_than_others():
    people, images = 30, 6
    faces = SyntheticFaces(people, images, seed=2)
    vectors, labels = np.stack([grey(picture) for picture, _ in faces]), faces.labels
    distance = np.sqrt(np.maximum(2 - 2 * vectors @ vectors.T / vectors.shape[1], 0))
    np.fill_diagonal(distance, np.inf)
    nearest = labels[distance.argmin(1)] == labels
    assert nearest.mean() > 6 * (images - 1) / (people * images - 1)  # pixels alone: far above chance, far from solved
    assert nearest.mean() < 0.95
    own = labels[:, None] == labels
    np.fill_diagonal(distance, np.nan)
    assert np.nanmedian(distance[own]) < 0.95 * np.nanmedian(distance[~own])


def test_accessories_come_in_their_shares():
    drawn = [appearance(0, i, j).accessory for i in range(40) for j in range(40)]
    for name, share in ACCESSORIES:
        assert abs(drawn.count(name) / 1600 - share) < 4 * np.sqrt(share / 1600)


def test_pictures_are_well_exposed():
    pictures = np.stack([picture for picture, _ in SyntheticFaces(40, 1, seed=9)])[:, 30:100, 25:90]
    assert 70 < pictures.mean() < 180
    assert (pictures == 255).mean() < 0.05 and (pictures == 0).mean() < 0.05
    assert np.median(pictures.std((1, 2, 3))) > 20


def test_contact_sheet():
    pictures = [np.full((n, n, 3), n, np.uint8) for n in (112, 7, 200)]
    sheet = contact_sheet(pictures, columns=2, side=56, gap=2)
    assert sheet.shape == (2 * 58 + 2, 2 * 58 + 2, 3)
    assert (sheet[2:58, 2:58] == 112).all() and (sheet[2:58, 60:116] == 7).all() and (sheet[60:116, 2:58] == 200).all()
    assert (sheet[60:, 60:] == 255).all() and (sheet[:2] == 255).all()
    with pytest.raises(ValueError, match="0 images"):
        contact_sheet([], 3)
