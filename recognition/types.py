"""The contracts between parts: what a batch carries, and what each kind of plugin promises.

Every image between parts is RGB. Stored and decoded images are uint8 (H, W, 3); a network takes float32 (B, 3, H, W) in
IMAGE_RANGE; a scorer takes float32 (B, 3, H, W) in SCORER_RANGE.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:  # constants of this module serve tools that start without torch
    import torch
    from torch import Tensor, nn

    from recognition.gate import Gate

COLOUR_ORDER = "RGB"
IMAGE_RANGE = (-1.0, 1.0)  # x / 127.5 - 1
SCORER_RANGE = (0.0, 1.0)  # x / 255
IMAGE_SIZE = 112  # side of stored, aligned faces in pixels; a model resizes inside where its backbone wants another


@dataclass(slots=True)
class Batch:
    """Images of one process for one step. Optional fields are None unless a recipe asks for them."""

    image: Tensor  # (B, 3, H, W) float32 RGB in [-1, 1], as the network sees it
    label: Tensor  # (B,) int64, 0 .. classes - 1
    key: Tensor  # (B, 2) int64: shard, key within the shard
    score: Tensor | None = None  # (B,) or (B, k) float32, raw quality from a cache
    twin: Tensor | None = None  # as image, without what loses resolution: degradation, some augmentations
    level: Tensor | None = None  # (B,) float32 in [0, 1): 1 - side / 112; 0 = not degraded
    landmarks: Tensor | None = None  # (B, 5, 2) float32 in pixels of the 112 px image: x, y
    unscored: Tensor | None = None  # (R,) int64 rows whose score is not of this picture: it was changed after that

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.image, self.label, self.key))

    def __len__(self) -> int:
        return self.image.shape[0]

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device; copies overlap with computation where memory is pinned."""
        moved = {
            f.name: value.to(device, non_blocking=True)
            for f in fields(self)
            if (value := getattr(self, f.name)) is not None
        }
        return replace(self, **moved)


class Backbone(Protocol):
    """An nn.Module: (B, 3, input_size, input_size) RGB in [-1, 1] -> (B, embedding_size), not normalised.

    It must not checkpoint its own activations, nor know of adapters.
    """

    embedding_size: int
    input_size: int  # pixels
    adapter_targets: tuple[str, ...]  # globs over module names that an adapter takes where a recipe names none
    head_targets: tuple[str, ...]  # globs for the Linear layers of the head, the projection to the embedding
    checkpoint_blocks: tuple[str, ...]  # globs for the repeated blocks whose activations may be recomputed


@dataclass(slots=True)
class MarginContext:
    """What a margin may look at besides cosines and labels. All rows are those of the gathered, global batch."""

    norm: Tensor  # (N, 1) float32: norms of the embeddings before normalisation; carries gradient, detach if unwanted
    score: Tensor | None  # (N,) or (N, k) float32 raw quality scores, or None
    generator: torch.Generator  # CPU, seeded by (seed, update, micro-step): the same draw on every process
    class_start: int  # global id of the first class this process holds; columns follow it where none are sampled out
    num_classes: int  # over all processes
    label: Tensor  # (N,) int64: the class of every image, 0 .. num_classes - 1, whichever process holds it
    gate: Tensor | None = None  # (N,) float32 in [0, 1], 1 = high quality; for margins with needs_gate
    measured: Tensor | None = None  # (N,) or (N, k) float32: what the margin's own measure() found
    disposable: bool = False  # to a margin with in_place: nobody else will look at the cosines, nor at the gradient


@runtime_checkable
class Margin(Protocol):
    """An nn.Module on cosines. Its parameters and buffers reach the optimizer and the checkpoint.

    Statistics (running means) are of the global batch, the same on every process, and move in training mode only.
    It may also define
      needs_gate = True: config.scorer looks at the images, and config.gate makes a gate of the score, whatever adapter
          there is; measure() and needs_gate exclude one another
      fields: names of optional fields of Batch that it wants filled; measure(batch) -> (B,) or (B, k) float32, what it
          looks at of this process's images, without gradient; comes back gathered, as context.measured
      check(num_classes): ValueError where it does not fit these classes, before a run begins
      reduce(logits, label, context) -> (N,) loss per image, in place of the distributed softmax;
          whatever a process computes of it goes through recognition.distributed.all_reduce_sum
      weigh(losses, context) -> (N,) in the place of the losses per image, whose mean is taken next; they are the same
          on every process, and so is what it makes of them, without trainable parameters
      extra(context) -> () a term added to the loss, of the global batch, the same on every process
      in_place = True: where context.disposable is true it writes its logits into the cosines, and their gradient into
          the logits'; the softmax then writes into the logits, so nothing of them may be kept for backward. Saves a
          buffer of the logits' size. To be said by the class that defines forward(); neither subclasses with
          another forward() nor margins that stand on this one have it, as they may look at both again
    """

    def __call__(self, cosine: Tensor, label: Tensor, context: MarginContext) -> Tensor:
        """cosine: (N, local classes) in [-1, 1]. label: (N,) column of the target, -1 where another process holds it.

        Returns logits, same shape.
        """


@dataclass(slots=True)
class ObjectiveContext:
    """What an objective may look at besides the embeddings. Rows are those of the global batch unless said else."""

    batch: Batch  # of this process only
    gather: Callable[[Tensor], Tensor]  # rows of this process (B, ...) -> of the global batch (N, ...), with gradient
    views: dict[str, Tensor]  # (N, D) by name: embeddings of what the objectives' views() made, with gradient
    score: Tensor | None  # (N,) or (N, k) float32 raw quality of the images; None where the model has no gate
    log_total: Tensor | None  # (N,) log of the classifier's sum of exp(logit), with gradient; None without its softmax
    generator: torch.Generator  # CPU, seeded by (seed, update, micro-step): the same draw on every process
    update: int = 0  # of the optimizer, from 0: what a schedule of an objective may go by


class Objective(Protocol):
    """An nn.Module: a loss on embeddings, added to the classifier's with a weight, or alone (classifier.weight=0).

    Every process computes it in full, of the global batch, and to the same value: whatever it takes from context.batch
    goes through context.gather first. Its parameters and buffers reach the optimizer and the checkpoint; statistics
    move in training mode only. A batch in which it finds nothing to compare gives 0 that depends on the embeddings.
    It may also define
      fields: names of optional fields of Batch that it wants filled: twin, level, landmarks
      views(batch) -> further images by name, (B, 3, H, W) each, that go through the network in the same forward pass as
          the batch's; one name, one thing: "twin" is batch.twin wherever it is used
      needs_log_total = True: context.log_total is used, so without a classifier's softmax a run does not begin
      bind(base): given once, before an adapter is attached: the frozen network of backbone.weights, (B, 3, H, W) of
          any size in [-1, 1] -> (B, D), in eval mode and not part of the checkpoint; it is the objective's own
    """

    def __call__(self, embedding: Tensor, label: Tensor, context: ObjectiveContext) -> Tensor:
        """embedding: (N, D) float32 gathered with gradient, not normalised. label: (N,) int64. Returns a scalar."""


@dataclass(slots=True)
class AttachReport:
    """What an adapter did to a model."""

    adapted: list[str]  # qualified names of the layers it adapted
    skipped: list[str]  # matched by a pattern but not adaptable (grouped convolutions)


class Adapter(Protocol):
    """A way to adapt a backbone. What it declares is tested over the registry's names.

    identity_at_start: the adapted model's output equals the base's bit for bit before the first step.
    keeps_base_keys: every key of the base's state dict stays, with its value.
    mergeable: "exact", "at_gate" (exactly, for one fixed gate) or "none".
    needs_gate: its layers call gate.require().
    auxiliary_losses: in training its layers hand losses of their own to the gate, gate.add_auxiliary().
    freezes_base: the base's weights, statistics, dropout and DropPath stand still.
    """

    identity_at_start: bool
    keeps_base_keys: bool
    mergeable: Literal["exact", "at_gate", "none"]
    needs_gate: bool
    auxiliary_losses: bool
    freezes_base: bool

    def attach(self, backbone: nn.Module, gate: Gate) -> AttachReport:
        """Change the backbone in place. The base is frozen already where freezes_base says so.

        Optionally, parameter_groups(backbone) -> list of {"params": [...], "lr_scale": float} for groups of one's own,
        report(backbone, forward) -> figures by log tag, where forward() runs the network on some images, and
        of_training, names of arguments that weights say nothing of: a run that goes on from a folder may set them anew.
        """


Needs = Literal["image", "model", "landmarks", "level"]  # what a scorer looks at


class Scorer(Protocol):
    """An nn.Module without trainable parameters: (B, 3, H, W) RGB in [0, 1] -> (B,) float32, higher = better quality.

    Deterministic, the same for an image alone and in a batch. ValueError for values outside [0, 1].
    One that needs the model has bind(base), which it is given once, before an adapter is attached. One that needs
    landmarks takes (B, 5, 2) float32 in pixels in place of the images; one that needs the level takes Batch.level.
    `several` alone gives one column for each of its scorers, (B, columns).
    version is raised whenever the same input gives another score: stored scores of another version are stale.
    """

    range: tuple[float, float]  # typical raw scores, worst and best
    needs: Needs
    version: int
    exportable: bool  # to ONNX; where False, `export_obstacle` says why in a sentence's end


Sides = Sequence[int | tuple[int, int]]  # pixels: N for N-against-N, (gallery, probe) where the two differ
