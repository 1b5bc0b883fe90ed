"""Embedding by all processes, intervals, the runner over sets and low resolutions, reports, the command."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recognition import distributed
from recognition.data.decode import decode
from recognition.data.degrade import low_res
from recognition.data.pairs import PairSet, write_bin
from recognition.data.recordio import Header, RecordWriter, pack
from recognition.evaluation import intervals, report
from recognition.evaluation.compared import side_name
from recognition.evaluation.embed import embed
from recognition.evaluation.gains import compare
from recognition.evaluation.identification import DISTRACTOR
from recognition.evaluation.results import load_results, save_results
from recognition.evaluation.runner import evaluate, scalars
from recognition.evaluation.sets import open_sets
from tests.launch import run_processes

ALONE = distributed.World(0, 0, 1, torch.device("cpu"))


class TinyModel(nn.Module):
    """(B, 3, 112, 112) -> (B, 48): mean colours of a 4 x 4 grid, with a dropout that must be off."""

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        self.drop, self.norm, self.seen = nn.Dropout(0.5), nn.BatchNorm1d(48), []
        self.noise = noise

    def embed(self, image: Tensor, score: Tensor | None = None) -> Tensor:
        self.seen.append(image.shape[0])
        small = nn.functional.adaptive_avg_pool2d(image, 4).flatten(1)
        return self.norm(self.drop(small)) + self.noise * torch.sin(1e4 * small)


def face(person: int, shot: int) -> bytes:
    """A picture of coloured blocks by person, with details and a little noise by shot; encoded without loss."""
    blocks = np.random.default_rng(person).integers(40, 216, (4, 4, 3))
    noise = np.random.default_rng([person, shot]).normal(0, 25, (16, 16, 3))
    picture = np.kron(blocks, np.ones((28, 28, 1))) + np.kron(noise, np.ones((7, 7, 1)))
    return cv2.imencode(".png", np.clip(picture, 0, 255).astype(np.uint8))[1].tobytes()


def write_records(path: Path, labels: list[int], first_person: int = 0) -> None:
    with RecordWriter(path) as writer:
        for key, label in enumerate(labels):
            writer.write(key, pack(Header(label=float(label), id=key), face(first_person + label, key)))


@pytest.fixture
def sets(tmp_path: Path) -> list[dict]:
    """A .bin, a table of pairs, an identification set: 12 people, three shots each but one, 5 distractors."""
    labels = [person for person in range(12) for _ in range(3)] + [12]
    write_records(tmp_path / "test.rec", labels)
    write_records(tmp_path / "others.rec", list(range(5)), first_person=100)
    rows = ["key_1,key_2,same,fold"]
    for person in range(12):
        rows += [f"{3 * person},{3 * person + 1},1,{person % 2}"]
        rows += [f"{3 * person},{(3 * person + 4) % 36},0,{person % 2}"]
    (tmp_path / "pairs.csv").write_text("\n".join(rows) + "\n")
    images = [face(person, shot) for person in range(10) for shot in range(2)]
    first, same = np.arange(20), np.arange(20) % 2 == 0
    write_bin(
        tmp_path / "faces.bin", PairSet("faces", images, first, np.where(same, first + 1, (first + 3) % 20), same)
    )
    records = str(tmp_path / "test.rec")
    return [
        {"name": "bin", "kind": "bin", "path": str(tmp_path / "faces.bin"), "folds": 5},
        {"name": "pairs", "kind": "pairs", "records": records, "pairs": str(tmp_path / "pairs.csv")},
        {
            "name": "who",
            "kind": "identification",
            "records": records,
            "distractors": [str(tmp_path / "others.rec")],
            "low_res": [112, [112, 7]],
        },
    ]


SETTINGS = {"low_res": [112, 7, [112, 7]], "far": [0.1], "ranks": [1, 5], "bootstrap": 200, "batch_size": 8}


def test_embeddings_are_the_model_s() -> None:
    images = [face(person, 0) for person in range(5)]
    model = TinyModel().train()
    model.norm.eval()  # a frozen norm under a model in training
    found = embed(model, images, world=ALONE, side=14, batch_size=2, flip=True)
    assert model.seen == [2, 2, 2, 2, 1, 1]
    assert (model.training, model.drop.training, model.norm.training) == (True, True, False)
    assert found.dtype == torch.float32 and not found.requires_grad
    model.eval()
    for image, row in zip(images, found, strict=True):
        pixels = low_res(torch.from_numpy(decode(image, 112, ""))[None], 14)
        x = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
        torch.testing.assert_close(row, (model.embed(x) + model.embed(x.flip(3)))[0].detach())
    some = embed(model, images, world=ALONE, side=14, flip=True, rows=np.array([3, 1]))
    torch.testing.assert_close(some, found[[3, 1]])
    as_stored = embed(model, images, world=ALONE)
    assert torch.equal(as_stored, embed(model, images, world=ALONE, side=112))


def test_colours_are_rgb() -> None:
    red = cv2.imencode(".png", np.full((112, 112, 3), (0, 0, 255), np.uint8))[1].tobytes()  # OpenCV writes BGR
    assert (embed(TinyModel(), [red], world=ALONE).reshape(3, 16).mean(1) > 0).tolist() == [True, False, False]


def test_undecodable_images_are_named() -> None:
    model = TinyModel().train()
    with pytest.raises(ValueError, match="image 1"):
        embed(model, [face(0, 0), b"no picture"], world=ALONE)
    assert model.training
    with pytest.raises(ValueError, match="0 images"):
        embed(model, [], world=ALONE)


def embed_share(rank: int, count: int) -> tuple[Tensor, int]:
    torch.manual_seed(0)
    world = distributed.World(rank, rank, distributed.world_size(), torch.device("cpu"))
    model = TinyModel()
    return embed(model, [face(p, 0) for p in range(count)], world=world, side=28, batch_size=3), sum(model.seen)


def evaluate_share(rank: int, settings: dict) -> dict[str, float]:
    world = distributed.World(rank, rank, distributed.world_size(), torch.device("cpu"))
    torch.manual_seed(0)
    return scalars(evaluate(TinyModel(), settings, world))


def share_work(rank: int, counts: list[int], settings: dict) -> tuple[list[tuple[Tensor, int]], dict[str, float]]:
    return [embed_share(rank, count) for count in counts], evaluate_share(rank, settings)


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_images(sets: list[dict], processes: int) -> None:
    counts = [7, 2, 1]  # uneven shares, fewer images than processes
    settings = {**SETTINGS, "sets": sets[1:], "low_res": [7]}
    alone, measures = share_work(0, counts, settings)
    assert [seen for _, seen in alone] == counts
    for found, their_measures in run_processes(processes, share_work, counts, settings):
        assert their_measures == pytest.approx(measures)
        for count, (ours, seen), (wanted, _) in zip(counts, found, alone, strict=True):
            torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-6)
            assert seen == -(-count // processes)


def see_a_broken_one(rank: int) -> str:
    """What a process says of a picture that is in the other one's share."""
    images = [face(0, 0), b"no picture", face(1, 0), face(2, 0)]
    try:
        embed(TinyModel(), images, world=dataclasses.replace(ALONE, global_rank=rank, local_rank=rank, world_size=2))
    except ValueError as error:
        return str(error)
    return ""


def test_all_processes_tell_of_a_broken_picture() -> None:
    first, second = run_processes(2, see_a_broken_one)
    assert first == second and "image 1" in first


def test_bootstrap_covers_a_known_binomial() -> None:
    generator = np.random.default_rng(0)
    inside = 0
    for trial in range(300):
        right = generator.random(200) < 0.9
        lo, hi = intervals.interval(intervals.resample_mean(right, resamples=400, seed=trial))
        inside += lo <= 0.9 <= hi
    assert 0.90 <= inside / 300 <= 0.99


def test_bootstrap_is_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random(40)
    means = intervals.resample_mean(values, resamples=4000, seed=1)
    assert means.mean() == pytest.approx(values.mean(), abs=0.005)
    assert means.std() == pytest.approx(values.std() / np.sqrt(40), rel=0.05)
    monkeypatch.setattr(intervals, "CHUNK", 40 * 7)
    assert len(intervals.resample_mean(values, resamples=100)) == 100
    # 10 people of 4 equal items are 10 items
    by_person = intervals.resample_mean(np.repeat(values[:10], 4), groups=np.repeat(np.arange(10), 4), seed=1)
    np.testing.assert_allclose(by_person, intervals.resample_mean(values[:10], seed=1))
    with pytest.raises(ValueError, match="finite"):
        intervals.resample_mean([np.nan])


def test_resampled_tar_is_the_tar_of_the_resample() -> None:
    generator = np.random.default_rng(0)
    same = np.arange(60) % 3 == 0
    scores = np.round(generator.normal(size=60) + same, 1)  # ties
    found = intervals.resample_tar(scores, same, 0.1, resamples=50, seed=3)
    counts = [next(intervals.draw_counts(np.random.default_rng([3, k]), n, 50)) for k, n in ((0, 20), (1, 40))]
    genuine, impostor = -np.sort(-scores[same]), -np.sort(-scores[~same])
    for tar, g, i in zip(found, *counts, strict=True):
        drawn_genuine, drawn_impostor = np.repeat(genuine, g), np.repeat(impostor, i)
        best = 0.0
        for threshold in sorted(set(scores), reverse=True):
            if (drawn_impostor >= threshold).sum() <= 4:
                best = max(best, (drawn_genuine >= threshold).mean())
        assert tar == pytest.approx(best)


def test_paired_difference_is_narrower() -> None:
    generator = np.random.default_rng(0)
    hard = generator.random(1000)
    before, after = hard < 0.8, hard < 0.83  # the same items are hard for both
    found = intervals.difference(before, after)
    assert found["value"] == pytest.approx((after.astype(float) - before).mean()) and found["lo"] > 0
    lo, hi = intervals.interval(
        intervals.resample_mean(after, seed=1) - intervals.resample_mean(before, seed=2)
    )  # not paired
    assert found["hi"] - found["lo"] < (hi - lo) / 2
    with pytest.raises(ValueError, match="same items"):
        intervals.difference(before, after[:-1])


def test_the_runner_over_kinds_and_sides(sets: list[dict]) -> None:
    model = TinyModel()
    results = evaluate(model, {**SETTINGS, "sets": sets}, ALONE)
    assert {name: list(sides) for name, sides in results.items()} == {
        "bin": ["112", "7", "112-7"],
        "pairs": ["112", "7", "112-7"],
        "who": ["112", "112-7"],
    }
    # each image once a side: 20 and 36 images at 112 and 7, 36 - 12 probes, 13 + 5 in the gallery
    bin_images, pair_images = 20, len(open_sets({**SETTINGS, "sets": sets})[1].protocol.images)
    assert sum(model.seen) == 2 * bin_images + 2 * pair_images + (13 + 5 + 24) + 24
    for sides in results.values():
        for measures in sides.values():
            for key, measure in measures.items():
                if key == "accuracy" or key.startswith(("tar@", "rank-")):
                    assert 0 <= measure["lo"] <= measure["value"] <= measure["hi"] <= 1
    who = results["who"]["112"]
    assert (who["probes"], who["gallery"], who["people"]) == (24, 18, 12) and who["rank-1"]["value"] > 0.9
    pairs = results["pairs"]["112"]
    assert pairs["pairs"] == 24 and pairs["genuine"] == 12 and pairs["accuracy"]["value"] > 0.9
    assert pairs["items"]["correct"].mean() == pytest.approx(pairs["accuracy"]["value"])
    assert scalars(results)["pairs/112-7/tar@0.1"] == results["pairs"]["112-7"]["tar@0.1"]["value"]


def test_gallery_at_the_first_side_probes_at_the_second(sets: list[dict]) -> None:
    one = open_sets({"sets": sets[1:2]})[0].protocol
    results = evaluate(TinyModel(), {**SETTINGS, "sets": sets[1:2]}, ALONE)
    model = TinyModel()
    high, low = (embed(model, one.images, world=ALONE, side=side) for side in (112, 7))
    wanted = nn.functional.cosine_similarity(high[one.pairs.first].double(), low[one.pairs.second].double())
    np.testing.assert_allclose(results["pairs"]["112-7"]["items"]["score"], wanted.numpy(), atol=1e-9)
    assert results["pairs"]["112-7"]["items"]["fold"].tolist() == one.pairs.fold.tolist()


def test_identification_rule(sets: list[dict]) -> None:
    one = open_sets({**SETTINGS, "sets": sets[2:]})[0].protocol
    stored = [one.images.where(i) for i in one.gallery[:13]]
    assert all(f"key {3 * person}," in where for person, where in enumerate(stored))  # the lowest key
    assert one.gallery_labels.tolist() == [*range(13), *[DISTRACTOR] * 5]
    assert one.probe_labels.tolist() == [person for person in range(12) for _ in range(2)]
    assert not set(one.probe) & set(one.gallery)


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"low_ress": [112]}, r"unknown setting evaluation.low_ress; did you mean 'low_res'"),
        ({"sets": []}, "evaluation.sets is empty"),
        ({"low_res": [0]}, r"low_res holds 0; it must be a side in 1 \.\. 112"),
        ({"low_res": [[112, 14, 7]]}, "low_res holds"),
        ({"low_res": []}, "low_res is empty"),
    ],
)
def test_faulty_settings_are_named(sets: list[dict], change: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        evaluate(TinyModel(), {**SETTINGS, "sets": sets, **change}, ALONE)


@pytest.mark.parametrize(
    "number, change, error, complaint",
    [
        (0, {"kind": "bim"}, ValueError, "'bin': unknown kind 'bim'; did you mean 'bin'"),
        (0, {"fold": 3}, ValueError, "'bin': protocol 'bin': unexpected argument 'fold'|'bin'.*'fold'.*folds"),
        (0, {"path": "absent.bin"}, FileNotFoundError, "'bin': there is no file absent.bin"),
        (0, {"path": ""}, ValueError, "'bin' of kind bin lacks path"),
        (1, {"records": "absent"}, FileNotFoundError, "'pairs'.*absent"),
        (2, {"distractors": ["absent.rec"]}, FileNotFoundError, "'who'.*absent.rec"),
        (2, {"name": "bin"}, ValueError, "two sets named 'bin'"),
        (2, {"name": ""}, ValueError, "needs a name"),
    ],
)
def test_nothing_missing_is_skipped(
    sets: list[dict], number: int, change: dict, error: type[Exception], complaint: str
) -> None:
    sets[number] = {**sets[number], **change}
    with pytest.raises(error, match=complaint):
        evaluate(TinyModel(), {**SETTINGS, "sets": sets}, ALONE)


def test_drawn_pairs_of_people_held_out(sets: list[dict]) -> None:
    drawn = {"name": "held", "kind": "drawn", "records": sets[1]["records"], "count": 8, "folds": 2, "hold_out": 3}
    one = open_sets({"sets": [drawn]})[0].protocol
    keys = [int(one.images.where(i).split("key ")[1].split(",")[0]) for i in range(len(one.images))]
    assert {key // 3 for key in keys} <= {0, 3, 6, 9, 12} and len(one.pairs) == 8
    assert set(one.folds) == {0, 1}
    evaluate(TinyModel(), {**SETTINGS, "sets": [drawn]}, ALONE)


def test_results_are_kept_and_compared(sets: list[dict], tmp_path: Path) -> None:
    settings = {**SETTINGS, "sets": sets}
    before, after = (evaluate(TinyModel(noise), settings, ALONE) for noise in (3.0, 0.0))
    save_results(tmp_path / "kept", before)
    kept = load_results(tmp_path / "kept")
    assert scalars(kept) == scalars(before)
    assert (
        json.loads((tmp_path / "kept" / "results.json").read_text())["sets"]["who"]["parts"]["112"]["rank-1"]["lo"]
        is not None
    )
    gains, again = compare(before, after), compare(kept, after)
    assert gains == again
    for name, measure in [("pairs", "accuracy"), ("pairs", "tar@0.1"), ("who", "rank-1"), ("bin", "accuracy")]:
        gain = gains[name]["112"][measure]
        difference = after[name]["112"][measure]["value"] - before[name]["112"][measure]["value"]
        assert gain["value"] == pytest.approx(difference) and gain["lo"] <= gain["value"] <= gain["hi"]
    assert gains["pairs"]["112"]["accuracy"]["lo"] > 0
    before["pairs"]["112"]["items"]["same"] = ~before["pairs"]["112"]["items"]["same"]
    with pytest.raises(ValueError, match=r"pairs/112.*'same' differs"):
        compare(before, after)


def test_no_intervals_asked_for(sets: list[dict]) -> None:
    results = evaluate(TinyModel(), {**SETTINGS, "sets": sets[1:], "bootstrap": 0}, ALONE)
    assert results["pairs"]["7"]["accuracy"]["lo"] is None and results["who"]["112"]["rank-1"]["hi"] is None
    assert "to" not in report.table({"m": results}, "pairs", "accuracy")


def test_report(sets: list[dict], tmp_path: Path) -> None:
    settings = {**SETTINGS, "sets": sets}
    results = {name: evaluate(TinyModel(noise), settings, ALONE) for name, noise in (("before", 3.0), ("after", 0.0))}
    text = report.write_report(tmp_path, results).read_text()
    value = results["after"]["pairs"]["112"]["accuracy"]
    cell = f"{100 * value['value']:.1f} ({100 * value['lo']:.1f} to {100 * value['hi']:.1f})"
    assert cell in text and "| accuracy % | 112 | 7 | 112-7 |" in text and "Difference from before" in text
    gained = 100 * (value["value"] - results["before"]["pairs"]["112"]["accuracy"]["value"])
    differences = text.split("Difference from before")[1].split("## pairs")[1]
    assert "| accuracy | 112 | 7 | 112-7 |" in differences and f"| after | {gained:+.1f} (" in differences
    assert "24 probes of 12 people among 18 gallery images." in text
    assert cv2.imread(str(tmp_path / "roc.png")).shape[1] > 300
    figures = report.figures(results)
    assert sorted(figures) == ["roc/bin", "roc/pairs"]
    assert [len(figure.axes) for figure in figures.values()] == [3, 3]
    assert [line.get_label() for line in figures["roc/pairs"].axes[0].lines] == ["before", "after"]
    with pytest.raises(ValueError, match="no results"):
        report.report({})


def test_pictures_of_scores_and_faces() -> None:
    scores = torch.linspace(0, 10, 50)
    figure = report.score_figure(scores, lambda s: (0.5 + 0.2 * (s - 5)).clamp(0, 1))
    curve = figure.axes[1].lines[0].get_xydata()
    assert curve[0].tolist() == [0, 0] and curve[-1].tolist() == [10, 1]
    figure = report.face_figure([face(0, 0), face(1, 0)], sides=(112, 14, 7))
    shown = [image.get_array() for image in figure.axes[0].images]
    assert len(shown) == 6 and np.array_equal(shown[0], decode(face(0, 0), 112, ""))
    figure.canvas.draw()
    for call in (lambda: report.face_figure([]), lambda: report.score_figure(torch.empty(0))):
        with pytest.raises(ValueError):
            call()


def test_side_names() -> None:
    assert (side_name(14, 14), side_name(112, 14)) == ("14", "112-14")
