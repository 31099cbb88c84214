"""Write the log of a training: `metrics.jsonl` and `curves.png`."""

from __future__ import annotations

import json
import logging
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from hrnet_zoo.errors import ConfigError
from hrnet_zoo.images.atomic import atomic_write, output_errors
from hrnet_zoo.zoo.training_log import OWN_LOG, parse_log

logger = logging.getLogger("hrnet_zoo")


class LogWriter:
    """Writes a run's log in the format of the published checkpoints' logs, which `hrnet-zoo log` reads.

    Updates after `step` and validations after `validated`, which a stop has undone, are removed from it first.
    """

    def __init__(self, folder: Path, step: int, validated: int) -> None:
        self.path = folder / OWN_LOG
        with self._output_errors():
            lines = self.path.read_bytes().splitlines() if step and self.path.exists() else []
        kept = [line for line in lines if _still_holds(line, step, validated)]
        atomic_write(self.path, b"".join(line + b"\n" for line in kept))

    def add(self, line: dict[str, Any]) -> None:
        """Write a line."""
        with self._output_errors(), self.path.open("ab") as file:
            file.write(json.dumps(line).encode() + b"\n")

    def draw_curves(self) -> None:
        """Plot loss and validation mIoU over the updates, if matplotlib is installed."""
        try:
            log = parse_log(self.path.read_bytes(), str(self.path), self.path.parent.name)
            log.save_plot(self.path.with_name("curves.png"))
        except ConfigError as error:  # matplotlib is an extra, and the log has the figures
            logger.warning("no curves are drawn: %s; %s", error.found, error.advice)

    def _output_errors(self) -> AbstractContextManager[None]:
        done = "the training was stopped; its state is as it was saved last"
        advice = "check the permissions and the free space, and resume"
        return output_errors(self.path, f"write the training log {self.path}", done, advice)


def _still_holds(line: bytes, step: int, validated: int) -> bool:
    """Tell whether a line is complete and of an update that was not undone; the first line is of none."""
    try:
        found = json.loads(line)
        return int(found.get("iter", 0)) <= (validated if found.get("mode") == "val" else step)
    except (ValueError, AttributeError, TypeError, OverflowError):  # OverflowError: of 1e999
        return False
