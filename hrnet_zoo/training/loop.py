"""The training loop: updates, early stopping, validation, saving, logging, and leaving after a signal."""

from __future__ import annotations

import io
import logging
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from hrnet_zoo import __version__
from hrnet_zoo.datasets.layouts import LabeledFolder
from hrnet_zoo.errors import printable
from hrnet_zoo.evaluation.costs import busy_words
from hrnet_zoo.evaluation.evaluate import count_pixels, read_pair
from hrnet_zoo.images.atomic import atomic_write, make_folder
from hrnet_zoo.images.progress import LINE_S, Bar, is_terminal
from hrnet_zoo.inference.metrics import class_accuracy, class_iou, mean, pixel_accuracy
from hrnet_zoo.training.augmentation import Pair, augment
from hrnet_zoo.training.batches import batches
from hrnet_zoo.training.events import Listeners, OnEvent, TrainingEvent, accelerate_state, make_trackers
from hrnet_zoo.training.log_writer import LogWriter
from hrnet_zoo.training.resume import STATE_FILE
from hrnet_zoo.training.schedule import learning_rate
from hrnet_zoo.training.sheets import draw_sheet
from hrnet_zoo.training.signals import noted_signals
from hrnet_zoo.training.update import Updater
from hrnet_zoo.zoo.model_folder import save_pretrained

SHEETS, SHEET_ROWS = "sheets", 6
RATED = 20  # updates over which images per second are averaged

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
    progress: bool
    on_event: OnEvent | None = None
    trackers: str | Sequence[Any] = ()
    augment: Callable[..., Pair] = augment
    tried_memory: int | None = None  # bytes of an update, if batch="auto" was tried

    def __post_init__(self) -> None:
        self.config, self.ranks = self.updater.config, self.updater.ranks
        self.is_first = self.ranks.rank == 0
        self.log: LogWriter | None = None
        self.loss: float | None = None  # of the last update
        self.reason = ""  # why the run ended
        self._listeners: Listeners | None = None
        self._asked_to_stop = False
        self._seconds: deque[float] = deque(maxlen=RATED)  # of the last updates
        self._left: float | None = None  # seconds
        self._printed = 0.0  # when

    def run(self) -> None:
        """Train to the end, or until `on_event` asks to stop.

        The first SIGINT or SIGTERM ends it after the update: then raise KeyboardInterrupt or SystemExit.
        """
        updater, progress, steps = self.updater, self.updater.progress, self.config.steps
        shown = self.progress and self.is_first
        self._prints_lines = shown and not is_terminal(sys.stderr)
        with ExitStack() as stack:
            noted = stack.enter_context(noted_signals(verbose=shown))
            if self.is_first:
                self.log = self._open_log()
                stack.enter_context(self._listening())
            bar = stack.enter_context(
                Bar(
                    total=steps,
                    initial=progress.step,
                    bar_format="finetune {n_fmt}/{total_fmt} |{bar}| {desc}",
                    disable=not shown or self._prints_lines,
                )
            )
            upcoming = stack.enter_context(
                closing(
                    batches(
                        *(self.train, self.config, self.ranks),
                        workers=self.workers,
                        start=progress.step,
                        augment=self.augment,
                    )
                )
            )
            # A stop may have come between the last update and its validation.
            leaves = self._validate_if_due() and self._leave_if_asked(noted)
            started, first = time.perf_counter(), progress.step
            while not leaves and progress.step < steps and not 0 < self.patience <= progress.without_gain:
                is_first_update = self.loss is None
                began = time.perf_counter()
                images, labels = next(upcoming)
                waited = time.perf_counter() - began
                self.loss = updater.update(images, labels)
                seconds = time.perf_counter() - began
                self._seconds.append(seconds)
                per_update = (time.perf_counter() - started) / (progress.step - first)
                self._left = (steps - progress.step) * per_update
                self._log_update(seconds, waited)
                bar.update()
                bar.set_description_str(self._status(f", mIoU {_miou_text(progress.best_miou)}"))
                if is_first_update or time.monotonic() > self._printed + LINE_S:
                    self._print_line()
                if is_first_update and self.is_first and updater.device.type == "cpu" and (words := busy_words()):
                    logger.warning("the first update took %.1f s: %s", seconds, words)
                leaves = self._leave_if_asked(noted)
                if not leaves and self._validate_if_due():
                    leaves = self._leave_if_asked(noted)
                elif not leaves and self._is_due(self.save_every):
                    self.save()
            self.reason = "stopped" if leaves else "finished" if progress.step == steps else "patience"
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

    def _leave_if_asked(self, noted: Collection[int]) -> bool:
        """Save, and raise if a process got a signal, or return True if `on_event` asked to stop before the last update.

        All processes do so after the same update.
        """
        step = self.updater.progress.step
        numbers, asks = zip(*self.ranks.all_gather(lambda: (max(noted, default=0), self._asked_to_stop)), strict=True)
        number, asked = max(numbers), any(asks) and step < self.config.steps
        if number or asked:
            self.save()
            if self.is_first:
                logger.warning("the run is saved in %s after update %d; resume continues it", self.out, step)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        if number:
            raise SystemExit(128 + number)
        if (
            asked and not self.updater.progress.validated
        ):  # no model was kept yet; the first validation replaces this one
            self._keep({"steps": step})
        return asked

    def _keep(self, metrics: dict[str, Any]) -> None:
        self._on_first(lambda: save_pretrained(self.updater.model, self.out, metrics=metrics))

    def _validate_if_due(self) -> bool:
        """Validate, keep the network if it is the best so far, and save the state; return whether it was due."""
        progress, val = self.updater.progress, self.val
        due = self._is_due(self.validate_every) or progress.step == self.config.steps
        if not due or progress.validated >= progress.step:
            return False
        self.save()  # a validation takes long, and can fail; a resumed run repeats it
        figures = self._evaluate(val) if val else {}
        miou = figures.get("mIoU")
        progress.validated = progress.step
        better = miou is None or progress.best_miou is None or miou > progress.best_miou
        progress.without_gain = 0 if better else progress.without_gain + 1
        if better:
            progress.best_miou = miou
            data = f"{len(val.samples)} validation images of its own data" if val else None
            kept = {name.lower(): figures[name] for name in ("mIoU", "mAcc", "aAcc") if val}
            self._keep({**kept, "data": data, "steps": progress.step})
        if val:
            self._on_first(lambda: self._draw_sheet(val))
        self.save()
        if val:
            self._tell("validation", _rounded(figures))
        self._print_line(f", mIoU {_miou_text(miou)} (best {_miou_text(progress.best_miou)})" if val else "")
        return True

    def _evaluate(self, val: LabeledFolder) -> dict[str, float]:
        """Return and log mIoU, mAcc, aAcc, and the IoU of each class, in percent."""
        counts, _ = count_pixels(
            *(self.updater.model, val, self.ranks),
            ms_flip=False,
            workers=self.workers,
            max_memory=None,
            progress=self.progress,
        )
        iou = class_iou(counts)
        named = zip(self.config.classes, iou.tolist(), strict=True)
        shares = {"mIoU": mean(iou), "mAcc": mean(class_accuracy(counts)), "aAcc": pixel_accuracy(counts)}
        shares |= {f"IoU.{name}": value for name, value in named if not np.isnan(value)}
        figures = {name: 100 * share for name, share in shares.items()}
        if self.log:
            self.log.add({"mode": "val", "iter": self.updater.progress.step, **_rounded(figures)})
        return figures

    def _draw_sheet(self, val: LabeledFolder) -> None:
        """Draw the first validation images with labels and prediction."""
        rows = []
        for sample in val.samples[:SHEET_ROWS]:
            image, labels = read_pair(sample, val.rule, val.bands)
            rows.append((sample.name, labels, self.updater.model.predict(image, progress=False)))
        file = io.BytesIO()
        draw_sheet(rows).save(file, "JPEG", quality=90)
        make_folder(self.out / SHEETS)
        atomic_write(self.out / SHEETS / f"update_{self.updater.progress.step:06d}.jpg", file.getvalue())

    def _open_log(self) -> LogWriter:
        progress, device = self.updater.progress, self.updater.device
        log = LogWriter(self.out, progress.step, progress.validated)
        if not progress.step:
            gpu = f"\nGPU: {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
            env, config = f"hrnet-zoo: {__version__}\nPyTorch: {torch.__version__}{gpu}", self.config.to_dict()
            line = {"env_info": env, "seed": config["seed"], "exp_name": self.out.name, "config": config}
            if self.tried_memory is not None:
                line["auto_batch"] = {"batch": config["batch"], "update_memory": self.tried_memory}
            log.add(line)
        return log

    def _log_update(self, seconds: float, waited: float) -> None:
        step, device = self.updater.progress.step, self.updater.device
        figures: dict[str, Any] = {"lr": learning_rate(self.config, step - 1), "loss": self.loss}
        figures |= {"time": round(seconds, 4), "data_time": round(waited, 4)}
        if device.type == "cuda":
            figures["memory"] = torch.cuda.max_memory_allocated(device) >> 20
        if self.log:
            self.log.add({"mode": "train", "iter": step, **figures})
        self._tell("update", figures)

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Start the trackers; at the end, tell why it came."""
        step = self.updater.progress.step
        with accelerate_state() if self.trackers else nullcontext():
            trackers = make_trackers(self.trackers, self.out, step) if self.trackers else []
            self._listeners = Listeners(self.on_event, trackers, {} if step else self.config.to_dict())
            try:
                yield
            except BaseException as error:
                is_signal = isinstance(error, KeyboardInterrupt | SystemExit)
                self.reason = "signal" if is_signal else type(error).__name__
                raise
            finally:
                self._tell("end", {})

    def _tell(self, kind: Literal["update", "validation", "end"], figures: Mapping[str, float]) -> None:
        if self._listeners:
            at = (self.updater.progress.step, self.config.steps, figures, self.updater.progress.best_miou)
            event = TrainingEvent(kind, *at, self._images_per_second, self._left, self.out, self.reason)
            self._asked_to_stop |= self._listeners.tell(event)

    @property
    def _images_per_second(self) -> float | None:
        return self.config.batch * len(self._seconds) / sum(self._seconds) if self._seconds else None

    def _status(self, miou: str) -> str:
        """Return loss, mIoU, speed and time left of a run that has done an update."""
        left = timedelta(seconds=round(self._left or 0.0))
        return f"loss {self.loss:.3f}{miou}, {self._images_per_second:.3g} images/s, {left} left"

    def _print_line(self, miou: str = "") -> None:
        """Report the last update on stderr, where there is no bar."""
        if self._prints_lines:
            self._printed = time.monotonic()
            status = miou.removeprefix(", ") if self.loss is None else self._status(miou)
            print_line(f"update {self.updater.progress.step} of {self.config.steps}: {status}")


def print_line(text: str) -> None:
    """Write a line to stderr, above any bar."""
    with suppress(OSError):  # stderr may be closed
        Bar.write(printable(text), file=sys.stderr)


def _miou_text(miou: float | None) -> str:
    return "-" if miou is None or np.isnan(miou) else f"{miou:.2f}"


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in figures.items()}
