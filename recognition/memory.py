"""What a training process takes, from numbers alone: the same arithmetic for a run that stands and for one to come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from recognition.partial_fc.memory import FLOAT

# What the C library's allocator adds on a CPU by not giving back what was freed between other pieces: 1.3 to 1.5 times
# the sum of the tensors. MALLOC_MMAP_THRESHOLD_=65536 in the environment takes it away, and costs time.
CPU_ALLOCATOR = 1.5


@dataclass(frozen=True)
class Network:
    """What a network asks of a process.

    weights: numbers of all its parameters. trained: of them, those that get a gradient. kept: bytes that one image
    leaves for backward. kept_once: bytes left for backward whatever the batch: what autocast rounds of the weights.
    """

    weights: int
    trained: int
    kept: int
    kept_once: int = 0

    def bytes(self, moments: int = 1) -> int:
        """Of weights, gradients and optimizer state, all float32. moments: as of network_bytes."""
        return network_bytes(FLOAT * self.weights, self.trained, moments)

    def activations(self, images: int) -> int:
        """Bytes kept for backward of a micro-step of so many images."""
        return self.kept_once + images * self.kept


def network_bytes(weights: int, trained: int, moments: int) -> int:
    """Bytes of weights, of gradients, which lie in DDP's buckets too, and of what the optimizer keeps.

    weights: bytes. trained: numbers. moments: numbers that the optimizer keeps for each trained one: SGD with momentum
    1, AdamW 2.
    """
    return weights + FLOAT * (2 + moments) * trained


def process_bytes(network: int, classifier: Mapping[str, int], activations: int, beside: int = 0) -> dict[str, int]:
    """Bytes of one training process by purpose; their sum is the peak of the tensors of an update.

    network: bytes of its weights, gradients and optimizer state. classifier: what partial_fc.memory.estimate tells.
    activations: bytes kept for backward of a micro-step. beside: bytes of what losses learn or look through, and of
    averaged weights.

    Not in it: what backward works in (one or two layers' gradients, 1 to 6 % here); the interpreter and its libraries,
    about 400 MiB; the loader's workers and the order of the records; on a CPU what the allocator adds (CPU_ALLOCATOR);
    on CUDA the context with its kernels (some 300 to 600 MiB), cuDNN's and cuBLAS's workspaces, NCCL's buffers, and
    what the caching allocator cannot fill.
    """
    return {"network": network, **classifier, "beside": beside, "activations": activations}
