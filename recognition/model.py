"""The model that everything outside sees, and its assembly from a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from easydict import EasyDict
from torch import Tensor, nn

import adapters
from adapters import ADAPTERS
from adapters._layers import gated_layers
from iqa import SCORERS, make_gate
from recognition.activation_checkpoint import checkpoint_blocks
from recognition.adapter_start import check_start
from recognition.backbones import BACKBONES
from recognition.config import arguments
from recognition.gate import Gate
from recognition.quality import Quality
from recognition.types import COLOUR_ORDER, IMAGE_RANGE, IMAGE_SIZE, Adapter, AttachReport
from recognition.weights import build_strictly, read_weights

GATE = "quality_gate."  # its tensors in a delivered model; a gate may have learned them


class FaceModel(Quality):
    """A backbone with its adapter, the quality gate and the scorer behind it: one image in, one embedding out."""

    def __init__(
        self,
        backbone: nn.Module,
        gate: Gate | None = None,
        quality_gate: nn.Module | None = None,
        scorer: nn.Module | None = None,
        frozen_base: bool = False,
    ) -> None:
        """quality_gate: maps scores to gates; None for a model without gated layers. scorer: used where no score comes.

        frozen_base: the backbone stays in eval mode (norms, dropout, DropPath); only adapter layers follow train().
        """
        super().__init__(quality_gate, scorer)
        self.backbone = backbone
        self.gate = gate or Gate()
        self.frozen_base = frozen_base
        self.average = None  # recognition.average.WeightAverage of a model in training
        # MobileFaceNet on a CPU: 9 instead of 24 ms an image forward, 54 instead of 69 with backward
        self.backbone.to(memory_format=torch.channels_last)
        self.train(self.training)

    @property
    def statistics_move(self) -> bool:
        """True in training mode where a forward pass moves buffers: of a network, or of norms that an adapter wakes."""
        norms = (m for m in self.backbone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
        return not self.frozen_base or any(norm.training and norm.track_running_stats for norm in norms)

    def forward(self, image: Tensor, score: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """image: (B, 3, H, W) float RGB in [-1, 1], resized to the backbone's size where it differs.

        score: (B,) or (B, k) raw quality; None = this model's scorer looks at the image.
        Returns the embedding (B, D), not normalised, and the sum of the layers' auxiliary losses ().
        """
        gate = None
        if self.quality_gate is not None:
            gate = self.quality_gate(self.score(image) if score is None else score)
        size = self.backbone.input_size
        if image.shape[-1] != size or image.shape[-2] != size:
            image = F.interpolate(image, size=(size, size), mode="bilinear", align_corners=False)
        with self.gate.scope(gate):
            embedding = self.backbone(image.contiguous(memory_format=torch.channels_last))
            auxiliary = self.gate.auxiliary(embedding)
        return embedding, auxiliary

    def embed(self, image: Tensor, score: Tensor | None = None) -> Tensor:
        """The embedding alone: (B, 3, H, W) RGB in [-1, 1] -> (B, D), not normalised."""
        return self(image, score)[0]

    def train(self, mode: bool = True) -> FaceModel:
        """Training mode for what is trained; a frozen base and the scorer stay in eval mode."""
        super().train(mode)
        if self.scorer is not None:
            self.scorer.eval()
        if self.frozen_base:
            self.backbone.eval()
            for _, layer in adapters.layers(self.backbone):
                layer.train(mode)
        return self


@dataclass(frozen=True)
class Assembled:
    """A model as the recipe asks for it, before compile and DDP."""

    model: FaceModel
    adapter: Adapter
    report: AttachReport


def assemble(config: EasyDict, weights: str | Path | None = None, *, resumes: bool = False) -> Assembled:
    """Backbone, base weights strictly, adapter, freezing, quality gate and scorer, activation checkpointing.

    The adapter's tensors, and its gate's, are those of config.adapter.weights where it names some.
    weights: in place of config.backbone.weights. Random weights and adapters are functions of config.run.seed.
    resumes: adapter and gate come from a checkpoint or a finished run, so config.adapter.weights is not looked at.
    """
    weights = config.backbone.weights if weights is None else weights
    start = config.adapter.get("weights") if not resumes else ""
    saved = adapters.read_folder(start) if start else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        backbone = build_backbone(config, weights)
        gate = Gate()
        adapter = ADAPTERS.create(config.adapter.name, **arguments(config.adapter, "adapter"))
        if adapter.freezes_base and not weights:
            raise ValueError(
                f"adapter '{config.adapter.name}' freezes the base, but config.backbone.weights names no file: "
                "a random base would stay random; give weights, or take adapter full"
            )
        if saved is not None:
            check_start(saved, config, backbone, weights)
        scorer = _scorer(config, backbone, adapter) if adapter.needs_gate else None
        report = adapters.attach(backbone, adapter, gate)
    quality_gate = None
    if adapter.needs_gate:
        quality_gate = make_gate(config.gate, len(gated_layers(backbone)), getattr(scorer, "columns", 1))
        if any(parameter.requires_grad for parameter in scorer.parameters()):
            raise ValueError(
                f"adapter '{config.adapter.name}' trains weights of the base itself, and scorer '{config.scorer.name}' "
                "looks through them, so its scores would drift; take a scorer that needs the image alone"
            )
    if saved is not None:
        backbone.load_state_dict(saved.tensors, strict=False)  # check_start has held them against one another
        if saved.gate and quality_gate is not None:
            quality_gate.load_state_dict(saved.gate)
    if config.train.checkpoint_activations:
        checkpoint_blocks(backbone, gate, backbone.checkpoint_blocks)
    return Assembled(FaceModel(backbone, gate, quality_gate, scorer, adapter.freezes_base), adapter, report)


def give_view(scorer: nn.Module, backbone: nn.Module) -> nn.Module:
    """The scorer, frozen; one that looks through the model is bound to the backbone, which has no adapter yet.

    Its view shares all weights, and costs one more forward of the base for each image scored.
    ValueError where it does not fit the backbone.
    """
    if scorer.needs == "model":
        scorer.bind(backbone)
    own = {id(parameter) for parameter in backbone.parameters()}
    for parameter in scorer.parameters():
        if id(parameter) not in own:
            parameter.requires_grad_(False)
    return scorer


def lone_scorer(config: EasyDict) -> nn.Module:
    """The recipe's scorer without the model; one that looks through the model has a plain base of its own.

    ValueError where that base has no weights.
    """
    scorer = SCORERS.create(config.scorer.name, **arguments(config.scorer, "scorer")).requires_grad_(False)
    if scorer.needs != "model":
        return scorer.eval()
    if not config.backbone.weights:
        raise ValueError(
            f"scorer '{config.scorer.name}' looks through the recognition model: name a recipe with backbone.weights"
        )
    backbone = build_backbone(config, config.backbone.weights).requires_grad_(False)
    return FaceModel(backbone, scorer=give_view(scorer, backbone), frozen_base=True).eval().scorer


def build_backbone(config: EasyDict, weights: str | Path = "") -> nn.Module:
    """The recipe's backbone, with a file's weights loaded strictly where one is named.

    Arguments that the file's card tells go into config.backbone.
    ValueError where the file's card speaks of another backbone or of other arguments.
    """
    chosen = arguments(config.backbone, "backbone")
    if not weights:
        return BACKBONES.create(config.backbone.name, **chosen)
    loaded = read_weights(weights)
    name = loaded.card.get("backbone", config.backbone.name)
    if name != config.backbone.name:
        raise ValueError(f"{weights} holds a {name}, but config.backbone.name is {config.backbone.name}")
    for key, value in loaded.card.get("arguments", {}).items():
        if chosen.setdefault(key, value) != value:
            raise ValueError(f"{weights} was made with {key}={value}, but config.backbone.{key} is {chosen[key]}")
    config.backbone.update(chosen)  # the run's saved settings then make the same network without the file's card
    return build_strictly(lambda: BACKBONES.create(name, **chosen), loaded.tensors, weights)


def _scorer(config: EasyDict, backbone: nn.Module, adapter: Adapter) -> nn.Module:
    with torch.random.fork_rng(devices=[]):  # an adapter's start is the same whichever scorer is made before it
        scorer = SCORERS.create(config.scorer.name, **arguments(config.scorer, "scorer"))
    if scorer.needs == "model" and not adapter.freezes_base:
        raise ValueError(
            f"scorer '{config.scorer.name}' looks through the base, which adapter '{config.adapter.name}' trains, so "
            "its scores would drift; take a scorer that needs the image alone, or an adapter that freezes the base"
        )
    return give_view(scorer, backbone)


def preprocessing(backbone: nn.Module) -> dict[str, object]:
    """What goes into the network, as a card says it."""
    return {
        "colour_order": COLOUR_ORDER,
        "image_range": list(IMAGE_RANGE),
        "image_size": IMAGE_SIZE,
        "input_size": backbone.input_size,
    }


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Total and trainable parameters."""
    total = sum(p.numel() for p in model.parameters())
    return total, sum(p.numel() for p in model.parameters() if p.requires_grad)
