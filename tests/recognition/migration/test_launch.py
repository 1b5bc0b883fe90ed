"""recognition/migration: the command that trains, its options and processes; what is laid over its settings."""

from __future__ import annotations

import pytest

from recognition import config as settings
from recognition.migration.convert import convert
from recognition.migration.sources import find
from tests.recognition.migration.converting import converted, petal, rows
from tests.recognition.migration.sources import ARCFACE, LORA, petalface, write


def test_petalface_command_line_options(tmp_path):
    line = "python train.py --network=vit_b --rec /data/x --dali False --fp16 --lora_rank 8 --val_targets lfw,calfw"
    found = find(line)
    assert (found.program, found.processes, found.source) == ("PETALface", 1, "a command line")
    assert "takes any text for True" in found.notes[0]
    done = convert(found, tmp_path / "mine.py")
    config = settings.load(write(tmp_path / "mine.py", done.text))
    assert (config.backbone.name, config.data.loader, config.train.checkpoint_activations) == ("vit_b", "auto", True)
    assert [one["path"] for one in config.evaluation.sets] == ["/data/x/lfw.bin", "/data/x/calfw.bin"]
    assert "Run     python tools/train.py" in done.text


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("python train.py --network swin --rec x", "there is no such network here"),
        ("python train.py --network r50 --rec x --loraa 3", "loraa is not a setting that is known of PETALface"),
        ("python train.py --network r50 --rec x --lr $LR", r"(known to \$LR only)"),
        ("python train.py --network r50 --rec x --lr fast", "lr = 'fast': it takes a number"),
        ("python train.py --network r50 --rec x --lr", "--lr has no value"),
        ("python train.py --network r50 rec", "'rec' stands where an option was expected"),
        ("python train.py --epochs 3", "neither a config nor --network"),
        ("python train_v2.py configs/absent", "trains with configs/absent.py, which is not here"),
        ("python train_v2.py $CONFIG", "the config's name depends on"),
        ("python train_iqa.py --network r50 --rec x --use_lora --load_pretrained y", "does not start without --iqa"),
        ("python train.py --network r50 --rec x --head mlp", "there is no such head here"),
    ],
)
def test_command_lines_that_cannot_be(tmp_path, line, said):
    with pytest.raises(ValueError, match=said):
        convert(find(line), tmp_path / "mine.py")


def test_what_its_name_says_of_the_processes(tmp_path):
    for name, processes in (("r50_16gpus.py", 16), ("x_8gpu_vit_b.py", 8), ("r50_onegpu.py", 1), ("r50.py", None)):
        assert find(str(write(tmp_path / name, ARCFACE))).processes == processes
    done = convert(find(str(tmp_path / "r50_16gpus.py")), tmp_path / "mine.py")
    assert "torchrun --nnodes 2 --nproc-per-node 8" in done.text


TRAIN = "train_iqa.py --network swin_256new --rec /d"


@pytest.mark.parametrize(
    ("line", "processes"),
    [
        (f"python {TRAIN}", 1),
        (f"LR=1 nohup python3 -u {TRAIN}", 1),
        (f"env CUDA_VISIBLE_DEVICES=0,1 torchrun --nproc_per_node=gpu {TRAIN}", 2),
        (f"export CUDA_VISIBLE_DEVICES=0,1,2\ntorchrun --nproc-per-node auto {TRAIN}", 3),
        (f"CUDA_VISIBLE_DEVICES=$IDS torchrun --nproc_per_node=gpu {TRAIN}", None),
        (f"python -u -m torch.distributed.launch --nproc_per_node=4 --nnodes 2 {TRAIN}", 8),
        (f"torchrun {TRAIN}", 1),
        (f"torchrun --nproc=8 {TRAIN}", None),
        (f"torchrun --nnodes=1:4 --nproc_per_node=8 {TRAIN}", None),
        (f"$PYTHON {TRAIN}", None),
        (f"PYTHON=/opt/bin/python3.11\n$PYTHON -u {TRAIN}", 1),
        (f"srun -n 8 python {TRAIN}", None),
        (f"mpirun -np 8 python {TRAIN}", None),
        (f"srun torchrun --nproc_per_node=8 {TRAIN}", None),
        (f"accelerate launch --num_processes 8 {TRAIN}", None),
    ],
)
def test_processes_are_counted_where_they_are_told(tmp_path, line, processes):
    found = find(str(write(tmp_path / "run.sh", line)))
    assert found.processes == processes
    assert any("give --processes N" in note for note in found.notes) == (processes is None)
    assert find(str(tmp_path / "run.sh"), processes=8).processes == 8


def test_only_what_runs_a_program_trains(tmp_path):
    beside = "vim train_v2.py\ncat train_v2.py\ncp train_v2.py old.py\necho python train_v2.py configs/a\n"
    write(tmp_path / "configs" / "a.py", ARCFACE)
    script = write(tmp_path / "run.sh", beside + "torchrun --nproc_per_node=4 train_v2.py configs/a\n")
    assert find(str(script)).processes == 4


def test_what_a_branch_sets_or_runs_is_not_certain(tmp_path):
    line = f"torchrun --nproc_per_node=2 {TRAIN} --lr $LR\n"
    for text in (
        'if [ "$1" = a ]; then LR=0.1; else LR=0.2; fi\n' + line,
        "for LR in 0.1 0.01; do\n" + line + "done\n",
        "LR=0.1\nfor R in 1 2; do\n" + line + "LR=0.2\ndone\n",
        "case $1 in a) LR=0.1;; *) LR=0.2;; esac\n" + line,
        'LR=0.1\n[ -n "$1" ] && LR=0.2\n' + line,
        "LR=0.1\nset_it() {\nLR=0.2\n}\nset_it\n" + line,
    ):
        with pytest.raises(ValueError, match=r"known to \$LR, which depends on `"):
            petal(tmp_path, text)
    assert petal(tmp_path, "if [ $1 ]; then LR=0.3; else LR=0.3; fi\n" + line)[0].optim.lr == 0.3
    assert petal(tmp_path, "cd /x && (LR=0.9; true)\nLR=0.3\n" + line)[0].optim.lr == 0.3
    for text in (
        "if false; then\nLR=1\n" + line + "fi\n",
        "LR=1\ntest -f x && " + line,
        "LR=1\nf() {\n" + line + "}\n",
    ):
        with pytest.raises(ValueError, match=r"depends on a condition whether: choose one by --command N \(1 = line"):
            petal(tmp_path, text)
        assert find(str(tmp_path / "run.sh"), command=1).settings["lr"].value == 1.0


def test_options_from_a_variable(tmp_path):
    line = "torchrun --nproc_per_node=2 train_iqa.py {} --rec /d --iqa cnniqa --load_pretrained /w\n"
    given = "--network swin_256new_iqa --use_lora --lora_rank 8"
    for text in (
        f'ARGS="{given}"\n' + line.format("$ARGS"),
        f"ARGS=(\n  {given}\n)\n" + line.format('"${ARGS[@]}"'),
        "ARGS=(--network swin_256new_iqa)\nARGS+=(--use_lora --lora_rank 8)\n" + line.format("${ARGS[@]}"),
        f'ARGS="{given}"\n' + "eval " + line.format("$ARGS"),
    ):
        config, _ = petal(tmp_path, text)
        assert (config.backbone.name, config.adapter.name, config.adapter.rank) == ("swin_120", "dual_lora", 8)
    for text, said in (
        (f'ARGS="{given}"\n' + line.format('"$ARGS"'), "is one word for the shell, and no option"),
        (line.format("--lr 1 $ARGS"), "'\\$ARGS' is known to a shell only"),
        (line.format('--lr 1 "${ARGS[@]}"'), "is known to a shell only"),
    ):
        with pytest.raises(ValueError, match=said):
            convert(find(str(write(tmp_path / "run.sh", text))), tmp_path / "mine.py", allow_unknown=True)


def test_a_script_s_size_is_limited(tmp_path):
    (tmp_path / "run.sh").write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(ValueError, match="that is no launch script"):
        find(str(tmp_path / "run.sh"))


def test_rows_say_what_is_laid_over_them(tmp_path):
    over = ("optim.lr=0.7", "schedule.power=2", "data.records=/x", "margin.name=adaface", "data.batch_size=64")
    config, done = converted(tmp_path, ARCFACE, *over)
    told = rows(done)
    assert told["lr"].remark == "overridden: optim.lr=0.7" and config.optim.lr == 0.7
    assert "overridden: data.records=['/x']" in told["rec"].remark
    assert (
        "margin.name='adaface', with margin.name=adaface goes margin.margin, margin.scale" in told["margin_list"].remark
    )
    assert any("overridden: schedule.power=2.0" in row.remark for row in done.rows)
    assert not any("overridden" in told[name].remark for name in ("batch_size", "network", "optimizer", "val_targets"))


def test_an_adapter_s_arguments_do_not_go_in_silence(tmp_path):
    config, done = petal(tmp_path, petalface(rest=f"{LORA} --iqa cnniqa"), "adapter.name=lora")
    assert "rank" not in config.adapter
    assert "with adapter.name=lora goes adapter.rank: give again" in rows(done)["lora_rank"].remark
    config, done = petal(tmp_path, petalface(rest=f"{LORA} --iqa cnniqa"), "adapter.name=lora", "adapter.rank=4")
    assert config.adapter.rank == 4 and "overridden" not in rows(done)["lora_rank"].remark
