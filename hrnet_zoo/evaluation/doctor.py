"""Report what works here: environment, cache, hosts, and how far one model strays on a device and dtype.

What is broken is reported, not raised. A broken torch too: it is imported only where it is needed.
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
    ConfigError,
    HRNetZooError,
    LogitsError,
    raise_on_oom,
)
from hrnet_zoo.evaluation.reachability import Reach, reach, require_all
from hrnet_zoo.weights import cache
from hrnet_zoo.weights.addresses import without_passwords
from hrnet_zoo.zoo.catalog import is_saved, list_models, model_info

if TYPE_CHECKING:
    import torch

    from hrnet_zoo.images.read import RGB
    from hrnet_zoo.models.fcn import FCNHRNet
    from hrnet_zoo.models.predictor import Predictor

T = TypeVar("T")

FINE_PIXELS = 0.995  # share of pixels that must agree with float32 on the CPU
OTHERS = "the other findings are in the report"
PACKAGES = ("torch", "numpy", "pillow", "safetensors", "huggingface_hub", "requests", "matplotlib")
SETTINGS = ("HRNET_ZOO_CACHE", "HRNET_ZOO_MIRRORS", "HRNET_ZOO_OFFLINE", "HF_HUB_OFFLINE")


@dataclass(frozen=True)
class Fidelity:
    """How far a device and dtype stray from float32 on the CPU, on one generated street scene.

    Attributes:
        device: as torch names it.
        dtype: without "torch.".
        pixels: share of pixels with the same class, 0 to 1.
        worst_logit: largest difference of a logit, relative to the largest logit; None: a logit is not finite.
        engine: the engine of `optimize`; None: the network itself.

    """

    device: str
    dtype: str
    pixels: float
    worst_logit: float | None
    engine: str | None = None

    @property
    def fine(self) -> bool:
        """Whether all logits are finite and at least `FINE_PIXELS` agree."""
        return self.worst_logit is not None and self.pixels >= FINE_PIXELS


@dataclass(frozen=True)
class Health:
    """What was found about one model, whose cached file agrees with the digest in its header.

    Attributes:
        model: its name.
        data_sha256: digest of the converted weights.
        fidelity: of the device and dtype asked for; None: they cannot be used, and `Report.errors` says why.
        fast: the same of the model that `optimize` makes there, in its own dtype. A low figure is no error: float32 or
            the network itself are there instead.

    """

    model: str
    data_sha256: str
    fidelity: Fidelity | None
    fast: Fidelity | None


@dataclass(frozen=True)
class Report:
    """What `doctor` found.

    Attributes:
        environment: versions, processor, devices.
        settings: environment variables that hrnet-zoo reads, secrets blanked; None: unset.
        cache: its folder, whether it can be written, and what is in it.
        network: each address of each file; None: not asked for.
        health: of the named model; None: none was named, or it cannot be loaded and `errors` says why.
        errors: what is wrong.

    """

    environment: dict[str, Any]
    settings: dict[str, str | None]
    cache: dict[str, Any]
    network: tuple[Reach, ...] | None
    health: Health | None
    errors: tuple[HRNetZooError, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report, ready for JSON."""
        facts = asdict(self)
        for form in ("fidelity", "fast") if self.health else ():
            if fidelity := getattr(self.health, form):
                facts["health"][form]["fine"] = fidelity.fine
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
        name: also check this model, published or saved: its file against its digest; `device` and `dtype`, and the fast
            form there, against float32 on the CPU. It is fetched if it is not in the cache.
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


def _attempt(errors: list[HRNetZooError], step: Callable[[], T]) -> T | None:
    """Run a step; collect its error."""
    try:
        return step()
    except HRNetZooError as error:
        errors.append(error)
    except (ImportError, OSError) as error:  # OSError too: a library that torch needs is missing
        errors.append(
            ConfigError(
                asked="import what hrnet-zoo needs",
                found=f"something is missing or broken: {type(error).__name__}: {error}",
                done=OTHERS,
                advice="install hrnet-zoo again; for torch, follow https://pytorch.org",
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
    import torch

    from hrnet_zoo.zoo.create import create_model
    from hrnet_zoo.zoo.resolve import resolve

    def created(device: str | torch.device | None, dtype: torch.dtype | str | None) -> FCNHRNet:
        with raise_on_oom(f"load {origin.name}", done=OTHERS):
            return create_model(origin.name, device=device, dtype=dtype, progress=progress)

    origin = resolve(name, progress=progress)
    reference = created("cpu", torch.float32)
    if not any(isinstance(error, CacheError) for error in errors):  # without a cache the demo is converted in memory
        origin.verify()
    model = _attempt(errors, lambda: created(device, dtype))
    exact = _attempt(errors, lambda: _fidelity(reference, model, fast=False)) if model else None
    fast = _attempt(errors, lambda: _fidelity(reference, model, fast=True)) if model and exact else None
    if exact and not exact.fine:
        finite = "" if exact.worst_logit is not None else ", and logits that are not finite"
        errors.append(
            HRNetZooError(
                asked=f"{origin.name} on {exact.device} in {exact.dtype}",
                found=f"{exact.pixels:.3%} of a street scene's pixels agree with float32 on the CPU{finite}; "
                f"at least {FINE_PIXELS:.1%} are expected",
                done=OTHERS,
                advice="do not use this device in this dtype; try float32, another device, or another release of torch",
            )
        )
    return Health(origin.name, reference.provenance["data_sha256"], exact, fast)


def _fidelity(reference: FCNHRNet, model: FCNHRNet, *, fast: bool) -> Fidelity:
    from hrnet_zoo.demo.scenes import scene
    from hrnet_zoo.engines.optimize import optimize, pixel_agreement

    image = scene(0).image
    asked = f"check {model.name} on {model.device} in {str(model.dtype).removeprefix('torch.')}"
    try:
        with raise_on_oom(asked, done=OTHERS):
            form = optimize(model) if fast else model
            try:
                pixels = pixel_agreement(reference, form, [image])
            except LogitsError:  # no pixel can be labeled; `worst_logit` says why
                pixels = 0.0
            exact, found = (_logits(each, image) for each in (reference, form))
    except RuntimeError as error:  # the device lacks a kernel or memory: torch has no class for it
        raise ConfigError(
            asked=asked,
            found=f"torch cannot compute it: {str(error).splitlines()[0][:200]}",
            done=OTHERS,
            advice="try another dtype or device, or a build of torch for this device",
        ) from error
    worst = float((found - exact).abs().max() / exact.abs().max())
    return Fidelity(
        device=str(model.device),
        dtype=str(form.dtype).removeprefix("torch."),
        pixels=pixels,
        worst_logit=worst if math.isfinite(worst) else None,
        engine=getattr(form, "engine", None),
    )


def _logits(form: Predictor, image: RGB) -> torch.Tensor:
    """Return the logits at stride 4 of the resized image, float32 on the CPU."""
    import torch

    from hrnet_zoo.images.preprocess import normalize
    from hrnet_zoo.inference.predict import resized

    (view,) = resized(image, form.dataset.resize_to, ms_flip=False)
    with torch.inference_mode():
        x = normalize(view).to(form.device, form.dtype, memory_format=torch.channels_last)
        return form.logits_stride4(x).float().cpu()
