"""One recipe and one undisturbed run of two processes, which every disturbed run has to equal."""

from pathlib import Path

import pytest

from tests.recovery.launch import Training, assert_epochs_are_whole, images_of, write_witnessed


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 images, 3 per process and update, 15 updates, a checkpoint after every second one."""
    return write_witnessed(tmp_path_factory.mktemp("recovery"))


@pytest.fixture(scope="session")
def undisturbed(recipe: Path) -> Path:
    """The run folder that two processes leave when nothing happens to them."""
    with Training(recipe, "undisturbed", torchrun=["--standalone", "--nproc-per-node=2"]) as training:
        assert training.wait() == 0, training.output
        training.assert_gone()
    assert_epochs_are_whole(images_of(training.run))
    return training.run
