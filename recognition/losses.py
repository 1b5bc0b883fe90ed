"""What is minimised: the classifier's loss and the objectives', on embeddings of a batch and of its further views."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from easydict import EasyDict
from torch import Tensor

from recognition.data.records import Records
from recognition.distributed import World, gather
from recognition.loss_parts import TWIN, bind_base, make_margin, make_objectives, own_quality
from recognition.model import FaceModel
from recognition.partial_fc import LabelError, PartialFC
from recognition.partial_fc.sampling import OF_OBJECTIVES, mix
from recognition.types import IMAGE_SIZE, Batch, ObjectiveContext

OF_CLASSIFIER = (  # settings of config.classifier that PartialFC takes
    "sample_rate",
    "sampling",
    "hard_share",
    "state",
    "precision",
    "filter_threshold",
    "filter_mode",
)


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
    base_parameters: how many weights frozen networks have that a scorer or an objective looks through.
    terms: () by name, of the last batch: the parts of the loss before their weights; with one part alone, none.
    """

    def __init__(self, config: EasyDict, model: FaceModel, records: Records, world: World, counts: list[int]) -> None:
        """counts: images of each process in a micro-step. ValueError for settings that contradict one another."""
        self.config, self.model, self.records, self.counts = config, model, records, counts
        self.share = config.classifier.weight
        if self.share == 0 and config.classifier.twins:
            raise ValueError("config.classifier.twins classifies the clean pictures, but classifier.weight is 0")
        if self.share < 0 or (self.share == 0 and not config.objectives):
            raise ValueError(
                f"config.classifier.weight is {self.share:g}; it must be positive, or 0 with config.objectives to train"
            )
        margin = make_margin(config)
        self.quality = model
        if getattr(margin, "needs_gate", False) and not model.needs_gate:
            self.quality = own_quality(config).to(world.device).eval()
        self.base_parameters = 0 if self.quality is model else sum(p.numel() for p in self.quality.parameters())
        self.classifier = PartialFC(
            model.backbone.embedding_size,
            records.num_classes,
            margin,
            seed=config.run.seed,
            **{name: config.classifier[name] for name in OF_CLASSIFIER},
        ).to(world.device)
        self.objectives = make_objectives(config).to(world.device)
        self.weights = [chosen.get("weight", 1.0) for chosen in config.objectives]
        self._check()
        if self.objectives:
            self.classifier.add_module("objectives", self.objectives)
            self.base_parameters += bind_base(self.objectives, config, world)
        if self.quality is not model:
            self.classifier.add_module("margin_gate", self.quality.quality_gate)
        self.score: Tensor | None = None
        self.terms: dict[str, Tensor] = {}
        self._of_views: dict[str, Tensor] = {}  # scores of the last batch's views, where the model needs them

    @property
    def views(self) -> int:
        """Passes of the network that a batch takes beside its own: one for each view."""
        image = torch.zeros(2, 3, IMAGE_SIZE, IMAGE_SIZE)
        points = torch.tensor([[38.0, 52.0], [74.0, 52.0], [56.0, 72.0], [42.0, 92.0], [70.0, 92.0]])
        batch = Batch(
            image=image,
            label=torch.tensor([0, 1]),
            key=torch.tensor([[0, 0], [0, 1]]),
            twin=image,
            level=torch.zeros(2),
            landmarks=points.expand(2, 5, 2),
        )
        return len(self._views(batch))

    def _views(self, batch: Batch) -> dict[str, Tensor]:
        views = {TWIN: batch.twin} if self.config.classifier.twins else {}
        for objective in self.objectives:
            views |= objective.views(batch) if hasattr(objective, "views") else {}
        return views

    def seen(self, batch: Batch) -> Seen:
        """The batch and the views that the objectives ask for, as one pass of the network takes them."""
        views = self._views(batch)
        self.score, score = self.quality.score_batch(batch), None
        if self.model.needs_gate:
            self._of_views = {n: self.model.score_batch(_as_seen(batch, n, image)) for n, image in views.items()}
            score = torch.cat([self.score, *self._of_views.values()])
        return Seen(torch.cat([batch.image, *views.values()]) if views else batch.image, score, tuple(views))

    def __call__(self, embedding: Tensor, seen: Seen, batch: Batch, update: int, micro_step: int = 0) -> Tensor:
        """The loss of the global batch, (). embedding: float32 (B * (1 + views), D) of what seen() gave.

        update, micro_step: what is drawn is a function of them. ValueError naming the record of a label that is no
        class.
        """
        embedding, *others = embedding.split(len(batch))
        views, parts, log_total = dict(zip(seen.views, others, strict=True)), {}, None
        if self.share:
            parts["classifier"] = self._classification(embedding, views, batch, (update, micro_step))
            log_total, self.classifier.log_total = self.classifier.log_total, None
        if self.objectives:
            parts |= self._objectives(embedding, views, batch, log_total, (update, micro_step))
        self.terms = {name: part.detach() for name, part in parts.items()} if len(parts) > 1 else {}
        weights = [*([self.share] if self.share else []), *self.weights]
        return sum(weight * part for weight, part in zip(weights, parts.values(), strict=True))

    def _check(self) -> None:
        """ValueError for what would be told at the first update only, or never."""
        config, margin, size = self.config, self.classifier.margin, self.model.backbone.embedding_size
        if check := getattr(margin, "check", None):
            check(self.classifier.num_classes)
        if getattr(margin, "needs_gate", False) and self.quality.middle_scores(2) is not None:
            with torch.no_grad():
                self._one_gate(self.quality.quality_gate(self.quality.middle_scores(2)))
        for chosen, objective, weight in zip(config.objectives, self.objectives, self.weights, strict=True):
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
                raise ValueError(
                    f"the weight of objective '{chosen.name}' is {weight!r}; it must be 0 or more, and finite"
                )
            if getattr(objective, "embedding_size", size) != size:
                raise ValueError(
                    f"objective '{chosen.name}' is made for embeddings of {objective.embedding_size}, but "
                    f"{config.backbone.name} gives {size}: set its embedding_size={size}"
                )
            if not getattr(objective, "needs_log_total", False):
                continue
            if not self.share or hasattr(margin, "reduce"):
                raise ValueError(
                    f"objective '{chosen.name}' adds to a classifier's softmax, and there is none: config.classifier."
                    f"weight is {self.share:g}, margin '{config.margin.name}'; take a margin that does not own its "
                    "reduction, such as cosface, with config.classifier.weight=1"
                )
            if getattr(margin, "scale", objective.scale) != objective.scale:
                raise ValueError(
                    f"objective '{chosen.name}' has scale {objective.scale:g}, margin '{config.margin.name}' "
                    f"{margin.scale:g}: their logits stand in one sum, so give both the same"
                )

    def _one_gate(self, gate: Tensor) -> Tensor:
        if gate.ndim > 1:
            raise ValueError(
                f"margin '{self.config.margin.name}' takes one gate an image, but config.gate.shape="
                f"{self.config.gate.shape} gives {gate.shape[1]}; take linear, sigmoid, petal or steps"
            )
        return gate

    def _classification(
        self, embedding: Tensor, views: dict[str, Tensor], batch: Batch, drawn: tuple[int, int]
    ) -> Tensor:
        parts = [(embedding, batch, self.score)]
        if self.config.classifier.twins:
            twin = _as_seen(batch, TWIN, batch.twin)
            known = self._of_views.get(TWIN)
            parts.append((views[TWIN], twin, self.quality.score_batch(twin) if known is None else known))
        embeddings, batches, scores = zip(*parts, strict=True)
        score = None if self.score is None else torch.cat(scores)
        margin, gate = self.classifier.margin, None
        if getattr(margin, "needs_gate", False):
            gate = self._one_gate(self.quality.quality_gate(score).detach())
        measure = getattr(margin, "measure", None)
        try:
            return self.classifier(
                torch.cat(embeddings),
                torch.cat([batch.label] * len(parts)),
                score=score,
                gate=gate,
                measured=None if measure is None else torch.cat([measure(one) for one in batches]),
                counts=[len(parts) * count for count in self.counts],
                step=drawn[0],
                micro_step=drawn[1],
            )
        except LabelError as error:
            indices = [self.records.index_of(*batch.key[row % len(batch)].tolist()) for row in error.rows]
            places = ", ".join(map(self.records.where, indices)) or "the records of another process"
            raise ValueError(f"{error}; in {places}") from None

    def _objectives(
        self,
        embedding: Tensor,
        views: dict[str, Tensor],
        batch: Batch,
        log_total: Tensor | None,
        drawn: tuple[int, int],
    ) -> dict[str, Tensor]:
        """The objectives' losses by name; a name that is there twice is numbered."""

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
            generator=torch.Generator().manual_seed(mix(self.config.run.seed, *drawn, OF_OBJECTIVES)),
            update=drawn[0],
        )
        rows, label = everyone(embedding), everyone(batch.label)
        names = [chosen.name for chosen in self.config.objectives]
        called = [f"{n}_{i + 1}" if names.count(n) > 1 else n for i, n in enumerate(names)]
        return {name: o(rows, label, context) for name, o in zip(called, self.objectives, strict=True)}


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
