"""Network -> a checked file that runs without this library, and its metadata beside it: `export`."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from hrnet_zoo import errors
from hrnet_zoo.engines.folding import require_published
from hrnet_zoo.engines.quantization import Calibration, calibration_views, drawn_images
from hrnet_zoo.errors import ConfigError, raise_on_oom
from hrnet_zoo.exporting.metadata import OPSET, Agreement, Outputs, Precision, describe
from hrnet_zoo.images.atomic import check_place, output_errors
from hrnet_zoo.models.fcn import FCNHRNet, require_network
from hrnet_zoo.zoo.model_folder import save_pretrained

FORMATS = {".onnx": "onnx", ".pt2": "pt2", ".xml": "openvino"}

logger = logging.getLogger("hrnet_zoo")


@dataclass(frozen=True)
class ExportedFile:
    """What `export` wrote.

    Attributes:
        path: the file.
        files: all files: the weights of an IR (`.bin`), the metadata (`.json`), and the file itself.
        metadata: what they say of themselves: see `hrnet_zoo.exporting.metadata`.

    """

    path: Path
    files: tuple[Path, ...]
    metadata: dict[str, Any]

    @property
    def agreement(self) -> list[Agreement]:
        """How the file agrees with the network on generated scenes."""
        sizes = ("input_size", "size")  # lists in JSON
        return [Agreement(**each | {name: tuple(each[name]) for name in sizes}) for each in self.metadata["agreement"]]


def export(
    model: FCNHRNet,
    path: str | os.PathLike[str],
    *,
    outputs: Outputs = "labels",
    precision: Precision = "fp32",
    calibration: Calibration | None = None,
    force: bool = False,
) -> ExportedFile:
    """Write a network as a file that runs without this library, and check that it computes the same.

    The suffix names the format: `.onnx` (extra `export`), `.pt2` (torch.export), or `.xml` (OpenVINO IR, with its
    weights in a `.bin`; extras `export` and `openvino`). Batch, height and width are free. For inputs, outputs and the
    metadata, which are in the file and in `<stem>.json` beside it, see `hrnet_zoo.exporting.metadata`.

    The file is loaded by its runtime and compared with the network in float32 on the CPU, on generated scenes of five
    sizes; of all pixels together it must label 99.99 % alike ("fp32"), or 99.5 %. All files are written beside `path`
    under other names and appear when they are complete, `path` last. The same network, versions and machine give the
    same bytes, and no path of the machine is in them.

    Another process does all this, because tracing patches torch for all threads. It takes about half a minute.

    Args:
        model: the network; it is left unchanged.
        path: the file to write; its folder exists.
        outputs: "labels": uint8 image and the photo's size in, class indices and logits out, with everything between
            in the file; "logits": normalized image in, logits at stride 4 out, for a pipeline of your own.
        precision: of the network's weights and arithmetic; "int8" (most convolutions in 8 bits) not for `.pt2`.
        calibration: for "int8", some dozens of images like those to be labeled, or a folder of them; at most 80 are
            used. None: generated street scenes.
        force: replace existing files.

    Raises:
        ConfigError: an argument is invalid, a package is missing, the network is not of the published architecture,
            the memory does not suffice, or the file does not agree with the network.
        OutputError: a file exists already or cannot be written.
        ImageError: an image for the calibration cannot be read.

    """
    path = Path(path)
    asked = f"export {getattr(model, 'name', model)} to {path.name}"
    _check_arguments(asked, path.suffix, outputs, precision, calibration)
    require_network(model, asked)
    model.dataset.require_rgb(asked)
    _require_packages(asked, path.suffix, precision)
    with _asked_for(asked):
        require_published(model)
        images = None if calibration is None else drawn_images(calibration)
    targets = [path.with_suffix(".json"), path]
    if path.suffix == ".xml":
        targets.insert(0, path.with_suffix(".bin"))
    for target in targets:
        check_place(target, force=force)
    with (
        output_errors(path, asked, "nothing was written", "check the permissions and the free space"),
        raise_on_oom(asked, done="nothing was written", advice="use a machine with more memory"),
        tempfile.TemporaryDirectory(prefix=f".{path.stem[:50]}.", suffix=".part", dir=path.parent) as temporary,
    ):
        folder = Path(temporary)
        if precision == "int8":
            for number, image in enumerate(calibration_views(images, model.dataset.resize_to)):
                np.save(folder / f"image-{number:02d}.npy", image)
        metadata = _metadata(model, path.suffix, outputs, precision, folder)
        _write_json(folder / "job.json", {"asked": asked, "file": path.name, "metadata": metadata})
        metadata = _run_worker(folder, asked)
        _write_json(folder / path.with_suffix(".json").name, metadata)
        for target in targets:
            _sync(folder / target.name)
        for target in targets:
            (folder / target.name).replace(target)
    return ExportedFile(path, tuple(targets), metadata)


@contextmanager
def _asked_for(asked: str) -> Iterator[None]:
    """Let errors of `optimize`'s modules say what was asked here."""
    try:
        yield
    except ConfigError as error:
        error.asked, error.done = asked, "nothing was written"
        raise


def _check_arguments(asked: str, suffix: str, outputs: str, precision: str, calibration: object) -> None:
    found = None
    if suffix not in FORMATS:
        found = f"the suffix {suffix!r}, which no format has"
        advice = "the suffixes are .onnx, .pt2 (torch.export) and .xml (OpenVINO IR)"
    elif outputs not in get_args(Outputs):
        found, advice = f"outputs={outputs!r}", f"outputs is one of {', '.join(map(repr, get_args(Outputs)))}"
    elif precision not in get_args(Precision):
        found, advice = f"precision={precision!r}", f"precision is one of {', '.join(map(repr, get_args(Precision)))}"
    elif precision == "int8" and suffix == ".pt2":
        found = "precision='int8' for a .pt2, which torch.export does not quantize"
        advice = "use .onnx or .xml for 8 bits, or another precision"
    elif calibration is not None and precision != "int8":
        found = f"calibration for precision={precision!r}"
        advice = "images calibrate precision='int8' alone; leave calibration out"
    if found:
        raise ConfigError(asked=asked, found=found, done="nothing was written", advice=advice)


def _require_packages(asked: str, suffix: str, precision: Precision) -> None:
    packages = [] if suffix == ".pt2" else ["onnx", "onnxscript"]
    if suffix == ".onnx" or precision == "int8":
        packages.append("onnxruntime")
    if suffix == ".xml":
        packages.append("openvino")
    extras = "export,openvino" if suffix == ".xml" else "export"
    if missing := [package for package in packages if importlib.util.find_spec(package) is None]:
        raise ConfigError(
            asked=asked,
            found=f"not installed: {', '.join(missing)}",
            done="nothing was written",
            advice=f"pip install '.[{extras}]' in the checkout of hrnet-zoo",
        )


def _metadata(model: FCNHRNet, suffix: str, outputs: Outputs, precision: Precision, folder: Path) -> dict[str, Any]:
    """Save the network for the worker, and return what is known of the file before it is written."""
    save_pretrained(model, folder / "model")
    config = json.loads((folder / "model" / "config.json").read_text(encoding="utf-8"))
    # Initialization sets biases to zero, and the first step of any training to something else.
    *_, classifier = model.classifiers
    biases = model.state_dict()[f"{classifier}.bias"].tolist()
    untrained = [name for name, bias in zip(model.classes, biases, strict=True) if bias == 0]
    if untrained:
        logger.warning(
            "%s: %d of %d classes were never trained, so what the file labels as them means nothing: %s",
            *(model.name, len(untrained), len(model.classes), ", ".join(untrained[:5])),
        )
    note = f"Weights: {config['license']}. Training data: {model.dataset.data_license}. Not legal advice."
    return describe(
        model,
        file_format=FORMATS[suffix],
        outputs=outputs,
        precision=precision,
        opset=OPSET if suffix == ".onnx" else None,
        weights_sha256=config["data_sha256"],
        license_note=model.info.license_note if model.info else note,
        untrained_classes=untrained,
    )


def _run_worker(folder: Path, asked: str) -> dict[str, Any]:
    """Run `hrnet_zoo.exporting.worker` in a folder, and return the metadata of the file that it wrote, or raise."""
    here = str(Path(__file__).parents[2])
    search = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    # Hashes of text must not order anything in the file.
    environment = {**os.environ, "PYTHONPATH": search, "PYTHONHASHSEED": "0", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "hrnet_zoo.exporting.worker", str(folder.resolve())]
    with (folder / "log.txt").open("wb") as log:
        code = subprocess.run(  # noqa: S603 - ourselves
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False
        ).returncode
    if code:
        text = (folder / "log.txt").read_text(encoding="utf-8", errors="replace")
        words = re.findall(r"^[\w.]+: .+", text, re.MULTILINE)  # the type of an exception and what it says
        killed = code == -9  # SIGKILL, which Windows lacks
        raise ConfigError(
            asked=asked,
            found=f"the exporting process ended with code {code}: "
            + ("the system kills what takes too much memory" if killed else (words or [text])[-1][:300]),
            done="nothing was written",
            advice="use a machine with more memory" if killed else "report it, with the versions of torch and onnx",
        )
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    if "os_error" in result:
        raise OSError(*result["os_error"])
    if "error" in result:
        raise getattr(errors, result["error"])(**result["facts"])
    return dict(result["metadata"])


def _write_json(path: Path, facts: object) -> None:
    path.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
