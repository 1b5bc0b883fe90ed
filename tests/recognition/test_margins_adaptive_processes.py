"""Margins that differ from image to image, in the classifier, on 1 to 3 processes, sampled or not: one softmax."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recognition.margins import MARGINS
from recognition.partial_fc import PartialFC, draw_centres
from tests.launch import run_groups
from tests.recognition.test_margins_adaptive import CASES, Plain

WORLDS = (2, 3)
D, BATCH, SCALE = 8, 7, 16.0
LABEL = torch.tensor([4, 1, 0, 10, 4, 7, 1])
GATE = torch.tensor([0.0, 1.0, 0.3, 0.9, 0.5, 0.1, 0.7])
MEASURED = torch.tensor([0.0, 0.5, 3.3, 1.9, 2.4, 0.0, 9.0])
# classes and the share that takes part; of 2 classes the last of three processes holds none
SETS = {"all": (11, 1.0), "sampled": (11, 0.3), "two": (2, 1.0)}
OF_THE_BATCH = ("adaface", "elasticface plus", "elasticface cos legacy_plus", "curricularface")
OF_THE_IMAGE = ("magface", "quality_margin", "laplacian_margin level")
RUNS = [(case, chosen) for case in OF_THE_BATCH for chosen in SETS]
RUNS += [(case, chosen) for case in OF_THE_IMAGE for chosen in ("all", "sampled")]


def embeddings(step: int) -> Tensor:
    drawn = torch.randn(BATCH, D, generator=torch.Generator().manual_seed(2 + step))
    drawn[0], drawn[1] = drawn[0] * 8, drawn[1] / 8  # norms beyond the bounds, above and below
    return drawn * 12


def run(rank: int, size: int) -> dict:
    """Losses of two steps, and of the second the gradients of this process's embeddings and centres; statistics."""
    counts = [len(range(r, BATCH, size)) for r in range(size)]
    mine = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
    return {(case, chosen): two_steps(case, chosen, mine, counts) for case, chosen in RUNS}


def two_steps(case: str, chosen: str, mine: slice, counts: list[int]) -> dict:
    (name, arguments), (classes, rate) = CASES[case], SETS[chosen]
    margin = MARGINS.create(name, scale=SCALE, **arguments)
    classifier = PartialFC(D, classes, margin, sample_rate=rate, seed=3)
    classifier.bind(torch.optim.SGD(classifier.parameters(), lr=0.1))
    generators, losses, taking_part = [], [], []
    margin.register_forward_pre_hook(lambda _, given: generators.append(given[2].generator.get_state()))
    for step in range(2):
        embedding, label = embeddings(step)[mine].requires_grad_(), LABEL[mine] % classes
        classifier.weight.grad = None
        loss = classifier(embedding, label, gate=GATE[mine], measured=MEASURED[mine], counts=counts, step=step)
        loss.backward()
        losses.append(loss.item())
        part = torch.arange(len(classifier.weight)) if rate == 1 else classifier.sampled_rows
        taking_part.append(classifier.class_start + part)
    gradient = classifier.weight.grad
    return {
        "losses": losses,
        "classes": taking_part,
        "generators": generators,
        "embedding": embedding.grad,
        "weight": gradient.to_dense() if gradient.is_sparse else gradient,
        "statistics": margin.state_dict(),
    }


@pytest.fixture(scope="module")
def results() -> dict[int, list[dict]]:
    """World size -> what each process found."""
    return {1: [run(0, 1)], **run_groups(WORLDS, run)}


@pytest.mark.parametrize("size", (1, *WORLDS))
@pytest.mark.parametrize(("case", "chosen"), RUNS)
def test_the_loss_is_one_softmax_on_any_number_of_processes(results, size, chosen, case):
    found, plain = [process[case, chosen] for process in results[size]], Plain(case)
    for step in range(2):
        classes = torch.cat([f["classes"][step] for f in found])
        embedding = embeddings(step).double().requires_grad_()
        centres = draw_centres(D, 0, SETS[chosen][0], seed=3).double().requires_grad_()
        column = torch.searchsorted(classes, LABEL % SETS[chosen][0])
        generator = torch.Generator().set_state(found[0]["generators"][step])
        logits, extra = plain(
            F.normalize(embedding) @ F.normalize(centres[classes]).T,
            column,
            embedding.norm(dim=1),
            torch.randn(BATCH, generator=generator),
            GATE,
            MEASURED,
            SCALE,
        )
        loss = F.cross_entropy(logits, column) + extra
        for f in found:
            assert f["losses"][step] == pytest.approx(loss.item(), rel=1e-5)
    loss.backward()
    for key, wanted, times in (("embedding", embedding.grad, size), ("weight", centres.grad, 1)):
        got = torch.cat([f[key] for f in found]).double()
        assert wanted.abs().max() > 1e-4
        torch.testing.assert_close(got, times * wanted, rtol=0, atol=2e-5 * wanted.abs().max().item() * times)
    for f in found:
        for key, value in f["statistics"].items():
            assert torch.equal(value, found[0]["statistics"][key]), "one value on all processes"
            assert value.item() == pytest.approx(plain.state[key], rel=1e-5, abs=1e-7)
