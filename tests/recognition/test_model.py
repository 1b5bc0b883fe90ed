import copy

import pytest
import torch
from easydict import EasyDict
from torch import nn

from iqa import SCORERS, QualityGate
from recognition import config as settings
from recognition.gate import Gate
from recognition.model import FaceModel, assemble, count_parameters
from recognition.types import Batch
from recognition.weights import write_weights
from tests.small import write_recipe
from tests.tiny import Tiny


class GateReader(nn.Module):
    """Returns the image's mean times its gate, and hands out an auxiliary loss."""

    input_size, embedding_size = 8, 1

    def __init__(self, gate):
        super().__init__()
        self.gate = gate

    def forward(self, image):
        assert image.shape[-2:] == (8, 8)
        value = self.gate.require()
        self.gate.add_auxiliary(value.sum())
        return (image.mean((1, 2, 3)) * value).unsqueeze(1)


def gated(scorer="constant"):
    gate = Gate()
    return FaceModel(GateReader(gate), gate, QualityGate(0.5, 1.0), SCORERS.create(scorer))


def test_a_score_becomes_a_gate_and_auxiliary_losses_come_out():
    image = torch.ones(2, 3, 16, 16)
    embedding, auxiliary = gated()(image, torch.tensor([0.4, 5.0]))
    torch.testing.assert_close(embedding, torch.tensor([[0.4], [1.0]]))
    assert auxiliary.item() == pytest.approx(1.4)


def test_without_a_score_the_models_scorer_looks_at_the_image_in_0_to_1():
    class Mean(nn.Module):
        needs = "image"

        def forward(self, image):
            assert image.min() >= 0 and image.max() <= 1
            return image.mean((1, 2, 3))

    model = gated()
    model.scorer = Mean()
    image = torch.stack([torch.full((3, 8, 8), -1.0), torch.full((3, 8, 8), 0.5)])
    torch.testing.assert_close(model.score(image), torch.tensor([0.0, 0.75]))
    torch.testing.assert_close(model.embed(image), torch.tensor([[0.0], [0.375]]))


def test_a_gate_without_scorer_and_score_is_an_error_in_words():
    model = gated()
    model.scorer = None
    with pytest.raises(RuntimeError, match="give a score"):
        model(torch.zeros(1, 3, 8, 8))


def test_a_scorer_gets_what_it_looks_at_and_not_the_image():
    model, image, level = gated("oracle"), torch.zeros(3, 3, 8, 8), torch.tensor([0.0, 0.5, 0.875])
    torch.testing.assert_close(model.score(image, level=level), torch.tensor([0.0, -1.0, -3.0]))
    batch = Batch(image, torch.zeros(3), torch.zeros(3, 2), level=level)
    assert torch.equal(model.score_batch(batch), model.score(image, level=level))
    for call in (model.score, model.embed):
        with pytest.raises(RuntimeError, match=r"looks at the level of an image, which nobody gave: call score\("):
            call(image)


def test_stored_scores_hold_but_for_images_degraded_since():
    model, image = gated("sharpness"), torch.rand(4, 3, 8, 8) * 2 - 1
    stored, rows = torch.tensor([10.0, 11.0, 12.0, 13.0]), torch.tensor([3, 1])
    batch = Batch(image, torch.zeros(4), torch.zeros(4, 2), score=stored)
    assert model.score_batch(batch) is stored
    batch.unscored = torch.tensor([], dtype=torch.int64)
    assert model.score_batch(batch) is stored
    batch.unscored, own = rows, model.score(image)
    torch.testing.assert_close(model.score_batch(batch), torch.stack([stored[0], own[1], stored[2], own[3]]))
    assert stored.tolist() == [10.0, 11.0, 12.0, 13.0], "the batch's own stay what they are"


def test_middle_scores_are_halfway():
    model = gated()
    assert model.middle_scores(3).shape == (3,) and (model.quality_gate(model.middle_scores(3)) == 0.5).all()
    assert FaceModel(Tiny()).middle_scores(3) is None


def test_a_frozen_base_stays_in_eval_mode():
    model = FaceModel(Tiny(), frozen_base=True)
    model.train()
    assert model.training and not any(m.training for m in model.backbone.modules())
    assert all(m.training for m in FaceModel(Tiny()).train().backbone.modules())


def base_file(tmp_path, recipe):
    """Weights of the recipe's backbone, moved away from their start, as a file."""
    model = assemble(settings.load(recipe)).model
    torch.manual_seed(3)
    for parameter in model.backbone.parameters():
        parameter.data += 0.01 * torch.randn_like(parameter)
    path = tmp_path / "base.safetensors"
    write_weights(path, model.backbone.state_dict(), {"backbone": "mobilefacenet_nano"})
    return path


@pytest.mark.parametrize("adapter", ["lora", "dual_lora"])
def test_assembly_gives_the_base_bit_for_bit_and_freezes_it(tmp_path, adapter):
    recipe = write_recipe(tmp_path)
    path = base_file(tmp_path, recipe)
    plain = assemble(settings.load(recipe, [f"backbone.weights={path}"])).model.eval()
    adapted = assemble(settings.load(recipe, [f"backbone.weights={path}", f"adapter.name={adapter}"])).model.eval()
    image = torch.rand(3, 3, 112, 112) * 2 - 1
    assert torch.equal(plain.embed(image), adapted.embed(image))
    total, trainable = count_parameters(adapted)
    assert 0 < trainable < total / 2
    base = plain.backbone.state_dict()
    held = adapted.backbone.state_dict()
    assert all(torch.equal(held[key], value) for key, value in base.items())
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert all("lora_" in name for name in trained) and trained


def test_assembly_is_a_function_of_the_seed(tmp_path):
    recipe = write_recipe(tmp_path)
    torch.manual_seed(1)
    one = assemble(settings.load(recipe)).model.state_dict()
    torch.manual_seed(2)
    two = assemble(settings.load(recipe)).model.state_dict()
    other = assemble(settings.load(recipe, ["run.seed=5"])).model.state_dict()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_assembly_answers_what_cannot_be_in_words(tmp_path):
    recipe = write_recipe(tmp_path)
    with pytest.raises(ValueError, match=r"freezes the base, but config\.backbone\.weights names no file"):
        assemble(settings.load(recipe, ["adapter.name=lora"]))
    path = base_file(tmp_path, recipe)
    with pytest.raises(ValueError, match="holds a mobilefacenet_nano, but"):
        assemble(settings.load(recipe, [f"backbone.weights={path}", "backbone.name=r18"]))


def test_the_model_can_be_copied():
    model = gated()
    twin = copy.deepcopy(model)
    assert twin.backbone.gate is twin.gate and twin.gate is not model.gate
    twin(torch.ones(1, 3, 8, 8), torch.tensor([0.5]))


def test_activation_checkpointing_changes_nothing_but_memory(tmp_path):
    recipe = write_recipe(tmp_path)
    path = base_file(tmp_path, recipe)
    image = torch.rand(2, 3, 112, 112) * 2 - 1
    gradients = []
    for on in ("true", "false"):
        config: EasyDict = settings.load(
            recipe, [f"backbone.weights={path}", "adapter.name=dual_lora", f"train.checkpoint_activations={on}"]
        )
        model = assemble(config).model.train()
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.02
        model.embed(image).pow(2).sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name])
