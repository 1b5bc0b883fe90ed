"""How each command of the documents is made small, and which are not run at all, and why.

A command takes what every rule that matches it says, general ones first. One that none matches fails its test.
"""

from __future__ import annotations

from dataclasses import dataclass

ALWAYS = ("train.device=cpu", "train.precision=fp32", "train.compile=False", "data.loader=torch", "data.workers=0")
TINY = ("backbone.name=tiny_of_tests", "backbone.weights=weights/tiny.safetensors")
TINY_VIT = ("backbone.name=tiny_vit_of_tests", "backbone.weights=weights/tiny_vit.safetensors")
PARAMS, PRETRAINED = r"data/weights/mobilefacenet_y1-0000\.params", r"runs/pretrain_\w+/model/adapter\.safetensors"
TRAINED = ("data.batch_size=6", "optim.accumulate=1", "schedule.epochs=0.4", "schedule.warmup_epochs=0.0")
QUICK = ("--repeats=1", "--seconds=0.01", "--warm-up=0", "--batch=4", "--device=cpu")


@dataclass(frozen=True)
class Rule:
    """What is done to the commands that `match`, a regular expression over the plain command, finds.

    add: words behind it. change: pairs of pattern and text. code: exit status. makes: files that are there afterwards.
    before: commands that are run first, small already; in a walk its own steps are, and those of a rule for it. draw:
    pictures are drawn. gone: its first group is a folder or file that the command makes, and that is taken away first.
    says: what the output has.
    alone: it does not hold in walks. walk: it holds in the walk of this document only.
    """

    match: str
    add: tuple[str, ...] = ()
    change: tuple[tuple[str, str], ...] = ()
    code: int = 0
    makes: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    draw: bool = False
    gone: str = ""
    says: str = ""
    alone: bool = False
    walk: str = ""


@dataclass(frozen=True)
class NotRun:
    """Commands that no test runs here, and why. look: what is looked at in their place."""

    match: str
    reason: str
    look: str = ""


ARCFACE = "docs/from_arcface_torch.md"
IMPORTED = ("backbone.name=mobilefacenet_nano", "backbone.embedding_size=32")  # the network of arcface_out/
GOES_ON = ("schedule.epochs=5.0",)  # beyond the ten updates that the set has behind it
RUNS_FROM = (  # what the finished runs of the workspace are made by
    "python tools/train.py configs/demo.py",
    "python tools/export_onnx.py runs/demo",
)
TRAIN = r"^python tools/train\.py (?!--)"
EVALUATED = ("evaluation.bootstrap=20", "evaluation.far=[1e-2,1e-3]", "evaluation.ranks=[1]")
ONE_SET = 'evaluation.sets=[{"name":"pairs","kind":"pairs","records":"data/lfw/test.rec","pairs":"data/lfw/pairs.csv"}]'
OWN_SET = 'evaluation.sets=[{"name":"pairs","kind":"drawn","records":"data/mine_test","count":8,"folds":2}]'
COMPARED = (*EVALUATED, "evaluation.low_res=[112]", ONE_SET)  # each run of a comparison: its table is made of that

RULES = (
    Rule(r" --(help|list)\b"),
    # training
    Rule(TRAIN, add=(*ALWAYS, *TINY, *TRAINED, *EVALUATED)),
    Rule(TRAIN + r"(?!.*train\.resume)", add=("train.resume=never",), alone=True),
    Rule(TRAIN + r"(?!configs/demo\.py$)", add=("evaluation.sets=[]",)),
    Rule(
        TRAIN + r"configs/demo\.py$",
        add=(*EVALUATED, "evaluation.low_res=[112,14]"),
        draw=True,
        makes=("runs/demo/report/report.html", "runs/demo/model/adapter.json"),
    ),
    Rule(TRAIN + r".*(nano|pretrain_vit|moe_tinyface)", add=TINY_VIT),
    Rule(
        TRAIN + r".*resume=runs/wf4m_r50",
        before=("python tools/train.py configs/wf4m_r50.py",),
        change=(("step_000012000", "step_000000002"),),
    ),
    Rule(
        TRAIN + r"configs/forget_identities",
        before=("python tools/train.py configs/demo_full.py",),
        add=("backbone.weights=runs/demo_full/model/adapter.safetensors", "margin.forget=[0,1]"),
    ),
    Rule(TRAIN + r"configs/moe_tinyface_full", before=("python tools/train.py configs/moe_tinyface_classifier.py",)),
    Rule(TRAIN + r"configs/lrfr_derivenet", add=('objectives=[{"name":"derivenet","embedding_size":12}]',)),
    Rule(TRAIN + r"my_faces\.py", add=(*EVALUATED, "evaluation.low_res=[112]", OWN_SET)),
    Rule(
        TRAIN + r"mine\.py",
        before=("python tools/convert_config.py arcface_config.py mine.py --overwrite --processes 8",),
    ),
    Rule(TRAIN + r"mine\.py", walk=ARCFACE, add=(*IMPORTED, "backbone.weights=", *GOES_ON)),
    Rule(TRAIN + r"mine\.py$", walk=ARCFACE, says="continuing runs/mine/checkpoints/"),
    Rule(TRAIN + r"petal\.py", add=("scorer.name=sharpness",)),  # its own is of a package that is not installed
    Rule(TRAIN + r"(fc|full)\.py", add=(*TINY_VIT, "adapter.weights=")),  # the real files have experts
    # one table of several runs: the seeds are alike
    Rule(
        r"^python tools/compare\.py (?!--)",
        change=((r"--seeds (\d+)( \d+)+", r"--seeds \1"), (r"--jobs \d+", "--jobs 1")),
    ),
    # evaluation and answers
    Rule(r"^python tools/(report|compare_runs|export_onnx|merge_adapter|embed|verify|identify)\.py "),
    Rule(r"export_onnx\.py .*--calibrate", change=((r"--images \d+", "--images 16"),), says="file minus torch"),
    Rule(r"--far 1e-2$", change=(("1e-2", "0.1"),)),  # of a set of twelve pictures
    Rule(r"^python tools/report.* --tensorboard", draw=True),
    Rule(
        r"tools/verify\.py .*--card runs/demo/evaluation",  # 1e-4 wants ten thousand pairs of strangers
        before=("python tools/evaluate.py runs/demo --set far=[1e-2]",),
        change=(("1e-4", "1e-2"),),
    ),
    Rule(r"^python tools/evaluate\.py "),
    Rule(r"tools/evaluate\.py .*--protocol (tinyface|scface|survface|ijb)", add=("--argument", "counts=any")),
    Rule(r"tools/evaluate\.py \S+\.safetensors .*--protocol", add=("--set", "ranks=[1]")),
    Rule(r"tools/evaluate\.py .*--edc", add=("--set", "edc.ladder=1", "--set", "bootstrap=20")),
    Rule(r"tools/evaluate\.py .*--config configs/demo\.py", add=("--set", "ranks=[1]")),
    Rule(r"tools/evaluate\.py data/weights", change=((PARAMS, "weights/tiny.safetensors"),)),
    # data
    Rule(
        r"^python tools/(make_records|make_synthetic)\.py ", gone=r"tools/make_(?:records\.py \S+|synthetic\.py) (\S+)"
    ),
    Rule(
        r"tools/make_synthetic\.py ",
        change=(
            (r"--identities \d+", "--identities 20"),
            (r"--images \d+", "--images 2"),
            (r"--pairs \d+", "--pairs 10"),
        ),
        add=("--workers=1",),
    ),
    Rule(r"^python tools/align\.py (?!.*--verify)", gone=r"align\.py \S+ (\S+)"),
    Rule(
        r"tools/align\.py .*--detector det_10g", change=((r"--models \S+", "--models models"),), add=("--det-size=64",)
    ),
    Rule(
        r"tools/align\.py .*--verify data/mine", before=("python tools/align.py photos/ data/mine --points points.csv",)
    ),
    Rule(r"^python tools/(inspect_records|calibrate_gate|score_quality)\.py "),
    Rule(r"tools/calibrate_gate\.py petal\.py", add=(*TINY, "data.workers=0")),
    Rule(r"^python tools/export_records\.py ", gone=r"export_records\.py \S+ (\S+)"),
    Rule(
        r"make_records\.py .*tars/train-",
        walk="docs/records.md",
        before=("python tools/export_records.py data/mine tars/ --shards 4",),
    ),
    # other programs' settings
    Rule(r"^python tools/convert_config\.py "),
    Rule(r"^python (tools/recipes|recognition/command)\.py"),
    # weights and scorers
    Rule(r"^python tools/convert_checkpoint\.py "),
    Rule(
        r"tools/convert_checkpoint\.py arcface_out/ runs/\w+",
        gone=r"arcface_out/ (runs/\w+)",
        add=IMPORTED,
    ),
    Rule(r"tools/convert_checkpoint\.py arcface_out/", walk=ARCFACE, add=(*ALWAYS, *TRAINED, *GOES_ON)),
    Rule(r"convert_checkpoint\.py .*--backbone r50", change=(("--backbone r50", "--backbone mobilefacenet_nano"),)),
    Rule(
        r"tools/convert_checkpoint\.py runs/demo_pretrain", before=("python tools/train.py configs/demo_pretrain.py",)
    ),
    Rule(
        r"^python tools/fit_scorer\.py ",
        change=((PARAMS, "weights/tiny.safetensors"), (PRETRAINED, "weights/tiny_vit.safetensors")),
    ),
    # speed
    Rule(r"^python tools/benchmark\.py (?!checkpoint)", add=QUICK),
    Rule(r"tools/benchmark\.py loader", add=("--records=data/mine/train.rec", "--workers=0")),
    Rule(r"tools/benchmark\.py classifier", change=((r"--classes \d+", "--classes 100"),)),
    Rule(r"tools/benchmark\.py checkpoint", add=("--mib=1", *QUICK[:3])),
    Rule(r"tools/benchmark\.py (iqa|step)", add=("--set", *TINY, "data.records=data/mine/train.rec")),
    Rule(r"tools/benchmark\.py step .*nano", add=("--set", *TINY_VIT, "data.records=data/mine/train.rec")),
)

NOT_RUN = (
    NotRun(
        r"tools/benchmark\.py (scoring|growth|index|sharding|start_up|suite)",
        "starts a process for each row; tests/tools/test_benchmark*.py run them small",
        "parser",
    ),
    NotRun(
        r"tools/benchmark\.py (embedding|metrics|onnx|step --backbone|loader --shards|classifier --classes \d+ \d+"
        r"|.*--samples|.*--processes)",
        "takes other networks and sizes; tests/tools/test_benchmark_*.py run each small",
        "parser",
    ),
    NotRun(r"^(sbatch|kubectl) ", "wants a cluster; tests/test_launch_files.py has one that stands in", "launch"),
    NotRun(
        r"tools/describe_plugins\.py", "takes seconds; tests/tools/test_describe_plugins.py runs and compares", "parser"
    ),
    NotRun(r"^make ", "takes minutes, or needs another machine; `make -n` says that the target is there", "make"),
    NotRun(r"^pip ", "downloads, or changes the environment; options, packages, files are looked up", "pip"),
    NotRun(
        r"^(python tools/demo\.py|lrface demo)",
        "serves until stopped; tests/tools/test_demo.py opens it",
        "parser",
    ),
    NotRun(r"adapter\.name=channel_scale|^pytest ", "is a step of tests/documents/test_own_adapter.py", "own adapter"),
    NotRun(r"^docker ", "there is no docker where the tests run", "docker"),
    NotRun(r"^tensorboard ", "serves until it is stopped", "tensorboard"),
)

NO_COMMANDS = (  # what blocks begin with that are neither commands nor Python
    "4 doors      tools/*",
    '{"name": "ann/1.jpg"',
    "000000017.jpg ",
    "part      u32 magic",
    "similarity  0.",
)
