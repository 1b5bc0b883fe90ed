"""What every scorer promises, over the registry's names."""

from __future__ import annotations

import io
import itertools
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from iqa import SCORERS
from recognition.types import Needs
from tests.iqa.scorers import LADDER, as_input, make, pictures, reduced

FORMS = [*SCORERS.names(), "sharpness:variance", "sharpness:tenengrad"]


@pytest.fixture(scope="module", params=FORMS)
def scorer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    made = make(request.param, tmp_path_factory.mktemp("scorer"))
    if made.needs in ("landmarks", "level"):
        pytest.skip(f"{request.param} looks at the {made.needs}, and not at a picture")
    return made


def test_score_is_one_float32_per_image(scorer: nn.Module) -> None:
    score = scorer(as_input(pictures(3)))
    columns = (scorer.columns,) if hasattr(scorer, "columns") else ()  # of several
    assert score.shape == (3, *columns) and score.dtype == torch.float32 and torch.isfinite(score).all()


@pytest.mark.parametrize("name", FORMS)
def test_declarations(name: str, tmp_path: Path) -> None:
    """Of all, those that look at landmarks or levels among them."""
    scorer = make(name, tmp_path)
    assert scorer.needs in get_args(Needs)
    worst, best = scorer.range
    assert worst <= best
    assert isinstance(scorer.exportable, bool) and type(scorer).version >= 1
    assert scorer.exportable or len(scorer.export_obstacle) > 20, "what cannot be exported says why"
    assert not any(p.requires_grad for p in scorer.parameters()), "a scorer is never trained"


@pytest.mark.parametrize("wrong", [-1.0, 2.0, float("nan")])
def test_values_outside_the_range_are_refused(scorer: nn.Module, wrong: float) -> None:
    image = as_input(pictures(2))
    image[1, 2, 5, 7] = wrong
    with pytest.raises(ValueError, match=r"in \[0, 1\], got values from"):
        scorer(image)


@pytest.mark.parametrize("shape", [(2, 1, 112, 112), (3, 112, 112)])
def test_wrong_shapes_are_refused(scorer: nn.Module, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"takes \(B, 3, H, W\)"):
        scorer(torch.zeros(shape))


def test_uint8_is_refused(scorer: nn.Module) -> None:
    with pytest.raises(ValueError, match="255"):
        scorer(torch.zeros(1, 3, 112, 112, dtype=torch.uint8))


def test_rounding_of_the_range_passes(scorer: nn.Module) -> None:
    network_input = as_input(pictures(2)) * 255 / 127.5 - 1
    score = scorer((network_input + 1) / 2)
    torch.testing.assert_close(score, scorer(as_input(pictures(2))), rtol=1e-5, atol=1e-5)


def test_the_same_twice_and_alone_as_in_a_batch(scorer: nn.Module) -> None:
    images = as_input(pictures(5))
    together = scorer(images)
    assert torch.equal(together, scorer(images))
    alone = torch.cat([scorer(image[None]) for image in images])
    torch.testing.assert_close(alone, together, rtol=1e-6, atol=1e-6)


def test_higher_is_better_down_the_ladder_of_resolutions(scorer: nn.Module) -> None:
    if scorer.needs == "model":
        pytest.skip("what a base makes of a picture is its own affair; real ones are in test_model_scorers.py")
    faces = pictures(8, seed=3)
    means = [float(scorer(as_input(reduced(faces, side))).mean()) for side in LADDER]
    if scorer.range[0] == scorer.range[1]:
        assert len(set(means)) == 1
    else:
        assert all(better > worse for better, worse in itertools.pairwise(means)), means


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_flat_pictures_have_a_finite_score(scorer: nn.Module, value: float) -> None:
    flat = scorer(torch.full((2, 3, 112, 112), value))
    assert torch.isfinite(flat).all()
    blank = (flat <= scorer(as_input(pictures(2))) + 1e-6).all()
    assert scorer.needs == "model" or blank, "a flat picture is no better than one with detail"


def test_mixed_precision_changes_nothing(scorer: nn.Module) -> None:
    images = as_input(pictures(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        score = scorer(images)
    assert score.dtype == torch.float32
    assert torch.equal(score, scorer(images))


def test_compiles_into_one_graph(scorer: nn.Module) -> None:
    images = as_input(pictures(2))
    whole = scorer.exportable  # what cannot be exported may leave the graph
    compiled = torch.compile(scorer, fullgraph=whole, backend="eager")
    torch.testing.assert_close(compiled(images), scorer(images), rtol=1e-5, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_an_exportable_scorer_exports(scorer: nn.Module) -> None:
    if not scorer.exportable:
        with pytest.raises(RuntimeError, match="cannot be exported"):  # and not a graph of its example's figures
            torch.onnx.export(_Plain(scorer), (as_input(pictures(1)),), io.BytesIO(), dynamo=False)
        return
    images, file = as_input(reduced(pictures(7), 56)), io.BytesIO()
    # the older exporter: a tenth of the time; tests/recognition/test_export.py takes the one that the product uses
    torch.onnx.export(
        _Plain(scorer).eval(),
        (images[:2],),
        file,
        dynamo=False,
        opset_version=18,
        input_names=["input"],
        output_names=["score"],
        dynamic_axes={"input": {0: "batch"}, "score": {0: "batch"}},
    )
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    width = max(scorer.range[1] - scorer.range[0], 1.0)
    for batch in (1, 2, 7):
        (score,) = session.run(None, {"input": images[:batch].numpy()})
        np.testing.assert_allclose(score, scorer(images[:batch]).numpy(), atol=1e-4 * width)


@pytest.mark.gpu
def test_the_same_on_cuda(scorer: nn.Module) -> None:
    images, width = as_input(pictures(5)), max(scorer.range[1] - scorer.range[0], 1.0)
    wanted = scorer(images)
    found = scorer.to("cuda")(images.cuda())
    scorer.cpu()
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), wanted, rtol=0, atol=1e-2 * width)  # TF32


def test_names_come_without_torch() -> None:
    code = "import sys, iqa; print(iqa.SCORERS.names()); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0 and "sharpness" in done.stdout, done.stderr


@pytest.fixture(scope="module")
def faces(real_data: Path) -> np.ndarray:
    """60 aligned RGB faces."""
    import cv2

    from recognition.data.records import Records

    records = Records(str(real_data / "lfw" / "train.rec"))
    chosen = np.random.default_rng(0).permutation(len(records))[:60]
    decoded = [cv2.imdecode(np.frombuffer(records.read(int(i)), np.uint8), cv2.IMREAD_COLOR) for i in chosen]
    return np.stack(decoded)[..., ::-1].copy()


def _ladder(scorer: nn.Module, faces: np.ndarray) -> list[Tensor]:
    return [scorer(as_input(reduced(faces, side))) for side in (112, 56, 28, 14)]


@pytest.mark.parametrize("log", [True, False])
def test_sharpness_of_real_faces_falls(faces: np.ndarray, log: bool) -> None:
    rungs = _ladder(SCORERS.create("sharpness", log=log), faces)
    assert all((a > b).all() for a, b in itertools.pairwise(rungs)), "every face, at every step"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("sharpness:variance", [5.08, 4.34, 2.87, 1.33, 0.66]),
        ("sharpness:tenengrad", [9.06, 8.88, 8.37, 7.55, 6.42]),
        ("spectral_slope", [-2.73, -3.40, -5.01, -6.04, -6.26]),
    ],
)
def test_real_faces_score_as_told(faces: np.ndarray, tmp_path: Path, name: str, told: list[float]) -> None:
    """The figures of these faces in the scorers' docstrings; every face falls at every step."""
    scorer = make(name, tmp_path)
    rungs = [scorer(as_input(reduced(faces, side))) for side in LADDER]
    np.testing.assert_allclose([float(rung.mean()) for rung in rungs], told, atol=0.01)
    assert all((a > b).all() for a, b in itertools.pairwise(rungs))


def test_cnniqa_live_of_real_faces(faces: np.ndarray, real_data: Path) -> None:
    """Published for 60 of these faces: 24.3, 45.0, 60.2, 70.4; other sixties differ by up to 3.5."""
    weights = str(real_data / "weights" / "cnniqa_live.npz")
    rungs = _ladder(SCORERS.create("cnniqa", weights=weights, form="live"), faces)
    np.testing.assert_allclose([-float(r.mean()) for r in rungs], [24.3, 45.0, 60.2, 70.4], atol=3.5)


def test_brisque_of_real_faces(faces: np.ndarray, real_data: Path) -> None:
    """Published for 40 of these faces: 25.6, 39.7, 57.1, 70.9; other forties differ by up to 3.5."""
    folder = real_data / "weights"
    weights, ranges = str(folder / "brisque_model_live.yml"), str(folder / "brisque_range_live.yml")
    rungs = _ladder(SCORERS.create("brisque", weights=weights, ranges=ranges), faces[:40])
    np.testing.assert_allclose([-float(r.mean()) for r in rungs], [25.6, 39.7, 57.1, 70.9], atol=3.5)


class _Plain(nn.Module):
    """A module whose forward the older exporter can trace by one positional argument."""

    def __init__(self, scorer: nn.Module) -> None:
        super().__init__()
        self.scorer = scorer

    def forward(self, image: Tensor) -> Tensor:
        return self.scorer(image)
