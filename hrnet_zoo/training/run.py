"""The training loop: updates, validation, saving, logging, and stopping at a signal."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hrnet_zoo import __version__
from hrnet_zoo.datasets.layouts import LabeledFolder
from hrnet_zoo.errors import printable
from hrnet_zoo.evaluation.costs import busy_words
from hrnet_zoo.evaluation.evaluate import count_pixels, read_pair
from hrnet_zoo.evaluation.metrics import class_accuracy, class_iou, mean, pixel_accuracy
from hrnet_zoo.images.atomic import atomic_write, make_folder
from hrnet_zoo.images.progress import Bar
from hrnet_zoo.training.distributed import all_reduce
from hrnet_zoo.training.history import History
from hrnet_zoo.training.sheets import MAX_ROWS, SheetRow, draw_sheet
from hrnet_zoo.training.state import STATE_FILE
from hrnet_zoo.training.stream import TrainingStream
from hrnet_zoo.training.trainer import Trainer, Update
from hrnet_zoo.zoo.model_folder import save_pretrained

if TYPE_CHECKING:
    from typing_extensions import Self

SHEETS = "sheets"
MAX_SILENCE_S = 300.0  # between two lines, where there is no bar
ECHO_S = 2.0  # within which a second signal is the first one, passed on by a launcher that got it too

logger = logging.getLogger("hrnet_zoo")


@dataclass
class Run:
    """Everything of a training beside its updates: validation, saving, logging, stopping.

    Attributes:
        trainer: makes the updates.
        stream: gives this process's share of every batch.
        out: folder of the run.
        val: images to validate on; None: none, and the newest network is kept rather than the best.
        validate_every: updates; without images to validate on, the network is only kept then.
        save_every: updates after which the state is saved, in addition to the validations; 0: only there.
        patience: validations without a gain after which the training ends; None: never.
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
        self.ranks = self.trainer.ranks
        self.is_first = self.ranks.rank == 0
        self.last: Update | None = None
        self.state = self.out / STATE_FILE

    def train(self) -> None:
        """Train to the end.

        Raises:
            KeyboardInterrupt, SystemExit: after SIGINT or SIGTERM, when the state is saved.
            TrainingError: the loss is not finite any more.
            OutputError: something cannot be written.
            HRNetZooError: an image that went bad, a process that died.

        """
        trainer, steps = self.trainer, self.trainer.config.steps
        shown = self.progress and self.is_first
        with ExitStack() as stack:
            stop = stack.enter_context(StopSignal(verbose=shown))
            history = stack.enter_context(self._open_history()) if self.is_first else None
            bar = stack.enter_context(
                Bar(
                    desc="finetune",
                    total=steps,
                    initial=trainer.progress.step,
                    unit="update",
                    disable=None if shown else True,
                )
            )
            self._prints_lines = shown and bar.disable  # there is no terminal
            self._started = self._last_line = time.monotonic()
            first = trainer.progress.step + 1
            batches = stack.enter_context(closing(self.stream.batches(trainer.progress.step)))
            self._validate_if_due(history)  # a stop may have come between the last update and its validation
            while trainer.progress.step < steps and not self._is_exhausted():
                began = time.perf_counter()
                images, labels = next(batches)
                waited = time.perf_counter() - began
                self.last = trainer.update(images, labels)
                seconds = time.perf_counter() - began
                if history:
                    history.add(self._train_line(self.last, seconds, waited))
                bar.update()
                bar.set_postfix_str(f"loss {self.last.loss:.3f}, mIoU {_miou_text(trainer.progress.best_miou)}")
                if trainer.progress.step == first or time.monotonic() > self._last_line + MAX_SILENCE_S:
                    self._print_line()
                on_cpu = self.is_first and trainer.device.type == "cpu"
                if trainer.progress.step == first and on_cpu and (words := busy_words()):
                    logger.warning("the first update took %.1f s: %s", seconds, words)
                self._leave_if_asked(stop)
                if not self._validate_if_due(history) and self._is_due(self.save_every):
                    self.save()
                self._leave_if_asked(stop)
            if history:
                history.draw()

    def save(self) -> None:
        """Write the state, in one process."""
        self._on_first(lambda: self.trainer.save(self.state))

    def _on_first(self, work: Callable[[], None]) -> None:
        """Let the first process work; an error is raised in all of them."""
        self.ranks.all_gather(lambda: work() if self.is_first else None)

    def _print_line(self, figures: str = "") -> None:
        """Report the last update on stderr, where there is no bar."""
        if self._prints_lines:
            self._last_line = time.monotonic()
            loss = f": loss {self.last.loss:.3f}" if self.last else ""
            elapsed = timedelta(seconds=round(self._last_line - self._started))
            step, steps = self.trainer.progress.step, self.trainer.config.steps
            print_line(f"update {step} of {steps}{loss}{figures}, {elapsed}")

    def _leave_if_asked(self, stop: StopSignal) -> None:
        """Save and leave if any process got a signal: all of them do, at the same update."""
        number = int(stop.number or 0)
        if self.ranks.size > 1:
            number = int(all_reduce(torch.tensor(float(number), device=self.trainer.device), self.ranks, "max"))
        if number:
            self.save()
            if self.is_first:
                step, steps = self.trainer.progress.step, self.trainer.config.steps
                logger.warning("all is saved in %s after update %d of %d; resume goes on there", self.out, step, steps)
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            raise SystemExit(128 + number)

    def _is_due(self, every: int) -> bool:
        return every > 0 and self.trainer.progress.step % every == 0

    def _is_exhausted(self) -> bool:
        return self.patience is not None and self.trainer.progress.without_gain >= self.patience

    def _validate_if_due(self, history: History | None) -> bool:
        """Evaluate the network, keep it if it is the best so far, and save the state."""
        progress, model = self.trainer.progress, self.trainer.model
        due = self._is_due(self.validate_every) or progress.step == self.trainer.config.steps
        if not due or progress.validated >= progress.step:
            return False
        self.save()  # a validation takes long, and can fail; a resumed run repeats it
        if self.val is None:
            progress.validated = progress.step
            self._on_first(lambda: self._keep_model({}))
            self.save()
            self._print_line()
            return True
        counts = count_pixels(
            model,
            self.val,
            self.ranks,
            ms_flip=False,
            workers=self.stream.workers,
            max_memory=None,
            progress=self.progress,
        )
        iou = class_iou(counts)
        miou, macc, aacc = (100 * each for each in (mean(iou), mean(class_accuracy(counts)), pixel_accuracy(counts)))
        progress.validated = progress.step
        better = progress.best_miou is None or miou > progress.best_miou
        progress.without_gain = 0 if better else progress.without_gain + 1
        if better:
            progress.best_miou = miou
        if history:
            figures = {"mIoU": miou, "mAcc": macc, "aAcc": aacc}
            figures |= {
                f"IoU.{name}": 100 * float(value)
                for name, value in zip(model.classes, iou, strict=True)
                if not np.isnan(value)
            }
            rounded = {name: round(value, 4) for name, value in figures.items()}
            history.add({"mode": "val", "iter": progress.step, **rounded})
        if better:
            self._on_first(lambda: self._keep_model({"miou": miou, "macc": macc, "aacc": aacc}))
        self._on_first(self._draw_sheet)
        self.save()
        self._print_line(f", mIoU {_miou_text(miou)} (best {_miou_text(progress.best_miou)})")
        return True

    def _draw_sheet(self) -> None:
        """Draw the first validation images with truth and prediction."""
        assert self.val is not None  # noqa: S101 - for the type checker
        model, rows = self.trainer.model, []
        for sample in self.val.samples[:MAX_ROWS]:
            image, truth = read_pair(sample, self.val.rule)
            rows.append(SheetRow(sample.name, image, truth, model.predict(image, progress=False).mask))
        folder, file = self.out / SHEETS, io.BytesIO()
        make_folder(folder)
        draw_sheet(rows, model.dataset).save(file, "JPEG", quality=90)
        atomic_write(folder / f"update_{self.trainer.progress.step:06d}.jpg", file.getvalue())

    def _keep_model(self, metrics: dict[str, float]) -> None:
        data = f"{len(self.val.samples)} validation images of its own data" if self.val else None
        steps = self.trainer.progress.step
        save_pretrained(self.trainer.model, self.out, metrics={**metrics, "data": data, "steps": steps})

    def _open_history(self) -> History:
        progress, device = self.trainer.progress, self.trainer.device
        history = History(self.out, self.out.name, progress.step, progress.validated, tensorboard=self.tensorboard)
        if not progress.step:
            env = f"hrnet-zoo: {__version__}\nPyTorch: {torch.__version__}"
            if device.type == "cuda":
                env += f"\nGPU: {torch.cuda.get_device_name(device)}"
            config = self.trainer.config.to_dict()
            del config["images"]
            history.add({"env_info": env, "seed": config["seed"], "exp_name": self.out.name, "config": config})
        return history

    def _train_line(self, update: Update, seconds: float, waited: float) -> dict[str, Any]:
        line = {
            "mode": "train",
            "iter": self.trainer.progress.step,
            "lr": update.lr,
            "loss": update.loss,
            "time": round(seconds, 4),
            "data_time": round(waited, 4),
        }
        if self.trainer.device.type == "cuda":
            line["memory"] = torch.cuda.max_memory_allocated(self.trainer.device) >> 20
        return line


class StopSignal:
    """A context in which a first SIGINT or SIGTERM is only noted, and a later one has its usual effect.

    Launchers pass a signal on to processes that got it already, so what follows within `ECHO_S` counts as the same.
    Outside the main thread, where Python handles no signals, nothing changes; nor for a signal that the process
    ignores (as a script's background job ignores SIGINT) or that is handled outside of Python.

    Args:
        verbose: confirm the first one on stderr.

    Attributes:
        number: the signal that was noted.

    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, *, verbose: bool = False) -> None:
        self.verbose = verbose
        self.number: signal.Signals | None = None
        self._at = 0.0
        self._before: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            handled = (each for each in self.SIGNALS if signal.getsignal(each) not in (None, signal.SIG_IGN))
            self._before = {each: signal.signal(each, self._note) for each in handled}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number and time.monotonic() < self._at + ECHO_S:
            return
        if self.number:
            signal.signal(number, self._before[signal.Signals(number)])
            signal.raise_signal(number)
        self.number, self._at = signal.Signals(number), time.monotonic()
        if self.verbose:
            with suppress(OSError):  # stderr may be closed; `os.write` is safe in a signal handler
                os.write(2, b"\nstopping: the work under way is finished and saved; once more ends it at once\n")


def print_line(text: str) -> None:
    """Write a line to stderr, above any bar."""
    with suppress(OSError):  # nobody may be listening
        Bar.write(printable(text), file=sys.stderr)


def _miou_text(miou: float | None) -> str:
    return "-" if miou is None or np.isnan(miou) else f"{miou:.2f}"
