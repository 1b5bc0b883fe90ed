"""Evaluations of one run: before training, after it, and in between as often as the wall time allows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from easydict import EasyDict

from recognition.distributed import World, any_process, gather_json
from recognition.evaluation import report
from recognition.evaluation.protocol import EvaluationSet, Looked
from recognition.evaluation.results import about, save_results
from recognition.evaluation.runner import evaluate, headline, scalars
from recognition.evaluation.sets import open_sets
from recognition.page import board
from recognition.page.document import write_page
from recognition.page.runs import read_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from recognition.trainer import Trainer


class Pace:
    """When there is time for an evaluation during training: never for more than a share of the wall time.

    The main process's clock decides for all. An evaluation that comes too early is put off, not left out.
    """

    def __init__(self, budget: float) -> None:
        """budget: largest share of the wall time that evaluations during training may take, in (0, 1]; 1 = no limit."""
        if not 0 < budget <= 1:
            raise ValueError(
                f"config.evaluation.budget is {budget}; it is a share of the wall time in (0, 1], such as 0.02, and 1 "
                "sets no limit"
            )
        self.budget = budget
        self.seconds = 0.0  # taken by evaluations during training until now
        self.cost: float | None = None  # seconds that the last evaluation took, or one is thought to take
        self.owed = False  # one is due, and was put off
        self._told = False

    def fits(self, trained: float) -> bool:
        """Whether one may be made after so many seconds of training."""
        if self.budget == 1 or self.cost is None:
            return True
        return self.seconds + self.cost <= self.budget * (trained + self.seconds + self.cost)

    def put_off(self, say: Callable[[str], None], update: int) -> None:
        """Remember, and tell once, that one is due and comes later."""
        self.owed = True
        if not self._told and self.cost is not None:
            wait = (self.seconds + self.cost) / self.budget - self.seconds - self.cost
            say(
                f"the evaluation due at update {update} is put off: one takes about {self.cost:.1f} s, and "
                f"evaluation.budget={self.budget:g} of the wall time allows it after {wait:.0f} s of training (never, "
                "where training ends before); the evaluation after training is made in any case"
            )
            self._told = True

    def took(self, seconds: float, *, during: bool) -> None:
        """One was made."""
        self.cost = seconds
        if during:
            self.seconds += seconds
            self.owed = self._told = False

    def state_dict(self) -> dict[str, float | bool | None]:
        """JSON-able."""
        return {"seconds": self.seconds, "cost": self.cost, "owed": self.owed}

    def load_state_dict(self, state: dict) -> None:
        """What state_dict() gave."""
        self.seconds, self.cost, self.owed = float(state["seconds"]), state["cost"], bool(state["owed"])


class Evaluations:
    """The evaluation sets of a run, their results, and the pace."""

    def __init__(self, settings: EasyDict, world: World) -> None:
        """settings: the section config.evaluation. Opens its sets; ValueError or FileNotFoundError as open_sets."""
        self.settings, self.world = settings, world
        self.sets: Sequence[EvaluationSet] = open_sets(settings) if settings.sets else []
        self.pace = Pace(settings.budget)
        self.results: dict[str, dict] = {}  # by when: before, during, after
        self._faces: board.Faces | None = None
        self.granted = False  # the main process found time for one that was put off

    def may_come(self, trained: float) -> bool:
        """Whether one that was put off fits now, by this process's clock."""
        return bool(self.settings.every) and self.pace.owed and self.pace.fits(trained)

    def come(self, trainer: Trainer) -> bool:
        """Whether one is to be made after this update; all processes call this together and get the same answer."""
        due = trainer.due(self.settings.every)
        if not self.sets or not (due or self.granted):
            return False
        if due and self.pace.budget < 1:
            trained = trainer.meter.seconds
            if self.pace.cost is None:  # a forward pass takes no longer than an update
                images = sum(len(view.rows) for one in self.sets for view in one.protocol.views.values())
                self.pace.cost = images * trained / (trainer.update * trainer.images_per_update)
            if not any_process(self.world.is_main and self.pace.fits(trained))[0]:
                self.pace.put_off(trainer.logs.say, trainer.update)
                return False
        return True

    def run(self, trainer: Trainer, when: str) -> None:
        """Evaluate on every set by all processes; keep, log and compare. when: before, during or after training."""
        if not self.sets:
            return
        began, self.granted = time.perf_counter(), False
        trainer.learner.share_statistics()
        with trainer.learner.shown():
            results = evaluate(trainer.learner.model, self.settings, self.world, sets=self.sets, shown=self._keep_faces)
        value = gather_json(headline(results, self.settings.best))[0]  # sums differ in their last digit on some devices
        if self.world.is_main:
            self.results[when] = results
            self._tell(trainer, when)
        if when != "before":
            trainer.keeper.compare(trainer.update, value, self.settings.best, trainer.save)
        self.pace.took(time.perf_counter() - began, during=when == "during")
        if when == "during":
            wall = trainer.meter.seconds + self.pace.seconds
            share = f"{100 * self.pace.seconds / wall:.1f} % of the wall time until now"
            trainer.logs.say(f"the evaluation took {self.pace.cost:.1f} s; those during training took {share}")

    def _keep_faces(self, one: EvaluationSet, looked: Mapping[str, Looked]) -> None:
        """For the projector: some faces of the first set, as the last evaluation has seen them."""
        if self.world.is_main and one is self.sets[0]:
            self._faces = board.chosen(one, looked)

    def _tell(self, trainer: Trainer, when: str) -> None:
        logs, update, results = trainer.logs, trainer.update, self.results[when]
        logs.scalars({f"{when}/{tag}": v for tag, v in scalars(results).items()}, update, line=False)
        if when != "after":
            self._draw(trainer, report.figures(self.results))
        for name in results:
            first = next(iter(next(iter(results[name].values()))))  # accuracy, or the lowest rank
            logs.say(f"{name}, {when} training\n{report.table({when: results}, name, first)}")
        with logs.going_on(f"the results of update {update} are not kept"):
            save_results(trainer.run / "report" / when, results, about(self.sets, self.settings), {"update": update})

    def _draw(self, trainer: Trainer, figures: Mapping[str, Figure]) -> None:
        for tag, figure in figures.items():
            trainer.logs.figure(tag, figure, trainer.update)

    def report(self, trainer: Trainer) -> None:
        """Write report.md, the page for a browser, and what the board shows; whatever fails costs only itself.

        Main process only.
        """
        if not self.results:
            return
        run, logs = trainer.run, trainer.logs
        folder = run / "report"
        for what, write in (
            ("report", lambda: report.write_report(folder, self.results)),
            ("page", lambda: write_page(folder / "report.html", [read_run(run)])),
            ("board", lambda: self._draw(trainer, board.figures(self.results))),
            ("faces", lambda: self._faces and board.project(run / "logs", self._faces)),
        ):
            try:
                if written := write():
                    logs.say(f"{what:7} {written}")
            except (OSError, ValueError) as error:
                logs.say(f"the {what} of this run is not kept: {error}; tools/report.py makes it later")
