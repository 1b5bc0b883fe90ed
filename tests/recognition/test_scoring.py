"""Every picture scored once: by any number of processes, through interruptions; and what training makes of it."""

from __future__ import annotations

import os
import shutil
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessExitedException

from iqa import SCORERS
from recognition import config as settings
from recognition import scoring, scoring_share
from recognition.data.augment import normalise
from recognition.data.decode import decode
from recognition.data.landmarks import write_landmarks
from recognition.data.records import Records
from recognition.data.scores import ShardScores
from recognition.distributed import World
from recognition.files import _machine
from recognition.model import assemble
from recognition.scoring import Scored, complete, identify
from tests.disk import fill, small_disk
from tests.iqa.scorers import forest_file, onnx_file
from tests.launch import run_groups, run_processes
from tests.small import write_records
from tests.tiny import nameable
from tests.training import CPU, tiny_recipe

BLOCK = 4  # images; 70 records are 18 blocks, 18 rounds of one process
GATED = ("adapter.name=dual_lora", "adapter.rank=2", "degradation.share=0.5")


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    _shrink(monkeypatch.setattr)


def _shrink(put) -> None:
    put(scoring_share, "CPU_BLOCK", BLOCK)
    put(scoring_share, "ROUND", 1)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of 35 pictures."""
    folder = tmp_path_factory.mktemp("faces")
    for shard in range(2):
        write_records(folder / f"train-0000{shard}-of-00002", people=5, images=7, seed=shard)
    return folder


@pytest.fixture
def folder(faces: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(faces, tmp_path / "faces"))


class Counting(nn.Module):
    """Sharpness that counts its calls, and does something at one of them."""

    needs, version, range, exportable = "image", 1, (0.5, 2.5), True

    def __init__(self, at: int = -1, action=None) -> None:
        super().__init__()
        self.inner, self.calls, self.at, self.action = SCORERS.create("sharpness"), 0, at, action

    def forward(self, image: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.at:
            self.action()
        return self.inner(image)

    def forward_hook(self, *_: object) -> None:
        self(torch.zeros(1, 3, 4, 4))


def interrupt() -> None:
    raise KeyboardInterrupt


def score(folder: Path, world: World, scorer: nn.Module | None = None, **options: object) -> Scored:
    """The set in `folder` by sharpness, or by a scorer that passes for it."""
    identity = identify("sharpness", {}, SCORERS.create("sharpness"))
    records = Records(folder, hold_out=options.pop("hold_out", 0), bad_record_limit=options.get("bad_record_limit"))
    return complete(records, scorer or SCORERS.create("sharpness"), identity, world, **options)


def sidecars(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.scores.*"))


def test_scores_are_those_of_the_stored_pictures(folder: Path, world: World) -> None:
    done = score(folder, world, threads=2)
    records = Records(folder)
    pixels = np.stack([decode(records.read(i), 112, "") for i in range(len(records))])
    alone = [SCORERS.create("sharpness")((normalise(torch.from_numpy(one[None])) + 1) / 2) for one in pixels]
    np.testing.assert_allclose(done.scores, torch.cat(alone).numpy(), rtol=1e-6)
    assert done.computed == 70 and len(done.reasons) == 2 and len(sidecars(folder)) == 2
    again = score(folder, world, scorer := Counting())
    assert again.computed == scorer.calls == 0 and np.array_equal(again.scores, done.scores) and not again.reasons
    assert set(scoring.check(records, identify("sharpness", {}, scorer.inner)).values()) == {""}


def in_a_group(folder: Path, rank: int, size: int) -> list[float]:
    with pytest.MonkeyPatch.context() as patch:
        _shrink(patch.setattr)
        copy = folder.parent / str(size)
        if rank == 0:
            shutil.copytree(folder, copy)
        dist.barrier()
        return score(copy, World(rank, rank, size, CPU)).scores.tolist()


def test_any_number_of_processes_writes_the_same_file(folder: Path) -> None:
    found = run_groups([1, 2, 3], partial(in_a_group, folder))
    assert len({tuple(scores) for group in found.values() for scores in group}) == 1, "bit for bit, on every process"
    for size in found:
        held = Records(folder.parent / str(size))
        assert not any(scoring.check(held, identify("sharpness", {}, SCORERS.create("sharpness"))).values())


def killed(rank: int, folder: Path) -> None:
    _shrink(setattr)
    scoring_share.KEEP_EVERY = 0.0
    at = Counting(6, lambda: os.kill(os.getpid(), signal.SIGKILL)) if rank == 1 else Counting()
    score(folder, World(rank, rank, 2, CPU), at)


def test_what_a_kill_leaves_is_taken_up_by_another_number_of_processes(folder: Path, world: World) -> None:
    whole = score(Path(shutil.copytree(folder, folder.parent / "whole")), world).scores
    with pytest.raises(ProcessExitedException):
        run_processes(2, killed, folder)
    parts = [name for name in sidecars(folder) if name.endswith(".safetensors")]
    assert len(parts) == 2 and all(".part-" in name for name in parts)
    (folder / f".{parts[0]}.{2**30}@{_machine()}.tmp").write_bytes(b"half")  # as of a process killed while it wrote
    done = score(folder, world, scorer := Counting())
    assert np.array_equal(done.scores, whole)
    assert done.computed in (30, 26) and scorer.calls in (8, 7), "five blocks of each are kept, or six of the other's"
    assert len(sidecars(folder)) == 2 and not any(".part-" in name for name in sidecars(folder))
    assert not list(folder.glob(".*"))


def test_an_interruption_keeps_all_that_was_done(folder: Path, world: World) -> None:
    whole = score(Path(shutil.copytree(folder, folder.parent / "whole")), world).scores
    for at in (10, 3):
        with pytest.raises(KeyboardInterrupt):
            score(folder, world, Counting(at, interrupt))
        assert all(".part-" in name for name in sidecars(folder))
    assert np.array_equal(score(folder, world, scorer := Counting()).scores, whole)
    assert scorer.calls == 18 - 9 - 2


def test_parts_are_written_from_time_to_time(folder: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    keep = ShardScores.write_part
    monkeypatch.setattr(
        ShardScores, "write_part", lambda self, who, k, s: (written.append(len(k)), keep(self, who, k, s))[1]
    )
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr(scoring_share.time, "monotonic", lambda: next(clock))
    score(folder, world)
    assert written[0] == 3 * BLOCK and len(written) < 12, "every 30 seconds, at ten a block"


def test_two_at_once_do_one_another_no_harm(folder: Path, world: World) -> None:
    """One begins and ends while the other is in its middle, and takes over the other's parts."""
    inside: list[Scored] = []
    outer = score(folder, world, Counting(9, lambda: inside.append(score(folder, world))))
    assert np.array_equal(outer.scores, inside[0].scores) and outer.computed == inside[0].computed == 70
    assert len(sidecars(folder)) == 2 and not score(folder, world).reasons


def test_only_what_is_missing_is_computed(folder: Path, world: World) -> None:
    """People who were held out come in later; a shard whose file is damaged is scored again."""
    first = score(folder, world, hold_out=5)
    done = score(folder, world)
    assert done.computed == 70 - first.computed > 0 and len(done.reasons) == 2 and "lacks 7 of 35" in done.reasons[0]
    path = done.paths[1]
    path.write_bytes(path.read_bytes()[:-1])
    again = score(folder, world)
    assert again.computed == 35 and np.array_equal(again.scores, done.scores) and len(again.reasons) == 1


def _spoil(folder: Path) -> int:
    """Make one record of the second shard no picture; its number in the set."""
    records = Records(folder)
    raw, file = records.read(40), records.shards[1]
    content = file.read_bytes()
    file.write_bytes(content.replace(raw, bytes(len(raw))))
    return 40


def test_bad_records_are_errors_or_have_no_score(folder: Path, world: World) -> None:
    bad = _spoil(folder)
    with pytest.raises(ValueError, match=r"train-00001-of-00002\.rec, key 5"):
        score(folder, world)
    done = score(folder, world, bad_record_limit=0.1)
    assert np.flatnonzero(np.isnan(done.scores)).tolist() == [bad] and done.computed < 70, "others were kept"
    assert score(folder, world, bad_record_limit=0.1).computed == 0
    with pytest.raises(ValueError, match=r"1 of 70 records are bad .*bad_record_limit=0\.001"):
        score(folder, world, bad_record_limit=0.001)
    with pytest.raises(ValueError, match=r"key 5"):
        score(folder, world)


def test_scores_that_are_none_are_refused(folder: Path, world: World) -> None:
    class Odd(Counting):
        def forward(self, image: Tensor) -> Tensor:
            return self.given(super().forward(image))

    odd = Odd()
    odd.given = lambda figure: torch.where(torch.arange(BLOCK) == 2, torch.nan, figure)
    with pytest.raises(ValueError, match=r"train-00000-of-00002\.rec, key 2, .*: 'sharpness' scores it nan"):
        score(folder, world, odd)
    odd.given = lambda figure: figure[:, None].expand(-1, 2)
    with pytest.raises(ValueError, match=r"gives \(4, 2\) for 4 images, and says \(4,\)"):
        score(folder, world, odd)
    assert not sidecars(folder)


def fails_on_one(rank: int, folder: Path) -> str:
    _shrink(setattr)
    try:
        score(folder, World(rank, rank, 2, CPU))
    except ValueError as error:
        return str(error)
    return "no error"


def test_all_processes_tell_the_error_of_one(folder: Path) -> None:
    _spoil(folder)
    told = run_processes(2, fails_on_one, folder)
    assert told[0] == told[1] and "train-00001-of-00002.rec, key 5" in told[0]


def test_a_full_disk_is_told_and_what_was_kept_serves(tmp_path: Path, faces: Path, world: World, monkeypatch) -> None:
    with small_disk(tmp_path / "disk", "4m") as disk:
        folder = Path(shutil.copytree(faces, disk / "faces"))
        monkeypatch.setattr(scoring_share, "KEEP_EVERY", 0.0)
        ballast: list[Path] = []
        with pytest.raises(OSError, match=r"No space left.*part-0-"):
            score(folder, world, Counting(12, lambda: ballast.append(fill(disk))))
        ballast[0].unlink()
        score(folder, world, scorer := Counting())
        assert scorer.calls <= 18 - 10 and len(sidecars(folder)) == 2
        assert not list(folder.glob(".*")), "nothing half-written stays"


def test_several_scores_of_each_picture(folder: Path, world: World) -> None:
    both = SCORERS.create("several", scorers=["sharpness", "spectral_slope"])
    identity = identify("several", {"scorers": ["sharpness", "spectral_slope"]}, both)
    with pytest.raises(KeyboardInterrupt), both.register_forward_hook(Counting(5, interrupt).forward_hook):
        complete(Records(folder), both, identity, world)
    done = complete(Records(folder), both, identity, world)
    assert done.scores.shape == (70, 2) and done.computed == 70 - 4 * BLOCK
    np.testing.assert_array_equal(done.scores[:, 0], score(folder, world).scores)
    again = complete(Records(folder), both, identity, world)
    assert again.computed == 0 and np.array_equal(again.scores, done.scores)


def test_files_within_several_count_by_what_they_hold(tmp_path: Path) -> None:
    file = onnx_file(tmp_path)
    for written in (f"onnx:{file}", {"name": "onnx", "file": str(file)}):
        scorers = {"scorers": ["sharpness", written]}
        onnx_file(tmp_path)
        before = identify("several", scorers, SCORERS.create("several", **scorers))
        assert str(tmp_path) not in before.arguments
        onnx_file(tmp_path, weights=(0.5, 0.25, 0.25))
        assert identify("several", scorers, SCORERS.create("several", **scorers)) != before


def test_what_a_score_depends_on(tmp_path: Path) -> None:
    plain = identify("sharpness", {}, SCORERS.create("sharpness"))
    assert identify("sharpness", {"measure": "energy"}, SCORERS.create("sharpness")) == plain, (
        "defaults are spelled out"
    )
    assert identify("sharpness", {"log": False}, SCORERS.create("sharpness", log=False)) != plain
    one = forest_file(tmp_path)
    forest = identify("landmark_forest", {"file": str(one)}, SCORERS.create("landmark_forest", file=str(one)))
    moved = one.rename(tmp_path / "moved.npz")
    assert forest == identify(
        "landmark_forest", {"file": str(moved)}, SCORERS.create("landmark_forest", file=str(moved))
    )
    other = forest_file(tmp_path, value=np.float32([[0, 0.2, 0, 0.6, 0.9], [0.5, 0, 0, 0, 0]]))
    changed = identify("landmark_forest", {"file": str(other)}, SCORERS.create("landmark_forest", file=str(other)))
    assert changed.weights != forest.weights and forest.needs == "landmarks"


def test_a_scorer_of_the_model_depends_on_its_base(tmp_path: Path) -> None:
    own = ("adapter.name=dual_lora", "adapter.rank=2", "scorer.name=feature_norm")
    with nameable():
        found = []
        for seed in range(2):
            (tmp_path / str(seed)).mkdir()
            torch.manual_seed(seed)
            scorer = assemble(settings.load(tiny_recipe(tmp_path / str(seed)), own)).model.scorer
            found.append(identify("feature_norm", {}, scorer))
    assert found[0].base != found[1].base and found[0].weights == found[1].weights == ""


def test_landmarks_are_scored_without_pictures(folder: Path, world: World, tmp_path: Path) -> None:
    records, file = Records(folder), str(forest_file(tmp_path))
    points = np.random.default_rng(0).uniform(20, 90, (70, 5, 2))
    for number, shard in enumerate(records.shards):
        write_landmarks(shard, records.key[records.shard == number], points[records.shard == number])
    scorer = SCORERS.create("landmark_forest", file=file)
    identity = identify("landmark_forest", {"file": file}, scorer)
    done = complete(records, scorer, identity, world)
    np.testing.assert_array_equal(done.scores, scorer(torch.from_numpy(points).float()).numpy())
    assert complete(records, scorer, identity, world).computed == 0
    write_landmarks(records.shards[0], records.key[:35], points[:35] + 1)
    assert complete(records, scorer, identity, world).computed == 35, "other landmarks, other scores"
