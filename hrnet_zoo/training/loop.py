"""The training loop: updates, early stopping, validation, saving, logging, and leaving after a signal."""

from __future__ import annotations

import io
import logging
import signal
import sys
import time
from collections.abc import Callable, Collection
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hrnet_zoo import __version__
from hrnet_zoo.datasets.layouts import LabeledFolder
from hrnet_zoo.errors import printable
from hrnet_zoo.evaluation.costs import busy_words
from hrnet_zoo.evaluation.evaluate import count_pixels, read_pair
from hrnet_zoo.images.atomic import atomic_write, make_folder
from hrnet_zoo.images.progress import Bar
from hrnet_zoo.inference.metrics import class_accuracy, class_iou, mean, pixel_accuracy
from hrnet_zoo.training.batches import batches
from hrnet_zoo.training.log_writer import LogWriter
from hrnet_zoo.training.resume import STATE_FILE
from hrnet_zoo.training.schedule import learning_rate
from hrnet_zoo.training.sheets import draw_sheet
from hrnet_zoo.training.signals import noted_signals
from hrnet_zoo.training.update import Updater
from hrnet_zoo.zoo.model_folder import save_pretrained

SHEETS, SHEET_ROWS = "sheets", 6

logger = logging.getLogger("hrnet_zoo")


@dataclass
class TrainingLoop:
    """A training, with the arguments of `finetune`.

    Without images to validate on, the newest network is kept rather than the best, every `validate_every` updates.
    """

    updater: Updater
    train: LabeledFolder
    val: LabeledFolder | None
    out: Path
    workers: int
    validate_every: int
    save_every: int  # 0: only before and after validations
    patience: int  # 0: forever
    tensorboard: bool
    progress: bool

    def __post_init__(self) -> None:
        self.config, self.ranks = self.updater.config, self.updater.ranks
        self.is_first = self.ranks.rank == 0
        self.log: LogWriter | None = None
        self.loss: float | None = None  # of the last update

    def run(self) -> None:
        """Train to the end, or until the first SIGINT or SIGTERM: then raise KeyboardInterrupt or SystemExit."""
        updater, progress, steps = self.updater, self.updater.progress, self.config.steps
        shown = self.progress and self.is_first
        with ExitStack() as stack:
            noted = stack.enter_context(noted_signals(verbose=shown))
            if self.is_first:
                self.log = stack.enter_context(closing(self._open_log()))
            bar = stack.enter_context(
                Bar(desc="finetune", total=steps, initial=progress.step, unit="update", disable=None if shown else True)
            )
            self._prints_lines = shown and bar.disable  # there is no terminal
            upcoming = stack.enter_context(
                closing(batches(self.train, self.config, self.ranks, workers=self.workers, start=progress.step))
            )
            self._validate_if_due()  # a stop may have come between the last update and its validation
            while progress.step < steps and not 0 < self.patience <= progress.without_gain:
                is_first_update = self.loss is None
                began = time.perf_counter()
                images, labels = next(upcoming)
                waited = time.perf_counter() - began
                self.loss = updater.update(images, labels)
                seconds = time.perf_counter() - began
                self._log_update(seconds, waited)
                bar.update()
                bar.set_postfix_str(f"loss {self.loss:.3f}, mIoU {_miou_text(progress.best_miou)}")
                if is_first_update:
                    self._print_line()
                    if self.is_first and updater.device.type == "cpu" and (words := busy_words()):
                        logger.warning("the first update took %.1f s: %s", seconds, words)
                self._leave_if_asked(noted)
                if self._validate_if_due():
                    self._leave_if_asked(noted)
                elif self._is_due(self.save_every):
                    self.save()
            if self.log:
                self.log.draw_curves()

    def save(self) -> None:
        """Write the state, in one process."""
        self._on_first(lambda: self.updater.save(self.out / STATE_FILE))

    def _on_first(self, work: Callable[[], object]) -> None:
        """Run `work` in the first process; an error of it is raised in all."""
        self.ranks.all_gather(lambda: work() if self.is_first else None)

    def _is_due(self, every: int) -> bool:
        return every > 0 and self.updater.progress.step % every == 0

    def _leave_if_asked(self, noted: Collection[int]) -> None:
        """Save and leave if a process got a signal; all processes do so after the same update."""
        number = max(self.ranks.all_gather(lambda: max(noted, default=0)))
        if number:
            self.save()
            if self.is_first:
                step = self.updater.progress.step
                logger.warning("the run is saved in %s after update %d; resume continues it", self.out, step)
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            raise SystemExit(128 + number)

    def _validate_if_due(self) -> bool:
        """Validate, keep the network if it is the best so far, and save the state; return whether it was due."""
        progress, val = self.updater.progress, self.val
        due = self._is_due(self.validate_every) or progress.step == self.config.steps
        if not due or progress.validated >= progress.step:
            return False
        self.save()  # a validation takes long, and can fail; a resumed run repeats it
        metrics = self._evaluate(val) if val else {}
        miou = metrics.get("miou")
        progress.validated = progress.step
        better = miou is None or progress.best_miou is None or miou > progress.best_miou
        progress.without_gain = 0 if better else progress.without_gain + 1
        if better:
            progress.best_miou = miou
            data = f"{len(val.samples)} validation images of its own data" if val else None
            kept = {**metrics, "data": data, "steps": progress.step}
            self._on_first(lambda: save_pretrained(self.updater.model, self.out, metrics=kept))
        if val:
            self._on_first(lambda: self._draw_sheet(val))
        self.save()
        self._print_line(f", mIoU {_miou_text(miou)} (best {_miou_text(progress.best_miou)})" if val else "")
        return True

    def _evaluate(self, val: LabeledFolder) -> dict[str, float]:
        """Return mIoU, mAcc and aAcc in percent, and log them with the IoU of each class."""
        counts, _ = count_pixels(
            *(self.updater.model, val, self.ranks),
            ms_flip=False,
            workers=self.workers,
            max_memory=None,
            progress=self.progress,
        )
        iou = class_iou(counts)
        miou, macc, aacc = (100 * each for each in (mean(iou), mean(class_accuracy(counts)), pixel_accuracy(counts)))
        if self.log:
            named = zip(self.config.classes, iou.tolist(), strict=True)
            figures = {"mIoU": miou, "mAcc": macc, "aAcc": aacc}
            figures |= {f"IoU.{name}": 100 * value for name, value in named if not np.isnan(value)}
            rounded = {name: round(value, 4) for name, value in figures.items()}
            self.log.add({"mode": "val", "iter": self.updater.progress.step, **rounded})
        return {"miou": miou, "macc": macc, "aacc": aacc}

    def _draw_sheet(self, val: LabeledFolder) -> None:
        """Draw the first validation images with labels and prediction."""
        rows = []
        for sample in val.samples[:SHEET_ROWS]:
            image, labels = read_pair(sample, val.rule)
            rows.append((sample.name, labels, self.updater.model.predict(image, progress=False)))
        file = io.BytesIO()
        draw_sheet(rows).save(file, "JPEG", quality=90)
        make_folder(self.out / SHEETS)
        atomic_write(self.out / SHEETS / f"update_{self.updater.progress.step:06d}.jpg", file.getvalue())

    def _open_log(self) -> LogWriter:
        progress, device = self.updater.progress, self.updater.device
        log = LogWriter(self.out, progress.step, progress.validated, tensorboard=self.tensorboard)
        if not progress.step:
            gpu = f"\nGPU: {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
            env, config = f"hrnet-zoo: {__version__}\nPyTorch: {torch.__version__}{gpu}", self.config.to_dict()
            log.add({"env_info": env, "seed": config["seed"], "exp_name": self.out.name, "config": config})
        return log

    def _log_update(self, seconds: float, waited: float) -> None:
        step, device = self.updater.progress.step, self.updater.device
        line = {"mode": "train", "iter": step, "lr": learning_rate(self.config, step - 1), "loss": self.loss}
        line |= {"time": round(seconds, 4), "data_time": round(waited, 4)}
        if device.type == "cuda":
            line["memory"] = torch.cuda.max_memory_allocated(device) >> 20
        if self.log:
            self.log.add(line)

    def _print_line(self, figures: str = "") -> None:
        """Report the last update on stderr, where there is no bar."""
        if self._prints_lines:
            loss = "" if self.loss is None else f": loss {self.loss:.3f}"
            print_line(f"update {self.updater.progress.step} of {self.config.steps}{loss}{figures}")


def print_line(text: str) -> None:
    """Write a line to stderr, above any bar."""
    with suppress(OSError):  # stderr may be closed
        Bar.write(printable(text), file=sys.stderr)


def _miou_text(miou: float | None) -> str:
    return "-" if miou is None or np.isnan(miou) else f"{miou:.2f}"
