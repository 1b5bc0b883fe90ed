import itertools

import numpy as np
import pytest
from easydict import EasyDict
from torch import nn

from recognition.optim import Schedule, build_optimizer, lr_factor


@pytest.mark.parametrize("name", ["lr_w0_t500_p2", "lr_w100_t1000_p1"])
def test_schedule_is_arcface_torchs_but_for_its_first_update(oracles, name):
    published = np.load(oracles / f"{name}.npz")
    lr, warmup, total = published["lr"], int(published["warmup_steps"]), int(published["total_steps"])
    power = float(published["power"])
    ours = [float(published["base_lr"]) * lr_factor(k, total, warmup, "polynomial", power) for k in range(total)]
    # its update 0 runs at the peak, before the warm-up: ours is one ahead of it there, and equal afterwards
    wanted = [lr[k + 1] if k < warmup else lr[k] for k in range(total)]
    np.testing.assert_allclose(ours, wanted, rtol=1e-9)


def test_warmup_rises_from_the_first_update_and_the_plan_ends_near_zero():
    for name in ("polynomial", "cosine"):
        factors = [lr_factor(k, 20, 4, name) for k in range(20)]
        assert factors[:4] == [0.25, 0.5, 0.75, 1.0] and factors[4] == 1.0
        assert all(a > b for a, b in itertools.pairwise(factors[4:])) and 0 < factors[-1] < 0.1
        assert lr_factor(25, 20, 4, name) == pytest.approx(0)


def settings(**optim):
    return EasyDict(
        optim={"name": "sgd", "lr": 0.1, "momentum": 0.9, "betas": [0.9, 0.999], "weight_decay": 0.5, **optim},
        classifier={"lr_scale": 2.0},
        schedule={"name": "polynomial", "power": 1.0, "warmup_epochs": 0.0, "epochs": 10.0, "unfreeze": []},
    )


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_norms_and_biases_do_not_decay_and_frozen_parameters_are_left_out(name):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    network[2].weight.requires_grad_(False)
    classifier = nn.Linear(4, 5, bias=False)
    optimizer = build_optimizer(settings(name=name), network, classifier, adapter=object())
    decay = {id(p): (g["weight_decay"], g["lr"]) for g in optimizer.param_groups for p in g["params"]}
    assert decay[id(network[0].weight)] == (0.5, 0.1) and decay[id(classifier.weight)] == (0.5, 0.2)
    for still in (network[0].bias, network[1].weight, network[1].bias, network[2].bias):
        assert decay[id(still)] == (0.0, 0.1)
    assert id(network[2].weight) not in decay


def test_an_adapters_own_groups_keep_their_lr():
    network = nn.Linear(3, 3)

    class Plus:
        def parameter_groups(self, backbone):
            return [{"params": [backbone.weight], "lr_scale": 16.0}]

    model = nn.Module()
    model.backbone = network
    optimizer = build_optimizer(settings(), model, nn.Module(), Plus())
    lr = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    assert lr[id(network.weight)] == pytest.approx(1.6) and lr[id(network.bias)] == pytest.approx(0.1)
    assert len(lr) == 2


def test_wrong_names_and_a_warmup_without_end_are_errors():
    with pytest.raises(ValueError, match="'lion'; it must be"):
        build_optimizer(settings(name="lion"), nn.Linear(2, 2), nn.Linear(2, 2), object())
    with pytest.raises(ValueError, match="warmup_epochs"):
        Schedule(settings().schedule, total=10, warmup=10)
    with pytest.raises(ValueError, match="'step'; it must be"):
        Schedule(EasyDict(name="step", power=1.0, warmup_epochs=0.0), 10, 0)


def test_every_group_follows_the_plan_from_its_own_peak():
    optimizer = build_optimizer(settings(), nn.Linear(3, 3), nn.Linear(3, 4, bias=False), object())
    schedule = Schedule(settings().schedule, total=10, warmup=2)
    assert schedule.apply(optimizer, 0) == pytest.approx(0.05)
    assert {group["lr"] for group in optimizer.param_groups} == {0.05, 0.1}
    schedule.apply(optimizer, 6)
    assert {round(group["lr"], 9) for group in optimizer.param_groups} == {0.05, 0.1}


def test_layers_rest_until_their_epoch():
    model = nn.Module()
    model.backbone = nn.ModuleDict(
        {"stem": nn.Linear(2, 2), "blocks": nn.ModuleList([nn.Linear(2, 2) for _ in range(3)])}
    )
    config = settings(name="adamw")
    rules = [{"layers": ["stem", "blocks.*"], "from_epoch": 4}, {"layers": "blocks.2", "from_epoch": 2.0}]
    config.schedule.unfreeze = rules
    optimizer = build_optimizer(config, model, nn.Linear(2, 2), adapter=object())
    plan = Schedule(config.schedule, total=20, warmup=0)
    rest = {}
    for update in (0, 3, 4, 7, 8):
        plan.apply(optimizer, update)
        still = {id(p) for group in optimizer.param_groups if group["rests"] for p in group["params"]}
        rest[update] = {name for name, p in model.backbone.named_parameters() if id(p) in still}
    everything = {name for name, _ in model.backbone.named_parameters()}
    assert rest[0] == rest[3] == everything
    assert rest[4] == rest[7] == {name for name in everything if not name.startswith("blocks.2")}
    assert rest[8] == set()


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"layers": "stam", "from_epoch": 1}, "'stam' names nothing that is trained; did you mean 'stem'"),
        ({"layers": "stem"}, "a rule is a dict"),
        ({"layers": "stem", "from_epoch": -1}, "they would never train"),
        ({"layers": ["stem"], "from_epoch": 10}, "from epoch 10 on, of 10 epochs: they would never train"),
        ({"layers": "stem", "from_epoch": "1"}, "from_epoch, a number"),
        ({"layers": 3, "from_epoch": 1}, "a rule is a dict"),
        (3, "a rule is a dict"),
    ],
)
def test_a_wrong_rule_of_unfreezing_is_told(rule, words):
    model, config = nn.Module(), settings()
    model.backbone = nn.ModuleDict({"stem": nn.Linear(2, 2)})
    config.schedule.unfreeze = [rule]
    with pytest.raises(ValueError, match=words):
        build_optimizer(config, model, nn.Linear(2, 2), adapter=object())
