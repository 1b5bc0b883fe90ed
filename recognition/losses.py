"""What is minimised: the classifier's loss and the objectives', on embeddings of a batch and of its further views."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from easydict import EasyDict
from torch import Tensor, nn

from iqa import make_gate
from recognition.config import arguments
from recognition.data.records import Records
from recognition.distributed import World, gather
from recognition.margins import MARGINS
from recognition.model import FaceModel, assemble, build_backbone, lone_scorer
from recognition.objectives import OBJECTIVES
from recognition.partial_fc import LabelError, PartialFC
from recognition.quality import Quality
from recognition.types import Batch, ObjectiveContext

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
TWIN = "twin"  # the view that is the batch as it was before degradation


@dataclass(frozen=True, slots=True)
class Seen:
    """What one forward pass takes: images of this process, with scores where the model has a gate."""

    image: Tensor  # (B * (1 + views), 3, H, W): the batch's, then those of each view
    score: Tensor | None
    views: tuple[str, ...]


class Losses:
    """Margin, classifier and objectives of a recipe, and the quality that they look at.

    classifier: PartialFC. What else has parameters or statistics, objectives and a gate of the margin's own, lies in it
    as `objectives` and `margin_gate`, so that they go wherever it goes: optimizer, guard, checkpoint.
    quality: the model's, or one of the margin's own where only the margin reads a gate.
    score: (B,) or (B, k), of the last batch; None where nothing reads a gate.
    """

    def __init__(self, config: EasyDict, model: FaceModel, records: Records, world: World, counts: list[int]) -> None:
        """counts: images of each process in a micro-step. ValueError for settings that contradict one another."""
        self.config, self.model, self.records, self.counts = config, model, records, counts
        self.share = config.classifier.weight
        if self.share < 0 or (self.share == 0 and not config.objectives):
            raise ValueError(
                f"config.classifier.weight is {self.share:g}; it must be positive, or 0 with config.objectives to train"
            )
        margin = make_margin(config)
        self.quality = model
        if getattr(margin, "needs_gate", False) and not model.needs_gate:
            self.quality = own_quality(config).to(world.device).eval()
        self.classifier = PartialFC(
            model.backbone.embedding_size,
            records.num_classes,
            margin,
            sample_rate=config.classifier.sample_rate,
            seed=config.run.seed,
            filter_threshold=config.classifier.filter_threshold,
        ).to(world.device)
        self.objectives = make_objectives(config).to(world.device)
        self.weights = [chosen.get("weight", 1.0) for chosen in config.objectives]
        if self.objectives:
            self._check_softmax(margin)
            self.classifier.add_module("objectives", self.objectives)
            _bind(self.objectives, config, world)
        if self.quality is not model:
            self.classifier.add_module("margin_gate", self.quality.quality_gate)
        self.score: Tensor | None = None

    def seen(self, batch: Batch) -> Seen:
        """The batch and the views that the objectives ask for, as one pass of the network takes them."""
        views = {TWIN: batch.twin} if self.config.classifier.twins else {}
        for objective in self.objectives:
            views |= objective.views(batch) if hasattr(objective, "views") else {}
        self.score, score = self.quality.score_batch(batch), None
        if self.model.needs_gate:
            of_views = [self.model.score_batch(_as_seen(batch, name, image)) for name, image in views.items()]
            score = torch.cat([self.score, *of_views])
        return Seen(torch.cat([batch.image, *views.values()]) if views else batch.image, score, tuple(views))

    def __call__(self, embedding: Tensor, seen: Seen, batch: Batch, update: int) -> Tensor:
        """The loss of the global batch, (). embedding: float32 (B * (1 + views), D) of what seen() gave.

        ValueError naming the record of a label that is no class.
        """
        embedding, *others = embedding.split(len(batch))
        views, loss, log_total = dict(zip(seen.views, others, strict=True)), embedding.new_zeros(()), None
        if self.share:
            loss = self.share * self._classification(embedding, views, batch, update)
            log_total, self.classifier.log_total = self.classifier.log_total, None
        if self.objectives:
            loss = loss + self._objectives(embedding, views, batch, log_total, update)
        return loss

    def _check_softmax(self, margin: nn.Module) -> None:
        for chosen, objective in zip(self.config.objectives, self.objectives, strict=True):
            if getattr(objective, "needs_log_total", False) and (not self.share or hasattr(margin, "reduce")):
                raise ValueError(
                    f"objective '{chosen.name}' adds to a classifier's softmax, and there is none: config.classifier."
                    f"weight is {self.share:g}, margin '{self.config.margin.name}'; take a margin that does not own "
                    "its reduction, such as cosface, with config.classifier.weight=1"
                )

    def _classification(self, embedding: Tensor, views: dict[str, Tensor], batch: Batch, update: int) -> Tensor:
        parts = [(embedding, batch, self.score)]
        if self.config.classifier.twins:
            twin = _as_seen(batch, TWIN, batch.twin)
            parts.append((views[TWIN], twin, self.quality.score_batch(twin)))
        embeddings, batches, scores = zip(*parts, strict=True)
        score = None if self.score is None else torch.cat(scores)
        margin, gate = self.classifier.margin, None
        if getattr(margin, "needs_gate", False):
            gate = self.quality.quality_gate(score).detach()
            if gate.ndim > 1:
                raise ValueError(
                    f"margin '{self.config.margin.name}' takes one gate an image, but config.gate.shape="
                    f"{self.config.gate.shape} gives {gate.shape[1]}; take linear, sigmoid, petal or steps"
                )
        measure = getattr(margin, "measure", None)
        try:
            return self.classifier(
                torch.cat(embeddings),
                torch.cat([batch.label] * len(parts)),
                score=score,
                gate=gate,
                measured=None if measure is None else torch.cat([measure(one) for one in batches]),
                counts=[len(parts) * count for count in self.counts],
                step=update,
            )
        except LabelError as error:
            indices = [self.records.index_of(*batch.key[row % len(batch)].tolist()) for row in error.rows]
            places = ", ".join(map(self.records.where, indices)) or "the records of another process"
            raise ValueError(f"{error}; in {places}") from None

    def _objectives(
        self, embedding: Tensor, views: dict[str, Tensor], batch: Batch, log_total: Tensor | None, update: int
    ) -> Tensor:
        def everyone(local: Tensor) -> Tensor:
            return gather(local, self.counts)

        if log_total is not None and self.config.classifier.twins:
            log_total = log_total[_first_halves(self.counts, log_total.device)]
        context = ObjectiveContext(
            batch=batch,
            gather=everyone,
            views={name: everyone(view) for name, view in views.items()},
            score=None if self.score is None else everyone(self.score),
            log_total=log_total,
            generator=torch.Generator().manual_seed(self.config.run.seed * 1_000_003 + update),
        )
        rows, label = everyone(embedding), everyone(batch.label)
        return sum(w * o(rows, label, context) for w, o in zip(self.weights, self.objectives, strict=True))


def make_margin(config: EasyDict) -> nn.Module:
    """The recipe's margin."""
    return MARGINS.create(config.margin.name, **arguments(config.margin, "margin"))


def make_objectives(config: EasyDict) -> nn.ModuleList:
    """The recipe's objectives; their random weights are functions of config.run.seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        return nn.ModuleList(
            OBJECTIVES.create(chosen.name, **arguments(chosen, "objectives")) for chosen in config.objectives
        )


def batch_fields(config: EasyDict) -> set[str]:
    """Optional fields of Batch that the recipe's margin and objectives look at."""
    parts = [make_margin(config), *make_objectives(config)]
    twins = {TWIN} if config.classifier.twins else set()
    return twins.union(*(getattr(part, "fields", ()) for part in parts))


def quality(config: EasyDict) -> Quality:
    """What rates the images in training: the model, or the margin's own; without a gate where nothing reads one."""
    model = assemble(config).model
    if model.needs_gate or not getattr(make_margin(config), "needs_gate", False):
        return model
    return own_quality(config)


def own_quality(config: EasyDict) -> Quality:
    """Scorer and gate of a margin that reads a gate where no layer does. A scorer of the model has a base of its own.

    ValueError for a gate that learns: nothing would teach it.
    """
    scorer = lone_scorer(config)
    gate = make_gate(config.gate, 1, getattr(scorer, "columns", 1))
    if any(parameter.requires_grad for parameter in gate.parameters()):
        raise ValueError(
            f"margin '{config.margin.name}' takes the gate as it is, so a gate that learns has no teacher: "
            f"config.gate.shape is {config.gate.shape}; take linear, sigmoid, petal or steps"
        )
    return Quality(gate, scorer)


def _bind(objectives: nn.ModuleList, config: EasyDict, world: World) -> None:
    """Give the starting network, one for all, to the objectives that ask for it."""
    binds: list[tuple[str, Callable]] = [
        (chosen.name, objective.bind)
        for chosen, objective in zip(config.objectives, objectives, strict=True)
        if hasattr(objective, "bind")
    ]
    if not binds:
        return
    if not config.backbone.weights:
        raise ValueError(
            f"objective '{binds[0][0]}' learns from the network that training starts from, but config.backbone.weights "
            "names no file: a random network teaches nothing"
        )
    base = FaceModel(build_backbone(config, config.backbone.weights), frozen_base=True)
    base = base.to(world.device).eval().requires_grad_(False)
    dtype = AUTOCAST[config.train.precision]

    def embed(image: Tensor) -> Tensor:  # a function, and so no part of an objective's state
        with torch.autocast(world.device.type, dtype=dtype, enabled=dtype is not None):
            return base.embed(image).float()

    for _, bind in binds:
        bind(embed)


def _as_seen(batch: Batch, name: str, image: Tensor) -> Batch:
    """The batch with a view's images: what is known of them besides is the batch's, but a twin is not degraded."""
    clean = name == TWIN and batch.level is not None
    level = torch.zeros_like(batch.level) if clean else batch.level
    if name == TWIN:
        return replace(batch, image=image, level=level)
    return replace(batch, image=image, level=level, score=None, unscored=None)


def _first_halves(counts: list[int], device: torch.device) -> Tensor:
    """Rows of the batch's own images where every process gave them and then as many twins."""
    begins, rows = 0, []
    for count in counts:
        rows.append(torch.arange(begins, begins + count, device=device))
        begins += 2 * count
    return torch.cat(rows)
