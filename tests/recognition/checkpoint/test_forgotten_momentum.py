"""Momentum of the last sample's classes only, in a checkpoint and back: the run goes on bit for bit."""

import functools

import torch

from adapters import ADAPTERS, attach
from recognition import checkpoint, distributed
from recognition.gate import Gate
from recognition.margins import MARGINS
from recognition.model import FaceModel
from recognition.partial_fc import PartialFC
from tests.launch import run_groups
from tests.recognition.checkpoint.test_saver import Tiny

CLASSES, STEPS = 41, 3


def build():
    torch.manual_seed(3)
    gate = Gate()
    model = FaceModel(Tiny(), gate)
    attach(model.backbone, ADAPTERS.create("full"), gate)
    classifier = PartialFC(4, CLASSES, MARGINS.create("cosface"), sample_rate=0.4, seed=1, state="sampled")
    optimizer = torch.optim.SGD([*model.parameters(), *classifier.parameters()], lr=0.1, momentum=0.9)
    classifier.bind(optimizer)
    return model, classifier, optimizer


def advance(model, classifier, optimizer, steps):
    for step in steps:
        draw = torch.Generator().manual_seed(step)
        embedding, label = torch.randn(6, 4, generator=draw), torch.randint(CLASSES, (6,), generator=draw)
        mine = slice(distributed.global_rank(), None, distributed.world_size())
        classifier(embedding[mine], label[mine], step=step).backward()
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
        optimizer.zero_grad()


def state(classifier, optimizer):
    return {name: value.clone() for name, value in classifier.tensors(optimizer).items()}


def save_and_read(rank, size, folder):
    found = {}
    if size == 2:
        these = build()
        advance(*these, range(STEPS))
        checkpoint.save(folder, STEPS, *these, {"update": STEPS})
        found["saved"] = state(*these[1:])
        advance(*these, range(STEPS, 2 * STEPS))
        found["straight"] = state(*these[1:])
    these = build()
    checkpoint.read(checkpoint.newest(folder), *these)
    found["read"] = state(*these[1:])
    advance(*these, range(STEPS, 2 * STEPS))
    found["resumed"] = state(*these[1:])
    assert these[2].state[these[1].weight]["momentum_buffer"].is_sparse
    return found


def test_a_run_goes_on_as_if_undisturbed_and_on_another_number_of_processes(tmp_path):
    found = run_groups([2, 1], functools.partial(save_and_read, folder=tmp_path))
    for one in found[2]:
        assert one["saved"].keys() == {"weight", "momentum_buffer"}
        kept = one["saved"]["momentum_buffer"].any(1).sum()
        assert 0 < kept <= 12, "a few of 21 classes have momentum"
        for name, value in one["saved"].items():
            assert torch.equal(one["read"][name], value)
            assert torch.equal(one["resumed"][name], one["straight"][name])
    for name in ("weight", "momentum_buffer"):
        assert torch.equal(torch.cat([one["saved"][name] for one in found[2]]), found[1][0]["read"][name])
