import weakref

import pytest
import torch

from recognition import config as settings
from recognition import distributed, plan
from recognition.trainer import Trainer
from tests.small import write_recipe


@pytest.fixture
def trainer(tmp_path):
    world = distributed.start("cpu")
    built = Trainer(settings.load(write_recipe(tmp_path), ["optim.name=sgd", "schedule.warmup_epochs=1"]), world)
    yield built
    built.close()
    distributed.stop()


def test_the_plan_tells_what_the_run_will_be(trainer):
    lines = dict(line.split(maxsplit=1) for line in plan.describe(trainer))
    assert list(lines) == ["records", "network", "adapted", "steps", "loss", "lr", "memory"]
    assert lines["records"] == "30 images, 6 classes in 1 shard(s)"
    assert "mobilefacenet_nano" in lines["network"] and lines["steps"].startswith("10 updates of 6 images")
    assert lines["lr"].startswith("4.00e-04 at 0, 2.00e-03 at 5, ")  # warm-up over 5 updates


def test_memory_is_the_sum_of_its_parts(trainer):
    parts, model = plan.memory_parts(trainer), trainer.learner.model
    weights = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert parts["network"] == 4 * (weights + 3 * trained)  # gradient, its copy in DDP's bucket, momentum
    assert parts["class centres"] == parts["their optimizer state"] == 4 * 6 * 32
    assert parts["compared centres"] == 4 * 6 * 32 and parts["logits"] == 4 * 6 * 6  # a gradient; one buffer
    assert plan.memory(trainer).startswith(f"about {sum(parts.values()) / 2**20:,.0f} MiB per process")


def test_counting_what_is_kept_changes_nothing(trainer):
    model = trainer.learner.model
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    once, twice = plan.kept_bytes(trainer.learner, 2), plan.kept_bytes(trainer.learner, 2)
    assert once == twice > 2 * 112 * 112 * 3 * 4
    assert torch.equal(state, torch.get_rng_state()) and model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


class Wide(torch.nn.Module):
    """One layer of 4 MB whose backward keeps its input of 4 KB an image, and the weight, transposed."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1024, 1024, bias=False)

    def middle_scores(self, count):
        return None

    def forward(self, image, score):
        return self.layer(image[:, 0, :10, :].flatten(1)[:, :1024].clone().requires_grad_())


def test_weights_are_not_counted_with_the_activations(trainer):
    trainer.learner.model = Wide()
    assert plan.kept_bytes(trainer.learner, 2) == 2 * 4096 and plan.activations(trainer.learner, 6) == 6 * 4096
    trainer.learner.autocast_dtype = torch.bfloat16  # a weight of 2 bytes a number, once, and a smaller input
    assert plan.activations(trainer.learner, 6) == 2 * 1024**2 + 6 * 2048


class Saving(torch.nn.Module):
    """A layer whose backward keeps its output."""

    def middle_scores(self, count):
        return None

    def forward(self, image, score):
        self.seen = weakref.ref(out := image.clone().requires_grad_().exp())
        return out


def test_nothing_of_it_stays(trainer):
    trainer.learner.model = Saving()
    assert plan.kept_bytes(trainer.learner, 2) == 2 * 3 * 112 * 112 * 4
    assert trainer.learner.model.seen() is None


def test_layers_that_drop_are_counted_as_in_training(trainer):
    model = trainer.learner.model = Wide()
    model.layer = torch.nn.Sequential(torch.nn.Linear(1024, 1024, bias=False), torch.nn.Dropout(0.5))
    model.train()
    assert plan.kept_bytes(trainer.learner, 2) > 2 * 4096 and model.training
