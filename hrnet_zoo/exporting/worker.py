"""The process that traces, converts and checks: `python -m hrnet_zoo.exporting.worker FOLDER`.

It finds a model folder `model/`, `job.json`, and for 8 bits `image-*.npy` in the folder. It writes the file there, and
`result.json`: the metadata, or the error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from hrnet_zoo.errors import ConfigError, HRNetZooError, raise_on_oom
from hrnet_zoo.exporting import formats
from hrnet_zoo.exporting.agreement import LEAST_AGREEMENT, compare, pixel_agreement
from hrnet_zoo.exporting.metadata import Agreement
from hrnet_zoo.zoo.create import create_model


def main(folder: Path) -> None:
    """Do the job in a folder."""
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    try:
        with raise_on_oom(job["asked"], done="nothing was written", advice="use a machine with more memory"):
            result: dict[str, Any] = {"metadata": _export(folder, job)}
    except HRNetZooError as error:
        facts = ("asked", "found", "done", "advice")
        result = {"error": type(error).__name__, "facts": {name: str(getattr(error, name)) for name in facts}}
    except OSError as error:
        result = {"os_error": [error.errno, error.strerror]}
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")


def _export(folder: Path, job: dict[str, Any]) -> dict[str, Any]:
    metadata: dict[str, Any] = job["metadata"]
    outputs, precision = metadata["outputs"], metadata["precision"]
    network = create_model(folder / "model", device="cpu")
    calibration = [np.load(image) for image in sorted(folder.glob("image-*.npy"))]
    path = folder / job["file"]
    metadata["versions"] = formats.versions(path.suffix, precision)
    save = formats.CONVERTERS[path.suffix](network, outputs, precision, calibration, folder)
    save(path, json.dumps(metadata))
    agreement = list(compare(network, formats.load(path, outputs), outputs))
    _require_agreement(job["asked"], agreement, LEAST_AGREEMENT[precision])
    metadata["agreement"] = [asdict(each) for each in agreement]
    save(path, json.dumps(metadata))
    return metadata


def _require_agreement(asked: str, agreement: Sequence[Agreement], least: float) -> None:
    share = pixel_agreement(agreement)
    if not share >= least:
        each = ", ".join(f"{one.pixel_agreement:.4%} at {one.scene}" for one in agreement)
        raise ConfigError(
            asked=asked,
            found=f"the file labels {share:.4%} of the pixels of generated scenes as the network does, and at least "
            f"{least:.2%} are required ({each})",
            done="nothing was written",
            advice='use precision="fp32", or calibrate with images like those to be labeled; random weights, whose '
            "logits are all alike, round to other classes",
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
