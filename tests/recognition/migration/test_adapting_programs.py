"""recognition/migration: FaceMoE in its stages, PETALface with its adapters."""

from __future__ import annotations

import pytest

from recognition.migration.convert import convert
from recognition.migration.sources import find
from tests.recognition.migration.converting import converted, petal, rows
from tests.recognition.migration.sources import FACEMOE, LORA, petalface, write


def test_facemoe_in_three_stages(tmp_path):
    first, done = converted(tmp_path, FACEMOE.format(stage="fc", start="pre"), name="tiny_fc.py")
    assert done.found.program == "FaceMoE" and first.run.name == "tiny_fc"
    assert first.adapter == {
        **{"name": "moe", "weights": "checkpoints/facemoe_adapter", "experts": 4, "top_k": 1},
        **{"mixing": "logits", "z_loss": "code", "train": "none"},
    }
    assert first.backbone == {"name": "swin_120", "weights": "checkpoints/facemoe.safetensors"}
    assert (first.data.augment, first.optim.accumulate, first.classifier.init) == (["adaface"], 24, "random")
    assert first.train.precision == "fp32"
    second, _ = converted(tmp_path, FACEMOE.format(stage="full", start="tiny_fc"), name="tiny_full.py")
    assert second.adapter.train == "all"
    assert second.adapter.weights == second.classifier.init == f"runs/{first.run.name}"
    assert second.backbone == first.backbone
    whole, _ = converted(tmp_path, FACEMOE.format(stage="x", start="tiny_x"), name="wf4m.py")
    assert (whole.adapter.train, whole.adapter.auxiliary_weight, whole.backbone.weights) == ("all", 0.0, "")


def test_a_script_says_the_stage_and_the_processes(tmp_path):
    write(tmp_path / "configs" / "tiny.py", FACEMOE.format(stage="x", start="tiny_y"))
    line = "torchrun --nproc_per_node=4 {} configs/tiny\n"
    script = write(
        tmp_path / "train.sh",
        "# " + line.format("train.py") + line.format("train_fc.py") + line.format("train_full.py"),
    )
    with pytest.raises(ValueError, match="starts 2 trainings: choose one by --command N"):
        find(str(script))
    found = find(str(script), command=2)
    assert (found.program, found.script, found.processes) == ("FaceMoE", "train_full.py", 4)
    assert "adapter.train='all'" in str(rows(convert(found, tmp_path / "mine.py")))


def test_petalface_gated(tmp_path):
    config, done = petal(tmp_path, petalface(rest=f"{LORA} --iqa cnniqa --threshold 0.5"))
    assert config.backbone == {"name": "swin_120", "shift_mask": False, "weights": "/store/base/model.pt"}
    assert config.adapter == {
        **{"name": "dual_lora", "weights": "", "rank": 4, "scaling": 2.0, "dropout": 0.1, "dropout_at": "output"},
        **{"targets": ["**.attn.qkv"], "head": True},
    }
    assert config.scorer == {"name": "pyiqa", "metric": "cnniqa"}
    assert (config.gate.shape, config.gate.midpoint, config.gate.slope, config.gate.fit) == ("linear", 0.5, 1.0, "")
    assert (config.optim.name, config.optim.lr, config.optim.weight_decay) == ("adamw", 5e-4, 0.1)
    assert (config.schedule.power, config.schedule.epochs, config.schedule.warmup_epochs) == (1.0, 50.0, 2.0)
    assert (config.data.batch_size, config.run.seed, config.train.precision) == (8, 19, "fp32")
    assert done.found.processes == 2 and "Run     torchrun --nproc-per-node 2" in done.text
    assert not config.evaluation.sets  # its default names sets that it skips where they are missing


def test_petalface_brisque_is_turned_and_its_threshold_was_never_told(tmp_path):
    config, done = petal(tmp_path, petalface(rest=f"{LORA} --iqa brisque --threshold 40"))
    assert config.gate.midpoint == -40.0 and "sign is turned" in rows(done)["iqa"].remark
    config, done = petal(tmp_path, petalface(rest=f"{LORA} --iqa brisque --threshold <threshold>"))
    assert config.gate.fit == "quantiles" and "none was published" in rows(done)["threshold"].remark


def test_petalface_without_a_gate(tmp_path):
    config, done = petal(tmp_path, petalface("train.py"))
    assert config.adapter.name == "lora" and config.adapter.targets == ["**.attn.qkv"]
    assert "head_rank" not in config.adapter and "fails" in rows(done)["use_lora"].remark
    config, _ = petal(tmp_path, petalface("train.py", "r50"))
    assert config.adapter.name == "lora" and "targets" not in config.adapter and config.train.precision == "fp16"
    config, done = petal(tmp_path, petalface("train.py", "swin_256new", "--load_pretrained /store/base"))
    assert config.adapter.name == "full" and config.backbone.weights == ""
    assert "trains from scratch" in rows(done)["load_pretrained"].remark


def test_a_second_stage_without_a_name_is_no_first_one(tmp_path):
    text = FACEMOE.format(stage="other", start="tiny_fc")
    with pytest.raises(ValueError, match=r"which one only its program tells: convert the line that starts it"):
        converted(tmp_path, text, name="mine.py")
    line = f"torchrun --nproc_per_node=8 train_full.py {tmp_path / 'configs' / 'mine.py'}"
    done = convert(find(line), tmp_path / "out.py")
    assert "adapter.weights='runs/tiny_fc'" in rows(done)["pretrained"].becomes


def test_the_second_stage_draws_new_centres_with_sgd(tmp_path):
    text = FACEMOE.format(stage="full", start="tiny_fc").replace("adamw", "sgd")
    second, done = converted(tmp_path, text, name="tiny_full.py")
    assert (second.adapter.weights, second.classifier.init) == ("runs/tiny_fc", "random")
    assert "draws new centres for sgd" in rows(done)["pretrained"].remark
    # sums of 24 batches there
    assert (second.optim.clip, second.optim.lr) == (5 / 24, pytest.approx(0.001 * 24))


def test_a_script_whose_lines_are_comments(tmp_path):
    write(tmp_path / "configs" / "tiny_fc.py", FACEMOE.format(stage="fc", start="pre"))
    script = write(
        tmp_path / "train.sh",
        "# it's for two stages\n# torchrun --nproc_per_node=8 train.py configs/wf4m.py\n\n"
        "# torchrun --nproc_per_node=8 \\\n#   train_fc.py configs/tiny_fc.py\n",
    )
    with pytest.raises(ValueError, match=r"all are commented out: choose one by --command N.*2 = line 4") as error:
        find(str(script))
    assert "train_fc.py configs/tiny_fc.py" in str(error.value)
    found = find(str(script), command=2)
    assert (found.script, found.processes, found.notes[0]) == (
        "train_fc.py",
        8,
        "train.sh line 4 is commented out there",
    )
