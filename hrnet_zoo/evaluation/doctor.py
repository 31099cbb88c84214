"""Report what works here: environment, cache, hosts, and how far one model strays on a device and dtype.

What is broken is reported, not raised. A broken torch too: it is imported only where it is needed.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

import requests
import urllib3.exceptions

from hrnet_zoo import __version__
from hrnet_zoo.errors import CacheError, ConfigError, DownloadError, HRNetZooError, LogitsError, raise_on_oom, redact
from hrnet_zoo.images.prefetch import prefetch_in_threads
from hrnet_zoo.images.progress import Bar
from hrnet_zoo.weights import cache
from hrnet_zoo.weights.addresses import addresses, is_offline, without_passwords
from hrnet_zoo.weights.download import MAX_REDIRECTS, PAGE_TYPES, TimedSession, cause
from hrnet_zoo.zoo.catalog import ModelInfo, is_saved, list_models, model_info

if TYPE_CHECKING:
    import torch

    from hrnet_zoo.engines.choice import Trial
    from hrnet_zoo.images.bands import Pixels
    from hrnet_zoo.models.fcn import FCNHRNet

T = TypeVar("T")

FINE_PIXELS = 0.995  # share of pixels that must agree with float32 on the CPU
TIMEOUT_S = (10.0, 10.0)  # to connect; between two packets
ANSWER_S = 30.0  # for the whole answer, over all redirects
AT_ONCE = 8  # requests
OTHERS = "the other findings are in the report"
PACKAGES = ("torch", "numpy", "pillow", "safetensors", "huggingface_hub", "requests", "matplotlib")
SETTINGS = ("HRNET_ZOO_CACHE", "HRNET_ZOO_MIRRORS", "HRNET_ZOO_OFFLINE", "HF_HUB_OFFLINE")


@dataclass(frozen=True)
class Reach:
    """Whether one address has its file, "checkpoint" or "log"; `reachable` is None if an offline switch is on."""

    model: str
    file: str
    url: str
    reachable: bool | None
    found: str


@dataclass(frozen=True)
class Fidelity:
    """How far a device and dtype stray from float32 on the CPU, on one generated street scene.

    `pixel_agreement` is the share of equal labels, 0 to 1; `worst_logit` the largest difference of a logit, relative to
    the largest logit, None if one is not finite. `engine` is that of `optimize`, None for the network itself, and
    `trials` are what it chose from, if it timed several.
    """

    device: str
    dtype: str
    pixel_agreement: float
    worst_logit: float | None
    fine: bool
    engine: str | None = None
    trials: tuple[Trial, ...] = ()


@dataclass(frozen=True)
class Health:
    """What was found about one model, whose cached weights have the SHA-256 `data_sha256`.

    `fidelity` is that of the device and dtype asked for, None if they cannot be used; `fast` that of the model that
    `optimize` makes there, in its own dtype, where a low figure is no error.
    """

    model: str
    data_sha256: str
    fidelity: Fidelity | None
    fast: Fidelity | None


@dataclass(frozen=True)
class Report:
    """Result of `doctor`; None: not asked for, not set, or failed (see `errors`)."""

    environment: dict[str, Any]
    settings: dict[str, str | None]
    cache: dict[str, Any]
    network: tuple[Reach, ...] | None
    health: Health | None
    errors: tuple[HRNetZooError, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report, ready for JSON."""
        errors = [{"kind": type(error).__name__, "message": str(error)} for error in self.errors]
        return {**asdict(self), "errors": errors}


def doctor(
    name: str | None = None,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    network: bool = False,
    progress: bool = True,
) -> Report:
    """Check this machine, and optionally one model on it.

    Args:
        name: also check this model, published or saved: its file against its digest; `device` and `dtype`, and the fast
            form there, against float32 on the CPU. It is fetched if it is not in the cache.
        device: as in `create_model`.
        dtype: as in `create_model`.
        network: also ask for the checkpoint and the log of this model, or of all, at all their addresses.
        progress: show bars on a terminal, else lines once a minute.

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
    facts: dict[str, Any] = {"python": platform.python_version(), "platform": platform.platform()}
    facts |= {"hrnet-zoo": __version__, **dict.fromkeys(PACKAGES)}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            facts[package] = metadata.version(package)
    try:
        return facts | _devices()
    except (ImportError, OSError) as error:
        return facts | {"torch_fault": f"{type(error).__name__}: {error}"}


def _devices() -> dict[str, Any]:
    """Return the devices that torch can compute on."""
    import torch

    from hrnet_zoo.engines.choice import processor
    from hrnet_zoo.evaluation.costs import busy_words

    return {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "busy": busy_words(),
        "torch_cuda": torch.version.cuda,
        "cuda_devices": [_cuda_device(f"cuda:{index}") for index in range(torch.cuda.device_count())],
        "mps": torch.backends.mps.is_available(),
    }


def _cuda_device(device: str) -> dict[str, Any]:
    import torch

    try:
        facts = torch.cuda.get_device_properties(device)
        memory = {"memory_bytes": facts.total_memory, "free_bytes": torch.cuda.mem_get_info(device)[0]}
    except RuntimeError as error:  # a driver too old, a device that has failed
        return {"device": device, "fault": str(error).splitlines()[0]}
    return {"device": device, "name": facts.name, **memory, "capability": f"{facts.major}.{facts.minor}"}


def _cache(errors: list[HRNetZooError]) -> dict[str, Any]:
    """Look at the cache without writing to it."""
    folder = _attempt(errors, cache.root)
    if folder is None:
        return {}
    nearest = next(each for each in (folder, *folder.parents) if os.path.lexists(each))

    def free_bytes() -> int:
        with cache.disk_errors(folder, f"use the cache {folder}"):
            next(nearest.iterdir(), None)  # raises unless it is a folder
            return shutil.disk_usage(nearest).free

    free = _attempt(errors, free_bytes)
    kinds: dict[str, dict[str, int]] = {}
    for entry in _attempt(errors, cache.entries) or []:
        kind = kinds.setdefault(entry.kind, {"files": 0, "bytes": 0})
        kind["files"] += 1
        kind["bytes"] += entry.size
    return {
        "folder": str(folder),
        "writable": free is not None and os.access(nearest, os.W_OK | os.X_OK),
        "free_bytes": free,
        "files": kinds,
    }


# --- hosts and mirrors -----------------------------------------------------------------------------------------------


def reach(rows: Sequence[ModelInfo], *, progress: bool) -> tuple[Reach, ...]:
    """Check the checkpoint and the log of each row at all their addresses, a few at once.

    HEAD requests; `file:` addresses are looked up. With an offline switch on, no connection is opened.
    """
    offline = is_offline()
    jobs = [
        (row.name, file, address)
        for row in rows
        for file, url in (("checkpoint", row.checkpoint_url), ("log", row.log_url))
        for address in (addresses(url) if url else ())
    ]

    def ask(job: tuple[str, str, str]) -> Reach:
        name, file, url = job
        reachable: bool | None = None
        if url.startswith("file:"):
            reachable = os.path.isfile(url2pathname(urlsplit(url).path))  # noqa: PTH113 - never raises
            found = "a file" if reachable else "no file"
        elif offline:
            found = "not tried: HRNET_ZOO_OFFLINE or HF_HUB_OFFLINE is on"
        else:
            reachable, found = _head(url)
        return Reach(name, file, redact(url), reachable, found)

    with closing(prefetch_in_threads(jobs, ask, threads=AT_ONCE, ahead=AT_ONCE)) as answers:
        return tuple(Bar(answers, "network", len(jobs), unit="URL", disable=None if progress else True))


def _head(url: str) -> tuple[bool, str]:
    """Ask a host for a file's header; return whether it has the file, and its answer."""
    with TimedSession(ANSWER_S) as session:
        session.max_redirects = MAX_REDIRECTS
        if not url.startswith("http:"):
            del session.adapters["http://"]  # a redirect from https down to http then has nowhere to go
        try:
            answer = session.head(url, headers={"Accept-Encoding": "identity"}, allow_redirects=True, timeout=TIMEOUT_S)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            if not session.late:
                malformed = isinstance(error, requests.exceptions.InvalidURL)  # its text may quote a password
                why = "the address, or a proxy setting, is malformed" if malformed else cause(error)[:200]
                return False, f"{type(error).__name__}: {why}"
        if session.late:
            return False, f"no whole answer within {ANSWER_S:.0f} s"
    kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if answer.status_code == 200 and kind in PAGE_TYPES:
        return False, f"a {kind} page in place of the file, which looks like a login page"
    return answer.status_code == 200, f"HTTP status {answer.status_code} {answer.reason or ''}".strip()


def require_all(reached: Sequence[Reach]) -> None:
    """Raise a DownloadError unless every file that was tried is at one of its addresses."""
    there = {(each.model, each.file) for each in reached if each.reachable}
    missing = [each for each in reached if each.reachable is False and (each.model, each.file) not in there]
    if missing:
        files = list(dict.fromkeys(f"{each.file} of {each.model}" for each in missing))
        raise DownloadError(
            asked="reach the published files",
            found=f"{len(files)} at no address: {', '.join(files[:3])}; {missing[0].url}: {missing[0].found}",
            done="nothing was downloaded; what is in the cache works",
            advice="check the network and its proxy settings; or name a mirror in HRNET_ZOO_MIRRORS",
            url=missing[0].url,
        )


# --- one model -------------------------------------------------------------------------------------------------------


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

    def load(device: str | torch.device | None, dtype: torch.dtype | str | None) -> FCNHRNet:
        with raise_on_oom(f"load {origin.name}", done=OTHERS):
            return create_model(origin.name, device=device, dtype=dtype, progress=progress)

    origin = resolve(name, progress=progress)
    reference = load("cpu", torch.float32)
    if not any(isinstance(error, CacheError) for error in errors):  # without a cache the demo is converted in memory
        origin.verify()
    model = _attempt(errors, lambda: load(device, dtype))
    exact = _attempt(errors, lambda: _fidelity(reference, model, fast=False)) if model else None
    fast = _attempt(errors, lambda: _fidelity(reference, model, fast=True)) if model and exact else None
    if exact and not exact.fine:
        finite = "" if exact.worst_logit is not None else ", and logits that are not finite"
        errors.append(
            HRNetZooError(
                asked=f"{origin.name} on {exact.device} in {exact.dtype}",
                found=f"{exact.pixel_agreement:.3%} of a street scene's pixels agree with float32 on the CPU{finite}; "
                f"at least {FINE_PIXELS:.1%} are expected",
                done=OTHERS,
                advice="do not use this device in this dtype; try float32, another device, or another release of torch",
            )
        )
    return Health(origin.name, reference.provenance["data_sha256"], exact, fast)


def _fidelity(reference: FCNHRNet, model: FCNHRNet, *, fast: bool) -> Fidelity:
    import numpy as np

    from hrnet_zoo.demo.scenes import scene
    from hrnet_zoo.engines.optimize import optimize
    from hrnet_zoo.evaluation.agreement import pixel_agreement
    from hrnet_zoo.images.preprocess import normalize
    from hrnet_zoo.inference.predict import evaluating, resized, view_logits

    image: Pixels = scene(0).image
    if (data := model.dataset).own_bands:  # colors stand for them
        colors = normalize(image)[0].permute(1, 2, 0).numpy()
        mean, std = (np.array(each, np.float32) for each in (data.mean, data.std))
        image = colors[..., np.arange(len(mean)) % 3] * std + mean
    sizes = resized(image, model.dataset.resize_to, ms_flip=False)
    asked = f"check {model.name} on {model.device} in {str(model.dtype).removeprefix('torch.')}"
    pixels, worst = 0.0, None
    try:
        with raise_on_oom(asked, done=OTHERS), suppress(LogitsError):  # infinite, or not a number
            form = optimize(model) if fast else model
            pixels = pixel_agreement(reference, form, [image])
            logits = []
            for each in (reference, form):
                with evaluating(each) as network:
                    (view,) = view_logits(network, sizes, slide=False, flip=False)
                    logits.append(view.windows[0].logits.float().cpu())
            worst = float((logits[1] - logits[0]).abs().max() / logits[0].abs().max())
    except RuntimeError as error:  # the device lacks a kernel or memory: torch has no class for it
        raise ConfigError(
            asked=asked,
            found=f"torch cannot compute it: {str(error).splitlines()[0][:200]}",
            done=OTHERS,
            advice="try another dtype or device, or a build of torch for this device",
        ) from error
    return Fidelity(
        device=str(model.device),
        dtype=str(form.dtype).removeprefix("torch."),
        pixel_agreement=pixels,
        worst_logit=worst,
        fine=worst is not None and pixels >= FINE_PIXELS,
        engine=getattr(form, "engine", None),
        trials=getattr(form, "trials", ()),
    )
