"""The benchmarks of evaluation: their rows, and that sorting answers what a loop over thresholds answers."""

import json
import re

import cv2
import numpy as np
import pytest
import torch

from recognition.bench import metrics
from recognition.bench import scoring as scoring_bench
from recognition.distributed import World
from recognition.evaluation import embed as embedding
from recognition.evaluation import identification
from recognition.evaluation.identification import search
from recognition.evaluation.listed import MISSED
from recognition.evaluation.templates import tar_at_far
from recognition.evaluation.unit import unit_float32
from recognition.evaluation.verification import verify_scores
from tests.training import CPU
from tools import benchmark

ALL = 10**9  # comparisons: every threshold is tried


def scores_of(kind: str, pairs: int = 240) -> tuple[np.ndarray, np.ndarray]:
    scores, same = metrics.drawn(pairs, seed=3)
    if kind == "ties":
        return scores.round(1), same
    if kind == "all equal":
        return np.full(pairs, 0.25), same
    if kind == "reversed":
        return -scores, same
    return scores, same


@pytest.mark.parametrize("kind", ["drawn", "ties", "all equal", "reversed"])
@pytest.mark.parametrize("most", [ALL, 2000])
@pytest.mark.parametrize("task", metrics.TASKS)
def test_sorting_answers_as_a_loop_over_thresholds_does(task, most, kind):
    scores, same = scores_of(kind)
    sort, loop = metrics.TASKS[task]
    answer = sort(scores, same)
    found = loop(scores, same, answer, most)
    assert found.answer == answer
    assert (found.tried == found.whole) if most == ALL else (found.tried <= found.whole)


def test_the_loop_would_tell_another_answer():
    scores, same = scores_of("drawn")
    for sort, loop in metrics.TASKS.values():
        assert loop(scores, same, sort(scores, same), ALL).answer != sort(scores[::-1], same)


def test_one_kind_of_pairs_has_no_rates():
    scores, same = scores_of("drawn")
    with pytest.raises(ValueError, match="both genuine and impostor"):
        tar_at_far(scores, np.ones_like(same))
    with pytest.raises(ValueError, match="holds genuine pairs only"):
        verify_scores(scores, np.ones_like(same), 10)


@pytest.mark.parametrize("rule", ["exact", "arcface_torch", "xqlfw", "epfl"])
@pytest.mark.parametrize("missing", ["none", "some", "nearly all"])
def test_thresholds_of_all_folds_are_those_of_each_fold_alone(rule, missing):
    """One sort, or one table, serves all folds: beside a loop over thresholds for each."""
    scores, same = scores_of("ties", 60)
    if missing != "none":
        scores[:: 2 if missing == "some" else 1] = MISSED
        scores[1] = 0.3
    fold = np.arange(60) % 3
    a, b = {"arcface_torch": (2, 2), "xqlfw": (1, 1)}.get(rule, (0, 1))  # distance = a - b * score
    distance = np.where(scores == MISSED, np.inf, a - b * scores)
    found = verify_scores(scores, same, fold, rule=rule)["threshold_per_fold"]
    for f in range(3):
        rest = fold != f
        seen = scores[rest & (scores != MISSED)] if (scores[rest] != MISSED).any() else scores[rest]
        grid = {"arcface_torch": np.arange(0, 4, 0.01), "xqlfw": np.arange(0, 2, 0.001)}.get(rule)
        if rule == "epfl":
            grid = -(seen.min() + (seen.max() - seen.min()) / 1000 * np.arange(1, 1001))
        elif rule == "exact":  # a score passes its own threshold, and none the last one
            grid = np.append(np.nextafter(-np.unique(seen), np.inf), -np.inf)
        genuine, impostors = metrics.counts(distance[rest], same[rest], grid)
        if rule == "epfl":
            genuine, impostors = genuine * (~same[rest]).sum(), impostors * same[rest].sum()
        best = np.argmax(genuine - impostors)
        if rule != "exact":
            assert found[f] == (a - grid[best]) / b
        elif (scores[rest] != MISSED).any():
            assert found[f] == np.append(np.unique(seen), np.nextafter(seen.max(), np.inf))[best]
        else:
            assert found[f] == np.nextafter(MISSED, np.inf)


def test_metrics_stand_beside_their_loops(capsys):
    assert benchmark.main(["metrics", "--pairs", "100", "400", "--repeats", "1", "--most", "20000"]) == 0
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.endswith("| yes |")]
    assert [row[1].strip() for row in rows] == [*metrics.TASKS] * 2
    tried = [[int(n.replace(",", "")) for n in row[3:5]] for row in rows]
    assert all(most >= part > 0 for most, part in tried) and tried[-1][0] > tried[-1][1]
    assert benchmark.main(["metrics", "--pairs", "20"]) == 1
    assert "take 100 pairs at least" in capsys.readouterr().err


def test_metrics_refuse_two_answers(monkeypatch):
    sort, loop = metrics.TASKS["10 folds, every score"]
    wrong = {"wrong": (lambda scores, same: sort(scores[::-1], same), loop)}
    monkeypatch.setattr(metrics, "TASKS", wrong)
    with pytest.raises(RuntimeError, match="wrong, 200 pairs: sorting says"):
        benchmark.main(["metrics", "--pairs", "200", "--repeats", "1"])


def test_embedding_stands_beside_the_bare_network(capsys):
    quick = ["--batch", "2", "--sides", "112", "14", "--repeats", "1", "--seconds", "1e-9", "--device", "cpu"]
    before = torch.get_num_threads()
    assert benchmark.main(["embedding", "--backbone", "mobilefacenet_nano", "--threads", "1", *quick]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if re.match(r"\| [a-z]", line)]
    names = [f"mobilefacenet_nano, {what}" for what in ("bare network", "embed at 112 px", "embed at 14 px")]
    assert [row.split("|")[1].strip() for row in rows] == [*names, "bare decode"]
    assert "| limit |" in rows[0] and all("%" in row for row in rows[1:])
    assert torch.get_num_threads() == before
    assert benchmark.main(["embedding", "--backbone", "r51", *quick]) == 1
    assert "r51" in capsys.readouterr().err
    assert benchmark.main(["embedding", *quick, "--sides", "113"]) == 1
    assert "--sides lie in 1 .. 112" in capsys.readouterr().err


@pytest.mark.parametrize("flip", ["none", "sum"])
def test_the_network_sees_each_image_once_and_once_mirrored(flip):
    """As often as the bare network that it is compared with, in batches of the same size."""
    seen: list[int] = []

    class Model(torch.nn.Module):
        def embed(self, image, score=None):
            seen.append(len(image))
            return image.flatten(1)[:, :4]

    pictures = [cv2.imencode(".png", np.full((112, 112, 3), 40 * i, np.uint8))[1].tobytes() for i in range(5)]
    found = embedding.embed(Model(), pictures, world=World(0, 0, 1, CPU), side=28, flip=flip)
    assert seen == [5] * (1 if flip == "none" else 2) and found.shape == (5, 4)


@pytest.mark.parametrize("way", ["score", "bare"])
def test_pooling_alone_is_a_case(way, capsys):
    assert scoring_bench.main(["pooling", way, "400", "10", str(torch.get_num_threads())]) == 0
    assert json.loads(capsys.readouterr().out)["seconds"] > 0


def test_probes_of_the_cases_are_found_as_often_as_in_benchmarks():
    embeddings = torch.randn(3000, 512, generator=torch.Generator().manual_seed(0))
    probes, mates = np.arange(100), np.arange(100, 200)
    scoring_bench._near(embeddings, probes, mates)
    unit = unit_float32(embeddings)
    cosine = (unit[:100] * unit[100:200]).sum(1)
    assert -0.1 < cosine.min() < 0.1 and 0.35 < cosine.max() < 0.6 and 0.2 < cosine.mean() < 0.3
    found = search(embeddings[:100], probes, unit[100:], np.arange(2900))
    assert 0.5 < (found.position == 1).mean() < 0.95


@pytest.mark.parametrize("crowded", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("width", [4, 8, 512])
def test_a_search_in_tiles_finds_what_sorting_finds(monkeypatch, width, crowded):
    monkeypatch.setattr(identification, "TILE", width)
    monkeypatch.setattr(identification, "TILES", 3)
    monkeypatch.setattr(identification, "CROWDED", crowded)
    generator = np.random.default_rng(0)
    rows = generator.integers(-3, 4, (30, 6)) + 0.5  # so that some are equal
    gallery, probes = rows[generator.integers(30, size=50)], rows[generator.integers(30, size=20)]
    stored, asked = generator.integers(8, size=50), generator.integers(8, size=20)
    unit = unit_float32(gallery)
    found = search(probes, asked, unit, stored)
    alike = (unit_float32(probes) @ unit.T).numpy()
    for i, row in enumerate(alike):
        mates = stored == asked[i]
        assert np.isclose(row[found.best[i]], row.max()) and np.isclose(found.similarity[i], row.max())
        least = row[mates].max() - 1e-6
        assert found.position[i] == 1 + (row[~mates] >= least).sum()
