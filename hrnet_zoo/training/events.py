"""Tell a callback and experiment trackers how a training goes; what fails there is warned of, and changes nothing."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hrnet_zoo.training.config import config_error

STOP = "stop"
_REFUSED = re.compile(r"[^-./: \w]")  # by MLflow; names of classes may have such
PROJECT = "hrnet-zoo"  # the experiment of MLflow, the project of Weights & Biases and others

logger = logging.getLogger("hrnet_zoo")


@dataclass(frozen=True)
class TrainingEvent:
    """What the `on_event` of `finetune` gets, in the first process: after each update and validation, and at the end.

    Attributes:
        kind: "update", "validation" or "end".
        step: updates done.
        steps: updates that were asked for.
        figures: as in `metrics.jsonl`. Of an update: "loss", "lr", "time" and "data_time" in seconds, on CUDA "memory"
            in MiB. Of a validation, in percent: "mIoU", "mAcc", "aAcc", and "IoU.NAME" of each class that occurs. Empty
            at the end.
        best_miou: of the validations so far, percent; None before the first one.
        images_per_second: over the last updates; None before the first one.
        seconds_left: estimated from the mean time of an update so far, validations included; None before the first one.
        out: the folder of the run.
        reason: why the run ends: "finished", "patience", "stopped" (by `on_event`), "signal", or the name of an error's
            class; empty before the end.

    """

    kind: Literal["update", "validation", "end"]
    step: int
    steps: int
    figures: Mapping[str, float]
    best_miou: float | None
    images_per_second: float | None
    seconds_left: float | None
    out: Path
    reason: str = ""


# Returns "stop" to end the run; whatever else it returns has no effect.
OnEvent = Callable[[TrainingEvent], object]


class Listeners:
    """Those who hear of a run's events. What fails is warned of once; a tracker that failed gets no more figures."""

    def __init__(self, on_event: OnEvent | None, trackers: Sequence[Any], config: Mapping[str, object]) -> None:
        self._on_event = on_event
        self._failed: set[str] = set()
        for tracker in trackers:
            self._call(tracker.name, _start, tracker)
        self._started = [tracker for tracker in trackers if tracker.name not in self._failed]
        plain = {name: value if isinstance(value, int | float) else str(value) for name, value in config.items()}
        for tracker in self._started if plain else ():
            self._call(tracker.name, tracker.store_init_configuration, plain)

    def tell(self, event: TrainingEvent) -> bool:
        """Pass an event on; return whether the callback asks to stop."""
        prefix = "train/" if event.kind == "update" else "val/"
        values = {prefix + _REFUSED.sub("_", name): value for name, value in event.figures.items()}
        for tracker in self._started:
            if event.kind == "end":
                self._call(tracker.name, tracker.finish)
            elif tracker.name not in self._failed:
                self._call(tracker.name, tracker.log, values, step=event.step)
        return self._on_event is not None and self._call("on_event", self._on_event, event) == STOP

    def _call(self, name: str, function: Callable[..., object], *args: object, **options: object) -> object:
        try:
            return function(*args, **options)
        except Exception as error:  # noqa: BLE001 - whatever the code of others raises: no training may end by it
            if name not in self._failed:
                then = (
                    "it is called again, without a word if it fails"
                    if name == "on_event"
                    else "it gets no more figures"
                )
                logger.warning("%s failed, and the run goes on: %s: %s; %s", name, type(error).__name__, error, then)
            self._failed.add(name)
            return None


def _start(tracker: Any) -> None:  # noqa: ANN401 - one of accelerate's, or like them
    """Start a tracker; some write log lines, for which accelerate must know the process."""
    from accelerate import PartialState

    PartialState()
    tracker.start()


@contextmanager
def accelerate_state() -> Iterator[None]:
    """Leave accelerate's state of the process, which its trackers make, as it was before."""
    from accelerate import PartialState

    before = dict(PartialState._shared_state)
    try:
        yield
    finally:
        PartialState._shared_state.clear()
        PartialState._shared_state.update(before)


def make_trackers(trackers: str | Sequence[Any], out: Path, step: int) -> list[Any]:
    """Return trackers that have not started yet, by their names in accelerate; made ones are returned as they are.

    TensorBoard writes to `out/tensorboard`, where events after `step` no longer count; the others write where their own
    settings say.
    """
    if isinstance(trackers, str):
        trackers = [trackers]
    try:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers
    except ImportError as error:
        advice = "pip install 'hrnet-zoo[train]', or leave them out: metrics.jsonl has the same figures"
        raise config_error(
            f"with trackers={trackers!r:.100}", f"accelerate cannot be imported ({error})", advice
        ) from error
    made = []
    options: dict[str, dict[str, Any]] = {
        "tensorboard": {"logging_dir": out, "purge_step": step + 1 if step else None},
        "wandb": {"name": out.name},
        "mlflow": {"run_name": out.name},
    }
    for tracker in trackers:
        if isinstance(tracker, GeneralTracker):
            made.append(tracker)
            continue
        known = sorted(LOGGER_TYPE_TO_CLASS)
        if tracker not in known:
            raise config_error(f"with the tracker {tracker!r:.100}", f"accelerate has {', '.join(known)}")
        if tracker not in map(str, get_available_trackers()):
            raise config_error(
                f"with the tracker {tracker!r}", "its package is not installed", f"pip install {tracker}"
            )
        project = "tensorboard" if tracker == "tensorboard" else PROJECT  # accelerate makes a folder of this name
        made.append(LOGGER_TYPE_TO_CLASS[tracker](project, **options.get(tracker, {})))
    return made
