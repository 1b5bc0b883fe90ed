"""The classifier's value and gradient in one process: exactness, precision, filter, devices."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recognition.margins import MARGINS
from recognition.partial_fc import PartialFC, blocks
from recognition.partial_fc.functions import SMALLEST_NORM, SoftmaxCrossEntropy, Unit, multiply
from recognition.types import MarginContext
from tests.recognition.test_partial_fc import Binary, D, batch_of, close


def test_the_loss_is_exact_where_a_clamped_probability_would_end_at_69():
    classifier = PartialFC(2, 2, MARGINS.create("cosface"))
    classifier.init_centres(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    loss = classifier(torch.tensor([[-3.0, 0.0]]), torch.tensor([0]))
    assert loss.item() == pytest.approx(64 * 2.4)


def test_low_precision_embeddings_are_compared_in_float32():
    classifier = PartialFC(D, 25, MARGINS.create("arcface"))
    embedding, label, _ = batch_of(25, 7)
    low = embedding.bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = classifier(low, label)
        loss.backward()
    gradient, classifier.weight.grad = classifier.weight.grad, None
    high = low.detach().float().requires_grad_()
    wanted = classifier(high, label)
    wanted.backward()
    assert loss.dtype == torch.float32 and torch.equal(loss, wanted)
    assert torch.equal(gradient, classifier.weight.grad)
    assert low.grad.dtype == torch.bfloat16 and torch.equal(low.grad, high.grad.bfloat16())


@pytest.mark.parametrize("mode", ["remove", "zero"])
def test_gradients_by_finite_differences(mode):
    """The exact gradient, the filter's and the normalisations', coordinate by coordinate in float64."""
    margin = MARGINS.create("arcface", gradient="exact", scale=4.0)
    classifier = PartialFC(D, 9, margin, filter_threshold=0.2, filter_mode=mode).double()
    embedding, label, _ = batch_of(9, 5)
    embedding, weight = embedding.double().requires_grad_(), classifier.weight
    edge = (F.normalize(embedding) @ F.normalize(weight).T - 0.2).abs().min()
    assert edge > 1e-4, "a cosine at the filter's edge has no derivative"
    classifier(embedding, label).backward()
    with torch.no_grad():
        for values, step in ((embedding, 1e-6), (weight, 1e-8)):
            found = torch.zeros_like(values)
            for i in range(values.numel()):
                kept = values.view(-1)[i].item()
                for sign in (1, -1):
                    values.view(-1)[i] = kept + sign * step
                    found.view(-1)[i] += sign * classifier(embedding, label) / (2 * step)
                values.view(-1)[i] = kept
            close(values.grad, found, 1e-6)


@pytest.mark.parametrize(("mode", "left"), [("remove", 0.0), ("zero", 1.0)])
def test_filtered_negatives_get_no_gradient(mode, left):
    """Removed ones are not in the sum; arcface_torch's count as cosine 0."""
    centres = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]))
    margin = MARGINS.create("cosface", margin=0.0, scale=8.0)
    classifier = PartialFC(2, 3, margin, filter_threshold=0.5, filter_mode=mode)
    classifier.init_centres(centres)
    loss = classifier(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    assert classifier.log_total.item() == pytest.approx(math.log(math.exp(8) + 1 + left), abs=1e-6)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(math.exp(8) + 1 + left) - 8, abs=1e-6)
    assert classifier.weight.grad[1].eq(0).all() and classifier.weight.grad[2].ne(0).any()


def test_where_all_negatives_are_filtered_the_target_stays():
    classifier = PartialFC(2, 3, MARGINS.create("cosface", scale=8.0), filter_threshold=0.1)
    classifier.init_centres(F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2]])))
    embedding = torch.tensor([[1.0, 0.0]], requires_grad=True)
    loss = classifier(embedding, torch.tensor([1]))
    loss.backward()
    assert loss.item() == 0 and not embedding.grad.any() and not classifier.weight.grad.any()


@pytest.mark.parametrize("mode", ["remove", "zero"])
def test_a_margin_with_its_own_reduction_sees_filtered_negatives_far_away_and_without_gradient(mode):
    classifier = PartialFC(2, 3, Binary(), filter_threshold=0.5, filter_mode=mode)
    classifier.init_centres(F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])))
    classifier.margin.extra = None
    loss = classifier(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    loss.backward()
    logits = [4 + 0.3, -4 + 0.3 if mode == "remove" else 0.3, 0.3]
    wanted = sum(math.log1p(math.exp(sign * x)) for sign, x in zip((-1, 1, 1), logits, strict=True)) ** 2
    assert loss.item() == pytest.approx(wanted, rel=1e-6)
    assert classifier.weight.grad[1].eq(0).all() and classifier.weight.grad[2].ne(0).any()


def test_bf16_products_are_summed_in_float32():
    """As far from float32 as rounded factors are, not as far as rounded sums; softmax and margin are untouched."""
    embedding, label = torch.randn(64, 512), torch.randint(0, 2000, (64,))
    found = {}
    for precision in ("fp32", "bf16"):
        classifier = PartialFC(512, 2000, MARGINS.create("cosface"), precision=precision)
        own = embedding.clone().requires_grad_()
        before = torch.backends.mkldnn.matmul.fp32_precision
        loss = classifier(own, label)
        loss.backward()
        assert torch.backends.mkldnn.matmul.fp32_precision == before
        found[precision] = loss.detach(), own.grad, classifier.weight.grad
    unit, centres = F.normalize(embedding), F.normalize(classifier.weight.detach())
    exact = unit.double() @ centres.double().T
    error = multiply(unit, centres.T, low=True) - exact
    rounded = unit.bfloat16().double() @ centres.bfloat16().double().T - exact
    assert multiply(unit, centres.T, low=True).dtype == torch.float32
    assert min(error.abs().max(), (error - rounded).abs().max()) < 1e-6, "rounded factors, or a CPU that has no bf16"
    assert error.std() < 1.5e-4
    assert torch.equal(multiply(unit.double(), centres.double().T, low=True), exact)
    for low, high in zip(found["bf16"], found["fp32"], strict=True):
        assert (low - high).norm() < 0.02 * high.norm()


def test_a_second_backward_is_refused():
    loss = PartialFC(D, 9, MARGINS.create("arcface"))(*batch_of(9, 5)[:2])
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.gpu
@pytest.mark.parametrize("rate", [1.0, 0.1])
def test_cuda_equals_the_cpu(rate):
    batch, found = batch_of(1000, 7)[:2], []
    for device in ("cpu", "cuda"):
        classifier = PartialFC(D, 1000, MARGINS.create("arcface"), sample_rate=rate).to(device)
        optimizer = torch.optim.SGD(classifier.parameters(), lr=0.1, momentum=0.9)
        classifier.bind(optimizer)
        classifier.sample = lambda label, *_: torch.cat([label, torch.arange(90).to(label)]).unique()  # one draw
        loss = classifier(*(part.to(device) for part in batch))
        loss.backward()
        optimizer.step()
        found.append({"loss": loss.detach().cpu(), **{k: v.cpu() for k, v in classifier.tensors(optimizer).items()}})
    for name, value in found[0].items():
        close(found[1][name], value)


@pytest.mark.gpu
def test_a_draw_on_cuda_depends_on_seed_and_step():
    classifier = PartialFC(D, 1000, MARGINS.create("cosface"), sample_rate=0.1).to("cuda")
    label = torch.tensor([999, 0, 5], device="cuda")
    rows = classifier.sample(label, step=3)
    assert len(rows) == 100 and torch.isin(label, rows).all()
    assert torch.equal(rows, classifier.sample(label, step=3))
    assert not torch.equal(rows, classifier.sample(label, step=4))


class Looks(nn.Module):
    """Stands on another margin and looks at the cosines again."""

    def __init__(self, of: nn.Module) -> None:
        super().__init__()
        self.of = of

    def forward(self, cosine: Tensor, label: Tensor, context: MarginContext) -> Tensor:
        assert not context.disposable
        return self.of(cosine, label, context) + 0.0 * cosine


IN_PLACE = [name for name in MARGINS.names() if vars(MARGINS.get(name)).get("in_place")]


@pytest.mark.parametrize("name", IN_PLACE)
def test_a_margin_in_place_gives_what_it_gives_elsewhere(name):
    """With filtering and without; of a size for which memory comes from numpy."""
    assert len(IN_PLACE) >= 8
    embedding, label = torch.randn(64, D), torch.randint(0, 20_000, (64,))
    given = {"score": torch.rand(64), "gate": torch.rand(64), "measured": torch.rand(64) + 0.5}
    for threshold in (0.0, 0.8):
        found = []
        for wrap in (lambda margin: margin, Looks):
            margin = MARGINS.create(name)
            if hasattr(margin, "extra"):
                margin.extra = None  # which Looks does not hand on
            classifier = PartialFC(D, 20_000, wrap(margin), filter_threshold=threshold)
            own = embedding.clone().requires_grad_()
            loss = classifier(own, label, **given)
            loss.backward()
            found.append((loss.detach(), own.grad))
        for in_place, elsewhere in zip(*found, strict=True):
            close(in_place, elsewhere)


def test_a_subclass_that_looks_again_is_not_in_place():
    class Mine(MARGINS.get("cosface")):
        def forward(self, cosine: Tensor, label: Tensor, context: MarginContext) -> Tensor:
            return super().forward(cosine, label, context) * (1 + cosine.detach())

    assert PartialFC(D, 9, MARGINS.create("cosface")).in_place() and not PartialFC(D, 9, Mine()).in_place()


def test_blocks_change_nothing(monkeypatch):
    """Rows of centres and of images by twos and threes, against all at once."""
    found = []
    for block in (1 << 21, 8 * D * 3):
        monkeypatch.setattr(blocks, "BLOCK", block)
        classifier = PartialFC(D, 25, MARGINS.create("arcface"), 0.6).double()
        classifier.bind(torch.optim.SGD(classifier.parameters(), lr=0.1))
        embedding = batch_of(25, 7)[0].double().requires_grad_()
        classifier(embedding, batch_of(25, 7)[1]).backward()
        found.append((embedding.grad, classifier.weight.grad.to_dense()))
    for one, other in zip(*found, strict=True):
        close(one, other, 1e-12)


def test_a_logit_of_minus_infinity_takes_no_part():
    logits = torch.tensor([[-torch.inf, 1.0, 2.0], [-torch.inf, -torch.inf, 3.0]], requires_grad=True)
    losses, total = SoftmaxCrossEntropy.apply(logits, torch.tensor([1, 2]), False, blocks.Memory())
    losses.sum().backward()
    close(losses.detach(), torch.tensor([math.log1p(math.e), 0.0]))
    close(total.detach(), torch.tensor([2 + math.log1p(math.exp(-1)), 3.0]))
    assert logits.grad[0, 0] == 0 and logits.grad[1].eq(0).all()


def test_memory_is_lent_again_only_when_nothing_holds_it():
    memory, like = blocks.Memory(), torch.zeros(())
    first = memory.empty((1024, 1025), like)
    place, row = first.data_ptr(), first[3]
    assert not first._is_view() and place % 64 == 0 and first.shape == (1024, 1025)
    del first
    second = memory.empty((1024, 1025), like)
    assert second.data_ptr() != place, "a row of it is held"
    array = second.numpy()
    del row
    assert memory.empty((1024, 1024), like).data_ptr() == place
    del second
    other = [memory.empty((1024, 1024), like) for _ in range(2)]
    assert array.ctypes.data not in {one.data_ptr() for one in other} and place in {one.data_ptr() for one in other}
    del other
    memory.empty((4096, 1024), like)
    assert len(memory._left) == 1, "what does not fit is not kept"
    assert memory.empty((2, 2), like.double()).dtype == torch.float64


def test_a_gradient_that_is_kept_is_not_written_over():
    classifier = PartialFC(512, 4096, MARGINS.create("cosface"))
    embedding, label = torch.randn(4, 512), torch.randint(0, 4096, (4,))
    classifier(embedding, label).backward()
    kept, classifier.weight.grad = classifier.weight.grad, None
    before = kept.clone()
    classifier(embedding.flip(0), label).backward()
    assert torch.equal(kept, before) and kept.data_ptr() != classifier.weight.grad.data_ptr()


def test_unit_embeddings_and_their_lengths_are_those_of_the_plain_chain():
    """Values and gradients, of a row of zeros and one that is too short as well."""
    embedding = torch.randn(5, 7, dtype=torch.float64)
    embedding[1], embedding[2] = 0.0, embedding[2] * 1e-14
    of_unit, of_norm = torch.randn(5, 7, dtype=torch.float64), torch.randn(5, 1, dtype=torch.float64)
    for weights in ((of_unit, of_norm), (of_unit, None), (None, of_norm)):
        found, wanted = (embedding.clone().requires_grad_() for _ in range(2))
        norm = torch.linalg.vector_norm(wanted, dim=1, keepdim=True)
        plain, ours = (wanted / norm.clamp_min(SMALLEST_NORM), norm), Unit.apply(found)
        for (x, y), weight in zip(zip(plain, ours, strict=True), weights, strict=True):
            assert torch.equal(x, y)
            if weight is not None:
                (x * weight).sum().backward(retain_graph=True)
        kept = [(y, weight) for y, weight in zip(ours, weights, strict=True) if weight is not None]
        torch.autograd.backward([y for y, _ in kept], [weight for _, weight in kept])
        long = [0, 3, 4] if weights[1] is not None else [0, 1, 2, 3, 4]  # the unit vector of a short row is not one
        torch.testing.assert_close(found.grad[long], wanted.grad[long])
        assert found.grad.isfinite().all()
