"""Costs of large runs, carried from arithmetic alone.

Nothing here was run on a GPU. A step is a roofline: floating-point operations over the card's rate, plus bytes over its
memory's rate, plus bytes over the network between cards, nothing hidden behind anything. One published run says what
share of that roofline such programs reach (efficiency()), and all others are predicted with that one share.
"""

from __future__ import annotations

from dataclasses import dataclass

from recognition.memory import Network, process_bytes
from recognition.partial_fc.memory import FLOAT, estimate

GIB = 2**30
EMBEDDING = 512

# How often a step reads or writes a whole matrix. What the network keeps for backward: written and read in forward,
# read in backward, and its gradient written and read. Compared rows and logits: operation by operation of
# recognition/partial_fc with CosFace and SGD (rows: 4 in forward, 11 in backward, 13 of the update), as if none stayed
# in a cache.
PASSES_OF_KEPT, PASSES_OF_ROWS, PASSES_OF_LOGITS = 5, 28, 21

# Counted on recognition/backbones (tests/tools/test_benchmark_growth.py does it again): parameters, floating-point
# operations of an image's forward and backward, bytes of fp16 autocast kept for backward.
NETWORKS = {
    "r50": (Network(43_590_848, 43_590_336, 35_400_192, 87_092_608), 37.8126336e9),
    "r100": (Network(65_156_160, 65_155_648, 55_872_000, 130_149_760), 72.4942848e9),
}


@dataclass(frozen=True)
class Card:
    """A GPU as its maker's data sheet has it. half, single: FLOP/s of fp16 and of fp32 matrix products. memory,
    bandwidth: bytes, bytes/s. inside: bytes/s that a card sends to others of its machine. between: bytes/s that a
    machine sends to another, an assumption.
    """

    name: str
    half: float
    single: float
    memory: float
    bandwidth: float
    inside: float
    between: float


V100 = Card("V100 32 GB", 125e12, 15.7e12, 32 * GIB, 900e9, 150e9, 12.5e9)  # NVLink 2; one 100 Gb/s port
A100 = Card("A100 80 GB", 312e12, 19.5e12, 80 * GIB, 2039e9, 300e9, 25e9)  # NVLink 3; one 200 Gb/s port


@dataclass(frozen=True)
class Run:
    """A training run: batch of each card, rate of the sampled classes, and what is published of it, where anything is.

    speed: published images/s of all cards. held: published MB of a card (1 MB = 2**20 bytes, as nvidia-smi counts).
    """

    name: str
    network: str
    classes: int
    rate: float
    batch: int
    cards: int
    speed: float = 0
    held: float = 0
    card: Card = V100
    machine: int = 8  # cards of one

    @property
    def global_batch(self) -> int:
        """Images of a step."""
        return self.batch * self.cards

    @property
    def rows(self) -> int:
        """Class centres that a card compares with."""
        return round(self.rate * -(-self.classes // self.cards))


ANCHOR = Run("MS1MV3, 93 k", "r50", 93_431, 1.0, 128, 8, 5552)
WEBFACE = Run("WebFace42M, 2.06 M", "r100", 2_059_906, 0.2, 128, 32, 9800)
MANY = Run("29 M", "r50", 29_000_000, 0.1, 128, 8, 1855, 32_324)
TABLE = (
    Run("125 k", "r50", 125_000, 0.1, 128, 8, 5004, 4868),
    Run("1 M", "r50", 1_000_000, 0.1, 128, 8, 4803, 5620),
    Run("5.5 M", "r50", 5_500_000, 0.1, 128, 8, 3975, 9854),
    Run("8 M", "r50", 8_000_000, 0.1, 128, 8, 3565, 12_310),
    Run("16 M", "r50", 16_000_000, 0.1, 128, 8, 2679, 19_950),
    MANY,
)
OTHERS = (
    Run("MS1MV3, 93 k", "r100", 93_431, 1.0, 128, 8, 3407),
    Run("WebFace42M, 2.06 M", "r50", 2_059_906, 0.2, 512, 8, 5971),
    Run("WebFace42M, 2.06 M", "r50", 2_059_906, 0.2, 512, 16, 10_502),
    Run("WebFace42M, 2.06 M", "r50", 2_059_906, 0.2, 128, 32, 17_000),
    Run("WebFace42M, 2.06 M", "r100", 2_059_906, 0.2, 256, 16, 5452),
    WEBFACE,
)


@dataclass(frozen=True)
class Step:
    """Seconds of a step by purpose, as the roofline has them."""

    network_flops: float
    network_bytes: float
    classifier_flops: float
    classifier_bytes: float
    exchange: float

    def seconds(self, share: float) -> float:
        """Of the whole, where cards reach a share of their roofline; links are taken at their full rate."""
        card = self.network_flops + self.network_bytes + self.classifier_flops + self.classifier_bytes
        return card / share + self.exchange


def memory(run: Run, state: str = "all") -> dict[str, int]:
    """Bytes of a card by purpose, fp16 autocast, SGD with momentum: recognition.memory's arithmetic."""
    network, _ = NETWORKS[run.network]
    classifier = estimate(
        run.classes, EMBEDDING, run.global_batch, sample_rate=run.rate, state=state, world_size=run.cards
    )
    return process_bytes(network.bytes(), classifier, network.activations(run.batch))


def exchanged(run: Run) -> dict[str, float]:
    """Bytes that a card sends for a step, by purpose: rings send (n - 1) / n of what is gathered, twice of a sum."""
    around = (run.cards - 1) / run.cards
    embeddings = FLOAT * run.global_batch * EMBEDDING
    return {
        "embeddings gathered": around * embeddings,
        "their gradients summed": 2 * around * embeddings,
        "softmax: maxima, targets, sums": 2 * around * 3 * FLOAT * run.global_batch,
        "network's gradients summed": 2 * around * FLOAT * NETWORKS[run.network][0].trained,
    }


def step(run: Run) -> Step:
    """The roofline of a step on one card. The classifier's products are float32, as classifier.precision is."""
    network, flops = NETWORKS[run.network]
    card, logits = run.card, run.global_batch * run.rows
    link = card.inside if run.cards <= run.machine else min(card.inside, card.between)
    rows = FLOAT * EMBEDDING * run.rows
    return Step(
        run.batch * flops / card.half,
        PASSES_OF_KEPT * run.batch * network.kept / card.bandwidth,
        6 * logits * EMBEDDING / card.single,
        (PASSES_OF_ROWS * rows + PASSES_OF_LOGITS * FLOAT * logits) / card.bandwidth,
        sum(exchanged(run).values()) / link,
    )


def efficiency() -> float:
    """Share of the roofline that the anchor, a published run on 8 V100, reached: the one number that is fitted."""
    alone = step(ANCHOR)
    return (alone.seconds(1.0) - alone.exchange) / (ANCHOR.global_batch / ANCHOR.speed - alone.exchange)


def speed(run: Run, share: float) -> float:
    """Images/s of all cards."""
    return run.global_batch / step(run).seconds(share)
