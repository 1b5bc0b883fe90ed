"""What scorers that look through the model compute, against plain re-derivations."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iqa import SCORERS
from iqa._model import read_fitted, write_fitted
from iqa.cr_fiqa import fit, similarities, target
from iqa.recognizability import centre_of
from iqa.ser_fiq import SEED
from recognition.backbones.mobilefacenet import MobileFaceNet
from recognition.backbones.swin import SwinTransformer
from recognition.backbones.vit import VisionTransformer
from tests.iqa.scorers import bound, drawn, embedding, fitted_file, tiny_base
from tests.tiny import TinyViT


def test_feature_norm_is_the_length_of_the_bases_embedding(base: nn.Module, image: Tensor) -> None:
    wanted = embedding(base, image).double().square().sum(1).sqrt().float()
    torch.testing.assert_close(bound("feature_norm", base)(image), wanted)
    torch.testing.assert_close(bound("feature_norm", base, log=True)(image), wanted.log())


def all_pairs(qkv: Tensor, heads: int) -> Tensor:
    """Mean over heads, windows, and every query with every key, one by one. qkv: (B, windows, N, 3 width) float64."""
    q, k, _ = qkv.unflatten(-1, (3, heads, -1)).permute(3, 0, 1, 4, 2, 5)  # (B, windows, heads, N, d) each
    return (torch.einsum("bwhid,bwhjd->bwhij", q, k) / math.sqrt(q.shape[-1])).mean((1, 2, 3, 4))


TRANSFORMERS = {
    "vit": (lambda: drawn(VisionTransformer, width=32, depth=2, heads=4, embedding_size=8), "blocks.1", 4),
    "swin": (
        lambda: drawn(SwinTransformer, input_size=40, patch=2, width=16, depths=(1, 2), heads=(2, 4), embedding_size=8),
        "layers.1.blocks.1",
        4,
    ),
    "windows grouped by image": (tiny_base, "blocks.1", 2),
}


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_attn_fiqa_is_the_mean_over_all_pairs(kind: str) -> None:
    make, last, heads = TRANSFORMERS[kind]
    base, image, seen = make(), torch.rand(3, 3, 40, 40), []
    scorer = bound("attn_fiqa", base)
    hook = base.get_submodule(f"{last}.attn.qkv").register_forward_hook(lambda _, __, output: seen.append(output))
    embedding(base, image)
    hook.remove()
    qkv = seen[0].double()
    wanted = all_pairs(qkv.reshape(3, -1, *qkv.shape[-2:]), heads)
    assert wanted.std() > 1e-4
    torch.testing.assert_close(scorer(image).double(), wanted, rtol=1e-4, atol=1e-6)
    assert len(seen) == 1, "the scorer has a network of its own"


def ser_fiq(base: nn.Module, name: str, image: Tensor, rate: float, passes: int) -> Tensor:
    """Pass by pass, pair by pair."""
    last = base.get_submodule(name)
    masks = torch.rand(passes, last.in_features, generator=torch.Generator().manual_seed(SEED)) < 1 - rate
    embeddings = []
    for mask in masks:
        hook = last.register_forward_pre_hook(lambda _, x, mask=mask: x[0] * mask / (1 - rate))
        embeddings.append(F.normalize(embedding(base, image).double(), dim=1))
        hook.remove()
    distances = [(a - b).norm(dim=1) for a, b in itertools.combinations(embeddings, 2)]
    return 2 / (1 + torch.stack(distances).mean(0).exp())


@pytest.mark.parametrize(
    ("make", "name", "rate"),
    [
        (tiny_base, "head.2", 0.3),  # its own dropout
        (lambda: drawn(VisionTransformer, width=16, depth=1, heads=2, embedding_size=8), "feature.2", 0.4),
    ],
)
def test_ser_fiq_is_the_stability_of_the_embedding(make, name: str, rate: float) -> None:
    base, image = make(), torch.rand(3, 3, 30, 30)
    wanted = ser_fiq(base, name, image, rate, 7)
    assert wanted.std() > 1e-4
    scorer = bound("ser_fiq", base, passes=7)
    torch.testing.assert_close(scorer(image).double(), wanted, rtol=1e-5, atol=1e-6)
    assert f"dropout={rate}" in scorer.extra_repr()
    rescaled = bound("ser_fiq", base, passes=7, rescaled=True)(image).double()
    torch.testing.assert_close(rescaled, 1 / (1 + torch.exp(-130 * (wanted - 0.88))), rtol=1e-2, atol=1e-7)
    other = bound("ser_fiq", base, passes=7, dropout=0.1)(image).double()
    torch.testing.assert_close(other, ser_fiq(base, name, image, 0.1, 7), rtol=1e-5, atol=1e-6)
    torch.manual_seed(99)
    assert torch.equal(scorer(image), bound("ser_fiq", make(), passes=7)(image)) or make is not tiny_base


def test_ser_fiq_is_sure_of_a_network_that_dropout_cannot_reach(base: nn.Module, image: Tensor) -> None:
    nn.init.zeros_(base.head[2].weight)  # the embedding is the bias of the head alone
    assert torch.equal(bound("ser_fiq", base)(image), torch.ones(3))


@pytest.mark.parametrize("fusion", ["equal", "depth"])
def test_ex_fiqa_fuses_the_heads_figure_at_every_exit(tmp_path: Path, fusion: str) -> None:
    base, image = drawn(TinyViT), torch.rand(3, 3, 16, 16)
    head, _ = read_fitted(str(fitted_file(tmp_path, "ex_fiqa", base)), "cr_fiqa", "")
    x, figures = base.patch_embed(image * 2 - 1).flatten(2).transpose(1, 2) + base.pos_embed, []
    for block in base.blocks:
        x = block(x)
        figures.append(base.head(base.norm(x).flatten(1)) @ head["weight"] + head["bias"])
    weight = {"equal": [1 / 3] * 3, "depth": [1 / 6, 2 / 6, 3 / 6]}[fusion]
    wanted = sum(w * figure for w, figure in zip(weight, figures, strict=True))
    torch.testing.assert_close(bound("ex_fiqa", base, tmp_path, fusion=fusion)(image), wanted)


def test_ex_fiqa_takes_the_last_stage_of_other_bases(tmp_path: Path) -> None:
    swin = drawn(SwinTransformer, input_size=40, patch=2, width=16, depths=(1, 2), heads=(2, 4), embedding_size=8)
    mobile = drawn(
        MobileFaceNet, embedding_size=8, width=8, middle=(8, 8, 8, 8), blocks=(1, 1, 1, 3), first_groups=8, last=16
    )
    for base, exits in ((swin, 2), (mobile, 3)):
        scorer = bound("ex_fiqa", base, tmp_path)
        assert scorer.exits == exits and scorer(torch.rand(2, 3, 40, 40)).shape == (2,)
    with pytest.raises(ValueError, match="only the last block of"):
        one = drawn(MobileFaceNet, embedding_size=8, width=8, middle=(8,) * 4, blocks=(1,) * 4, first_groups=8, last=16)
        bound("ex_fiqa", one, tmp_path)


def test_recognizability_is_the_distance_to_the_centre(base: nn.Module, image: Tensor, tmp_path: Path) -> None:
    poor = torch.randn(9, 12)
    centre = centre_of(poor)
    rows = poor.double() / poor.double().norm(dim=1, keepdim=True)
    torch.testing.assert_close(centre.double(), rows.sum(0) / rows.sum(0).norm(), rtol=1e-6, atol=1e-6)
    path = tmp_path / "centre.safetensors"
    write_fitted(path, "recognizability", {"centre": centre}, base, {})
    scorer = SCORERS.create("recognizability", weights=str(path))
    scorer.bind(base)
    unit = F.normalize(embedding(base, image).double())
    torch.testing.assert_close(scorer(image).double(), 1 - unit @ centre.double(), rtol=1e-5, atol=1e-6)


def test_cr_fiqa_is_a_linear_head(base: nn.Module, image: Tensor, tmp_path: Path) -> None:
    scorer = bound("cr_fiqa", base, tmp_path)
    wanted = (embedding(base, image) * scorer.weight).sum(1) + scorer.bias
    torch.testing.assert_close(scorer(image), wanted, rtol=1e-5, atol=1e-5)


def test_cr_fiqas_target_compares_with_other_images() -> None:
    rng = np.random.default_rng(0)
    label = np.array([0, 0, 1, 1, 1, 3, 3])  # class 2 is empty
    best, poor = rng.normal(size=(7, 5)), rng.normal(size=(7, 5))

    def unit(x: np.ndarray) -> np.ndarray:
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    own, nearest = similarities(torch.tensor(poor), torch.tensor(best), torch.tensor(label))
    for i in range(7):
        others = [j for j in range(7) if label[j] == label[i] and j != i]
        centre = unit(unit(best)[others].sum(0))
        rivals = [unit(unit(best)[label == c].sum(0)) for c in (0, 1, 3) if c != label[i]]
        assert own[i].item() == pytest.approx(unit(poor)[i] @ centre, abs=1e-5)
        assert nearest[i].item() == pytest.approx(max(unit(poor)[i] @ rival for rival in rivals), abs=1e-5)
    torch.testing.assert_close(target(own, nearest), own / (nearest + 1 + 1e-9))
    with pytest.raises(ValueError, match="each of two images or more"):
        similarities(torch.tensor(poor), torch.tensor(best), torch.tensor([0, 0, 1, 1, 1, 3, 2]))


def test_the_fitted_head_is_the_minimum() -> None:
    rows, weight = torch.randn(400, 6) * torch.tensor([1.0, 5, 0.1, 1, 1, 1]) + 2, torch.randn(6)
    clean = rows @ weight * 0.1 + 0.4
    found = fit(rows, clean, decay=0.0)
    torch.testing.assert_close(rows @ found[0] + found[1], clean, rtol=1e-3, atol=1e-3)
    wanted = clean + torch.randn(400)
    found = fit(rows, wanted, decay=0.0)

    def loss(w: Tensor, b: Tensor) -> float:
        error = (rows.double() @ w.double() + b.double() - wanted.double()).abs()
        return torch.where(error < 0.5, error.square(), error - 0.25).mean().item()

    least = loss(*found)
    for step in torch.randn(20, 7) * 0.03:
        assert loss(found[0] + step[:6] / rows.std(0), found[1] + step[6]) > least
