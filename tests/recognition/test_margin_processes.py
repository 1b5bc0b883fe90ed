"""Any margin in the classifier is the same on 1, 2 and 3 processes: loss, every gradient, statistics."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recognition.margins import MARGINS
from recognition.partial_fc import PartialFC
from recognition.types import Batch
from tests.launch import run_groups
from tests.recognition.test_partial_fc import counts_of, share

WORLDS = (2, 3)
EMBEDDING_SIZE = 6

# name -> classes, labels of two batches, sample rate. The rows of a batch are uneven shares of the processes. In
# "sampled" the batch alone has more classes than the rate asks of any share, so the same classes take part everywhere.
CASES = {
    "uneven": (25, [[3, 11, 24, 3, 17, 8, 0], [5, 5, 12, 20, 1]], 1.0),
    "sampled": (25, [[0, 3, 5, 8, 10, 11, 14, 17, 19, 22, 24, 3], [24, 1, 2, 4, 7, 12, 9, 15, 17, 20, 23, 12]], 0.3),
    "empty": (2, [[1, 0, 0, 1, 1], [0, 1]], 1.0),  # the third process has no class, in the second batch no image
    "one_sided": (9, [[8, 7, 8, 8], [0, 1, 0, 0]], 1.0),  # all targets lie on one process
}
# every margin as it is by default, and what takes another way over the processes
CHOSEN: dict[str, tuple[str, dict[str, object]]] = {name: (name, {}) for name in MARGINS.names()} | {
    "sphereface annealed": ("sphereface", {"mode": "annealed"}),  # scaled by the norms, with their gradient
    "elasticface plus": ("elasticface", {"plus": True}),
    "hard_samples of magface": ("hard_samples", {"of": "magface"}),
    "forgetting of uniface": ("forgetting", {"forget": [1], "of": "uniface"}),
}


def whole_batch(case: str, step: int) -> tuple[Tensor, Batch]:
    """Embeddings, some near their centres, and what a loader may fill, of all processes."""
    labels = CASES[case][1][step]
    draw = torch.Generator().manual_seed(10 * len(labels) + step)
    n = len(labels)
    embedding = 8 * torch.randn(n, EMBEDDING_SIZE, generator=draw, dtype=torch.float64)
    image = torch.rand(n, 3, 12, 12, generator=draw) * torch.rand(n, 1, 1, 1, generator=draw)
    score, level = torch.rand(n, generator=draw), torch.arange(n) % 3 / 4
    landmarks = torch.rand(n, 5, 2, generator=draw) * 12
    key = torch.zeros(n, 2, dtype=torch.int64)
    batch = Batch(image, torch.tensor(labels), key, score, image.flip(0), level, landmarks)
    return embedding, batch


def run(rank: int, size: int, which: str, case: str) -> list[dict[str, Tensor | None]]:
    """What two training batches give on this process, in float64."""
    (name, arguments), (classes, labels, rate) = CHOSEN[which], CASES[case]
    classifier = PartialFC(
        EMBEDDING_SIZE, classes, MARGINS.create(name, **arguments), sample_rate=rate, seed=3
    ).double()
    margin = classifier.margin
    classifier.bind(torch.optim.SGD(classifier.parameters(), lr=0.1))
    found = []
    for step in range(2):
        counts = counts_of(len(labels[step]), size)
        embedding, batch = whole_batch(case, step)
        measure = getattr(margin, "measure", None)
        rows = {"score": batch.score, "measured": measure(batch) if measure else None}
        rows["gate"] = batch.score if getattr(margin, "needs_gate", False) else None
        rows = {key: None if all_rows is None else share(all_rows, counts, rank) for key, all_rows in rows.items()}
        embedding = share(embedding, counts, rank).clone().requires_grad_()
        classifier.zero_grad(set_to_none=True)
        loss = classifier(embedding, share(batch.label, counts, rank), counts=counts, step=step, **rows)
        loss.backward()
        here = {"loss": loss.detach(), "embedding": embedding.grad / size, "centres": classifier.weight.grad.to_dense()}
        here |= {f"gradient of {key}": parameter.grad for key, parameter in margin.named_parameters()}
        found.append(here | {f"buffer {key}": buffer.clone() for key, buffer in margin.named_buffers()})
    return found


def everything(rank: int, size: int) -> dict[tuple[str, str], list[dict[str, Tensor | None]]]:
    return {(name, case): run(rank, size, name, case) for name in CHOSEN for case in CASES}


@pytest.fixture(scope="module")
def by_world() -> dict[int, list[dict]]:
    """Number of processes -> what each of them found."""
    return {1: [everything(0, 1)], **run_groups(WORLDS, everything)}


@pytest.mark.parametrize("size", WORLDS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", CHOSEN)
def test_any_margin_is_the_same_on_any_number_of_processes(by_world, name, case, size):
    for step, alone in enumerate(by_world[1][0][name, case]):
        shares = [one[name, case][step] for one in by_world[size]]
        assert alone["embedding"].abs().max() > 1e-6 and alone["centres"].abs().max() > 1e-6  # it learns something
        for what, wanted in alone.items():
            if what in ("embedding", "centres"):  # each process has its rows
                found = [torch.cat([one[what] for one in shares])]
            else:
                found = [one[what] for one in shares]
            for one in found:
                torch.testing.assert_close(one, wanted, rtol=1e-6, atol=1e-9, msg=lambda text, w=what: f"{w}: {text}")
