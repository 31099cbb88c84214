"""What works here and what does not: environment, cache, hosts, and one model against its record.

What is broken is reported and not raised, so this module imports no torch before it is asked for.
"""

from __future__ import annotations

import math
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hrnet_zoo import __version__
from hrnet_zoo.errors import (
    CacheError,
    CheckpointError,
    ConfigError,
    DeviceError,
    FidelityError,
    HRNetZooError,
    LogitsError,
)
from hrnet_zoo.weights import cache
from hrnet_zoo.weights.addresses import without_passwords
from hrnet_zoo.zoo.catalog import ModelInfo, is_saved, list_models, model_info
from hrnet_zoo.zoo.reachability import Reach, reach, require_all

if TYPE_CHECKING:
    import torch

    from hrnet_zoo.evaluation.fingerprints import Deviation
    from hrnet_zoo.images.read import RGB
    from hrnet_zoo.models.fcn import FCNHRNet
    from hrnet_zoo.models.predictor import Predictor

T = TypeVar("T")

FINE_PIXELS = 0.995  # of a scene's pixels have the class that float32 on the CPU gives them
OTHERS = "the other findings are in the report"
PACKAGES = ("torch", "numpy", "pillow", "safetensors", "huggingface_hub", "requests", "matplotlib")
SETTINGS = ("HRNET_ZOO_CACHE", "HRNET_ZOO_MIRRORS", "HRNET_ZOO_OFFLINE", "HF_HUB_OFFLINE")


@dataclass(frozen=True)
class Fidelity:
    """How far a device and dtype stray from float32 on the CPU, on one generated street scene.

    Attributes:
        device: as torch names it.
        dtype: without "torch.".
        pixels: share of the scene's pixels with the same class, 0 to 1.
        worst_score: largest difference of a score relative to the largest score; None: a score is not finite.
        engine: of `optimize`; None: the network itself.

    """

    device: str
    dtype: str
    pixels: float
    worst_score: float | None
    engine: str | None = None

    @property
    def fine(self) -> bool:
        """Whether all scores are finite and at least `FINE_PIXELS` agree."""
        return self.worst_score is not None and self.pixels >= FINE_PIXELS


@dataclass(frozen=True)
class Health:
    """What was found about one model, whose cached file agrees with the digest in its header.

    Attributes:
        model: its name.
        data_sha256: of the converted weights.
        same_data: whether that is the recorded one; None: nothing is recorded of this model.
        deviation: from the recorded fingerprint; None: nothing is recorded of this model.
        fidelity: of the device and dtype asked for; None: they cannot be used, and `Report.errors` says why.
        fast: the same of what `optimize` makes of the network there, in its own dtype; it is for the user to judge, who
            can do without or ask for float32, and no error.

    """

    model: str
    data_sha256: str
    same_data: bool | None
    deviation: Deviation | None
    fidelity: Fidelity | None
    fast: Fidelity | None


@dataclass(frozen=True)
class Report:
    """What `doctor` found.

    Attributes:
        environment: versions, processor, devices.
        settings: environment variables that hrnet-zoo reads, secrets blanked; None: unset.
        cache: its folder, what may be done there and what is in it.
        network: each address of each file; None: not asked for.
        health: of the model that was named; None: none was, or it cannot be loaded and `errors` says why.
        errors: what is wrong.

    """

    environment: dict[str, Any]
    settings: dict[str, str | None]
    cache: dict[str, Any]
    network: tuple[Reach, ...] | None
    health: Health | None
    errors: tuple[HRNetZooError, ...]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        facts = asdict(self)
        if self.health and self.health.deviation:
            values = {name: _finite(value) for name, value in facts["health"]["deviation"].items()}
            facts["health"]["deviation"] = {**values, "fine": self.health.deviation.fine}
        for form in ("fidelity", "fast") if self.health else ():
            if facts["health"][form]:
                facts["health"][form]["fine"] = getattr(self.health, form).fine
        return {**facts, "errors": [{"kind": type(error).__name__, "message": str(error)} for error in self.errors]}


def doctor(
    name: str | None = None,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    network: bool = False,
    progress: bool = True,
) -> Report:
    """Find out what works here and what does not.

    Args:
        name: also look at this model, published or saved: its file against its digest, its fingerprint against the
            recorded one (of a published one), and `device` and `dtype`, and the fast form there, against float32 on
            the CPU. It is fetched if it is not in the cache.
        device: as in `create_model`.
        dtype: as in `create_model`.
        network: also ask for the checkpoint and the log of this model, or of all, at all their addresses.
        progress: show bars on a terminal.

    Raises:
        UnknownModelError: no row has this name. All else that is wrong is in the report.

    """
    info = None if name is None or is_saved(name) else model_info(name)
    errors: list[HRNetZooError] = []
    settings = {each: without_passwords(os.environ[each]) if each in os.environ else None for each in SETTINGS}
    cached = _cache(errors)
    reached = None
    if network:
        rows = [info] if info else [model_info(each) for each in (list_models() if name is None else ())]
        reached = _attempt(errors, lambda: reach(rows, progress=progress))
        _attempt(errors, lambda: require_all(reached or ()))
    health = _attempt(errors, lambda: _health(name, device, dtype, progress, errors)) if name is not None else None
    return Report(_environment(), settings, cached, reached, health, tuple(errors))


def _finite(value: object) -> object:
    """JSON has no NaN and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _attempt(errors: list[HRNetZooError], step: Callable[[], T]) -> T | None:
    """Take a step; an error goes to the others."""
    try:
        return step()
    except HRNetZooError as error:
        errors.append(error)
    except (ImportError, OSError) as error:  # OSError too: a library that torch needs is missing
        errors.append(
            ConfigError(
                asked="look at everything that hrnet-zoo uses",
                found=f"something of it is missing or broken: {type(error).__name__}: {error}",
                done="what could be found out without it is in the report",
                advice="install hrnet-zoo anew with all that it needs; torch as https://pytorch.org says",
            )
        )
    return None


def _environment() -> dict[str, Any]:
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    facts = {"python": platform.python_version(), "platform": platform.platform(), "hrnet-zoo": __version__, **versions}
    try:
        return {**facts, **_devices()}
    except (ImportError, OSError) as error:
        return {**facts, "torch_fault": f"{type(error).__name__}: {error}"}


def _devices() -> dict[str, Any]:
    """Say what torch can compute on."""
    import torch

    from hrnet_zoo.evaluation.costs import busy_words, processor

    driver = Path("/proc/driver/nvidia/version")  # Linux; there even where torch is a CPU build
    return {
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "busy": busy_words(),
        "nvidia_driver": driver.read_text(encoding="utf-8").splitlines()[0] if driver.is_file() else None,
        "torch_cuda": torch.version.cuda,
        "torch_cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "cuda_devices": [_cuda_device(index) for index in range(torch.cuda.device_count())],
        "mps": torch.backends.mps.is_available(),
    }


def _cuda_device(index: int) -> dict[str, Any]:
    import torch

    try:
        facts = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
    except RuntimeError as error:  # a driver too old, a device that has failed
        return {"device": f"cuda:{index}", "fault": str(error).splitlines()[0]}
    # From compute capability 8.0 on bfloat16 is native; before it is emulated, and slow.
    capability = f"{facts.major}.{facts.minor}"
    memory = {"memory_bytes": total, "free_bytes": free}
    return {"device": f"cuda:{index}", "name": facts.name, **memory, "capability": capability, "bf16": facts.major >= 8}


def _cache(errors: list[HRNetZooError]) -> dict[str, Any]:
    """Look at the cache without writing to it."""
    folder = _attempt(errors, cache.root)
    if folder is None:
        return {}
    nearest = next((each for each in (folder, *folder.parents) if os.path.lexists(each)), folder)
    try:
        free = shutil.disk_usage(nearest).free
    except OSError:  # a link that leads nowhere, a folder that may not be looked into: said by `writable` and `errors`
        free = None
    if not os.path.isdir(nearest):  # noqa: PTH112 - never raises
        errors.append(
            CacheError(
                asked=f"use the cache {folder}",
                found=f"{nearest} is no folder",
                done=OTHERS,
                advice="name a folder in HRNET_ZOO_CACHE",
                path=folder,
            )
        )
    found = _attempt(errors, cache.entries) or []
    leftovers: dict[str, dict[str, int]] = {}
    for entry in found:
        if entry.kind != "model":
            kind = leftovers.setdefault(entry.kind, {"files": 0, "bytes": 0})
            kind["files"] += 1
            kind["bytes"] += entry.size
    return {
        "folder": str(folder),
        "writable": os.path.isdir(nearest) and os.access(nearest, os.W_OK | os.X_OK),  # noqa: PTH112 - never raises
        "free_bytes": free,
        "models": [{"file": entry.path.name, "bytes": entry.size} for entry in found if entry.kind == "model"],
        "leftovers": leftovers,
    }


def _health(
    name: str,
    device: str | torch.device | None,
    dtype: torch.dtype | str | None,
    progress: bool,
    errors: list[HRNetZooError],
) -> Health:
    from hrnet_zoo.errors import raise_on_oom
    from hrnet_zoo.evaluation.fingerprints import compare, fingerprint, recorded, reference
    from hrnet_zoo.zoo.origin import find

    origin = find(name, progress=progress)
    with raise_on_oom(f"load {origin.name} in float32 on the CPU", done=OTHERS):
        model = reference(origin.name, progress=progress)
    if not any(isinstance(error, CacheError) for error in errors):  # without a cache the demo is converted in memory
        origin.verify()
    same, deviation = None, None
    if info := origin.info:
        with raise_on_oom(f"the fingerprint of {origin.name}", done=OTHERS):
            found, known = fingerprint(model), recorded(info.name)
        same = known.data_sha256 == found.data_sha256 if known else None
        deviation = compare(found, known, info.classes) if known else None
        if deviation and not deviation.fine:
            errors.append(_mismatch(info, deviation, same=bool(same)))
    asked = _attempt(errors, lambda: _created(origin.name, device, dtype, progress))
    exact = _attempt(errors, lambda: _fidelity(model, asked, fast=False)) if asked else None
    fast = _attempt(errors, lambda: _fidelity(model, asked, fast=True)) if asked and exact else None
    if exact and not exact.fine:
        errors.append(_astray(origin.name, exact))
    return Health(origin.name, model.provenance["data_sha256"], same, deviation, exact, fast)


def _mismatch(info: ModelInfo, deviation: Deviation, *, same: bool) -> CheckpointError:
    return CheckpointError(
        asked=f"the fingerprint of {info.name}",
        found=f"{deviation.statistic} is {deviation.found:.7g}, recorded {deviation.recorded:.7g}: off by "
        f"{deviation.relative:.1e}, allowed {deviation.tolerance:.0e}; the weights are "
        + ("those of the record" if same else "not those of the record"),
        done="nothing was changed",
        advice="another version of torch, or another machine: this one computes differently"
        if same
        else f"fetch them anew: hrnet-zoo cache clear {info.name} && hrnet-zoo download {info.name}",
        source=info.name,
    )


def _astray(name: str, fidelity: Fidelity) -> FidelityError:
    finite = "" if fidelity.worst_score is not None else ", and scores that are not finite"
    return FidelityError(
        asked=f"{name} on {fidelity.device} in {fidelity.dtype}",
        found=f"{fidelity.pixels:.3%} of a street scene's pixels as float32 on the CPU has them{finite}; "
        f"from {FINE_PIXELS:.1%} on it is fine",
        done=OTHERS,
        advice="do not use this device in this dtype; try another dtype (float32), another device, another torch",
        pixels=fidelity.pixels,
        worst_score=fidelity.worst_score,
    )


def _created(name: str, device: str | torch.device | None, dtype: torch.dtype | str | None, progress: bool) -> FCNHRNet:
    from hrnet_zoo.errors import raise_on_oom
    from hrnet_zoo.zoo.create import create_model

    with raise_on_oom(f"load {name} on the device asked for", done=OTHERS):
        return create_model(name, device=device, dtype=dtype, progress=progress)


def _fidelity(reference: FCNHRNet, model: FCNHRNet, *, fast: bool) -> Fidelity:
    from hrnet_zoo.demo.scenes import scene
    from hrnet_zoo.engines.optimize import agreement, optimize
    from hrnet_zoo.errors import raise_on_oom

    image = scene(0).image
    where, precision = str(model.device), str(model.dtype).removeprefix("torch.")
    try:
        with raise_on_oom(f"check {model.name} on {where} in {precision}", done=OTHERS):
            form = optimize(model) if fast else model
            try:
                pixels = agreement(reference, form, [image])
            except LogitsError:  # none can be labeled; `worst_score` says why
                pixels = 0.0
            scores = [_scores(each, image) for each in (reference, form)]
    except RuntimeError as error:  # a kernel or memory that this device lacks: torch has no class for it
        raise DeviceError(
            asked=f"check {model.name} on {where} in {precision}",
            found=f"torch cannot compute it: {str(error).splitlines()[0][:200]}",
            done=OTHERS,
            advice="another dtype or device; a build of torch that knows this device",
        ) from error
    worst = float((scores[1] - scores[0]).abs().max() / scores[0].abs().max())
    engine = getattr(form, "engine", None)
    precision = str(form.dtype).removeprefix("torch.")
    return Fidelity(where, precision, pixels, worst if math.isfinite(worst) else None, engine)


def _scores(form: Predictor, image: RGB) -> torch.Tensor:
    """Return the logits at stride 4 of the resized image, float32 on the CPU."""
    import torch

    from hrnet_zoo.images.read import normalize
    from hrnet_zoo.inference.predict import resized

    (resized_image,) = resized(image, form.dataset.resize_to, ms_flip=False)
    with torch.inference_mode():
        x = normalize(resized_image).to(form.device, form.dtype, memory_format=torch.channels_last)
        return form.logits_stride4(x).float().cpu()
