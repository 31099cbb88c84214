"""A training from its first update, or from where it stopped, to its end."""

from __future__ import annotations

import io
import logging
import math
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hrnet_zoo import __version__
from hrnet_zoo.datasets.layouts import LabeledFolder
from hrnet_zoo.errors import printable
from hrnet_zoo.evaluation.costs import busy_words
from hrnet_zoo.evaluation.evaluate import count_pixels
from hrnet_zoo.evaluation.metrics import class_accuracy, class_iou, mean, pixel_accuracy
from hrnet_zoo.images.atomic import atomic_write, make_folder
from hrnet_zoo.images.progress import Bar
from hrnet_zoo.training.history import History
from hrnet_zoo.training.images import MOST_ROWS, SheetRow, sheet
from hrnet_zoo.training.interruption import Interruption
from hrnet_zoo.training.stream import TrainingStream, read_pair
from hrnet_zoo.training.trainer import Trainer, Update
from hrnet_zoo.zoo.save import save_pretrained

SILENCE_S = 300.0  # at most, where a line takes the place of a bar
STATE_FILE = "training_state.safetensors"
SHEETS = "sheets"

logger = logging.getLogger("hrnet_zoo")


@dataclass
class Run:
    """What a training consists of beside its updates: validation, saving, telling, stopping.

    Attributes:
        trainer: makes the updates.
        stream: gives this process's share of every batch.
        out: folder of the run.
        val: images to validate on; None: none, and the newest network is kept rather than the best.
        validate_every: updates; without images to validate on, the network is only kept then.
        save_every: updates after which the state is saved, beside the validations; 0: only there.
        patience: validations without a gain after which the training ends; None: it never ends early.
        tensorboard: write events.
        progress: show bars on a terminal, else a line for the first update and for each validation.

    """

    trainer: Trainer
    stream: TrainingStream
    out: Path
    val: LabeledFolder | None
    validate_every: int
    save_every: int
    patience: int | None
    tensorboard: bool
    progress: bool

    def __post_init__(self) -> None:
        self.team = self.trainer.team
        self.first = self.team.rank == 0
        self.last: Update | None = None

    @property
    def state(self) -> Path:
        """The file from which the training can go on."""
        return self.out / STATE_FILE

    def go(self) -> None:
        """Train to the end.

        Raises:
            KeyboardInterrupt, SystemExit: after SIGINT or SIGTERM, when all is saved.
            TrainingError: the loss is not finite any more.
            OutputError: something cannot be written.
            HRNetZooError: an image that went bad, a process that died.

        """
        trainer, steps = self.trainer, self.trainer.recipe.steps
        with ExitStack() as stack:
            stop = stack.enter_context(Interruption(aloud=self.progress and self.first))
            history = stack.enter_context(self._history()) if self.first else None
            shown = Bar(
                *(None, "finetune", steps),
                initial=trainer.progress.step,
                unit="update",
                disable=None if self.progress and self.first else True,
            )
            bar = stack.enter_context(shown)
            self._lines = self.progress and self.first and bar.disable  # there is no terminal
            self._began = self._told = time.monotonic()
            first = trainer.progress.step + 1
            batches = stack.enter_context(closing(self.stream.batches(trainer.progress.step)))
            self._validate_if_due(history)  # a stop may have come between the last update and its validation
            while trainer.progress.step < steps and not self._is_exhausted():
                began = time.perf_counter()
                images, labels = next(batches)
                waited = time.perf_counter() - began
                self.last = trainer.update(images, labels)
                if history:
                    history.add(self._line(began, waited))
                bar.update()
                bar.set_postfix_str(f"loss {self.last.loss:.3f}, mIoU {_shown(trainer.progress.best_miou)}")
                if trainer.progress.step == first or time.monotonic() > self._told + SILENCE_S:
                    self._tell()
                if trainer.progress.step == first and self.first and trainer.device.type == "cpu":
                    _warn_of_a_busy_machine(time.perf_counter() - began)
                self._leave_if_asked(stop)
                if not self._validate_if_due(history) and self._is_due(self.save_every):
                    self.save()
                self._leave_if_asked(stop)
            if history:
                history.draw()

    def _tell(self, figures: str = "") -> None:
        """Write a line on the last update, where there is no bar."""
        if self._lines:
            self._told = time.monotonic()
            loss = f": loss {self.last.loss:.3f}" if self.last else ""
            text = f"update {self.trainer.progress.step} of {self.trainer.recipe.steps}{loss}{figures}"
            tell(f"{text}, {_duration(self._told - self._began)}")

    def save(self) -> None:
        """Write the state; only one process does."""
        self._first_only(lambda: self.trainer.save(self.state))

    def _first_only(self, work: Callable[[], None]) -> None:
        """Let one process work for all; if it fails, all know."""
        self.team.ranks.all_gather(lambda: work() if self.first else None)

    def _leave_if_asked(self, stop: Interruption) -> None:
        """Save and leave if one of the processes was told to: all of them do, at the same update."""
        asked = stop.signal or 0
        if self.team.size > 1:
            asked = int(self.team.max(torch.tensor(float(asked), device=self.trainer.device)))
        if asked:
            self.save()
            if self.first:
                step, steps = self.trainer.progress.step, self.trainer.recipe.steps
                logger.warning("all is saved in %s after update %d of %d; resume goes on there", self.out, step, steps)
            stop.leave(asked)

    def _is_due(self, every: int) -> bool:
        return every > 0 and self.trainer.progress.step % every == 0

    def _is_exhausted(self) -> bool:
        return self.patience is not None and self.trainer.progress.without_gain >= self.patience

    def _validate_if_due(self, history: History | None) -> bool:
        """Score the network, keep it if it is the best so far, and save the state."""
        progress = self.trainer.progress
        due = self._is_due(self.validate_every) or progress.step == self.trainer.recipe.steps
        if not due or progress.validated >= progress.step:
            return False
        self.save()  # a validation is long, and can fail; if it does, it is made up for
        if self.val is None:
            progress.validated = progress.step
            self._first_only(lambda: self._keep({}))
            self.save()
            self._tell()
            return True
        model = self.trainer.model
        counts = count_pixels(
            *(model, self.val, self.team.ranks),
            ms_flip=False,
            workers=self.stream.workers,
            max_memory=None,
            progress=self.progress,
        )
        iou = class_iou(counts)
        figures = {
            "miou": 100 * mean(iou),
            "macc": 100 * mean(class_accuracy(counts)),
            "aacc": 100 * pixel_accuracy(counts),
        }
        progress.validated = progress.step
        better = progress.best_miou is None or figures["miou"] > progress.best_miou
        progress.without_gain = 0 if better else progress.without_gain + 1
        if better:
            progress.best_miou = figures["miou"]
        if history:
            names = {"miou": "mIoU", "macc": "mAcc", "aacc": "aAcc"}
            line: dict[str, Any] = {"mode": "val", "iter": progress.step}
            line |= {names[key]: round(figure, 4) for key, figure in figures.items()}
            line |= {
                f"IoU.{name}": round(100 * float(value), 4)
                for name, value in zip(model.classes, iou, strict=True)
                if not np.isnan(value)
            }
            history.add(line)
        if better:
            self._first_only(lambda: self._keep(figures))
        self._first_only(self._draw_sheet)
        self.save()
        self._tell(f", mIoU {_shown(figures['miou'])} (best {_shown(progress.best_miou)})")
        return True

    def _draw_sheet(self) -> None:
        """Show some validation images with truth and prediction, always the same ones."""
        assert self.val is not None  # noqa: S101 - for the type checker
        model, rows = self.trainer.model, []
        for sample in self.val.samples[:MOST_ROWS]:
            image, truth = read_pair(sample, self.val.rule)
            rows.append(SheetRow(sample.name, image, truth, model.predict(image, progress=False).mask))
        folder, file = self.out / SHEETS, io.BytesIO()
        make_folder(folder)
        sheet(rows, model.dataset).save(file, "JPEG", quality=90)
        atomic_write(folder / f"update_{self.trainer.progress.step:06d}.jpg", file.getvalue())

    def _keep(self, figures: dict[str, float]) -> None:
        data = f"{len(self.val.samples)} validation images of its own data" if self.val else None
        save_pretrained(
            self.trainer.model, self.out, metrics={**figures, "data": data, "steps": self.trainer.progress.step}
        )

    def _history(self) -> History:
        step = self.trainer.progress.step
        validated = self.trainer.progress.validated
        history = History(self.out, self.out.name, step, validated, tensorboard=self.tensorboard)
        if not step:
            env = f"hrnet-zoo: {__version__}\nPyTorch: {torch.__version__}"
            if self.trainer.device.type == "cuda":
                env += f"\nGPU: {torch.cuda.get_device_name(self.trainer.device)}"
            recipe = {key: value for key, value in self.trainer.recipe.to_dict().items() if key != "images"}
            history.add({"env_info": env, "seed": recipe["seed"], "exp_name": self.out.name, "recipe": recipe})
        return history

    def _line(self, began: float, waited: float) -> dict[str, Any]:
        assert self.last is not None  # noqa: S101 - for the type checker
        line = {
            "mode": "train",
            "iter": self.trainer.progress.step,
            "lr": self.last.lr,
            "loss": self.last.loss,
            "time": round(time.perf_counter() - began, 4),
            "data_time": round(waited, 4),
        }
        if self.trainer.device.type == "cuda":
            line["memory"] = torch.cuda.max_memory_allocated(self.trainer.device) >> 20
        return line


def _warn_of_a_busy_machine(seconds: float) -> None:
    if words := busy_words():
        logger.warning("the first update took %.1f s: %s", seconds, words)


def tell(text: str) -> None:
    """Write a line to stderr, if anybody listens."""
    with suppress(OSError):
        Bar.write(printable(text), file=sys.stderr)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def _shown(miou: float | None) -> str:
    return "-" if miou is None or math.isnan(miou) else f"{miou:.2f}"
