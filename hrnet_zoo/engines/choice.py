"""Plan -> engine: the fastest one and its dtype on this machine, by timing on a CPU, remembered in the cache."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import math
import platform
import re
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hrnet_zoo import __version__
from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.engines import onednn, openvino
from hrnet_zoo.engines.cuda import CudaEngine
from hrnet_zoo.engines.folding import Plan, PyTorchEngine
from hrnet_zoo.engines.onednn import OneDNNEngine
from hrnet_zoo.engines.openvino import OpenVINOEngine
from hrnet_zoo.errors import CacheError, ConfigError
from hrnet_zoo.images.preprocess import normalize
from hrnet_zoo.inference.logits import ViewLogits
from hrnet_zoo.inference.masks import make_mask
from hrnet_zoo.models.fork_safety import refuse_after_fork
from hrnet_zoo.weights import cache

Engine: TypeAlias = PyTorchEngine | OpenVINOEngine
ENGINES: dict[str, type[Engine]] = {
    "onednn": OneDNNEngine,
    "pytorch": PyTorchEngine,
    "openvino": OpenVINOEngine,
    "cuda": CudaEngine,
}
DTYPES = (torch.float16, torch.bfloat16, torch.float32)

SIZE = (256, 512)  # of the timed image: large enough to rank the candidates as 1024 x 2048 does, and soon done
LEAST_AGREEMENT = 0.995
ROUNDS = 4  # each candidate's least time counts
SECONDS = 1.0  # after which no further round begins
HOPELESS = 1.5  # times as slow as the best one: not timed again
GAIN = 1.03  # a later candidate must be so many times as fast: earlier ones are more exact, or need no extra package

logger = logging.getLogger("hrnet_zoo")


@dataclass(frozen=True)
class Candidate:
    """An engine with a dtype, and what builds it from a plan, which it takes over."""

    engine: str
    dtype: torch.dtype
    build: Callable[[Plan], Engine] = field(compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.engine} {str(self.dtype).removeprefix('torch.')}"


@dataclass(frozen=True)
class Trial:
    """A timed candidate: milliseconds for 256 x 512 pixels, and the share (0 to 1) of pixels labeled as in float32."""

    candidate: str
    milliseconds: float
    agreement: float

    def __str__(self) -> str:
        doubt = f" ({self.agreement:.1%} of pixels agree)" if self.agreement < LEAST_AGREEMENT else ""
        return f"{self.candidate} {self.milliseconds:.0f} ms{doubt}"


def candidates(
    device: torch.device, engine: str | None = None, dtype: torch.dtype | None = None
) -> tuple[Candidate, ...]:
    """Return what `optimize` chooses from on a device, the most exact first; `engine` and `dtype` leave what they name.

    On a CPU: "onednn" ("pytorch" where that is unavailable) and, if installed, "openvino", in float32 and, if the
    processor multiplies in it, bfloat16. float16 must be named: oneDNN is slower in it than in float32, with
    AVX512-fp16 too. On CUDA: "cuda" in float16.

    Raises:
        ConfigError: the engine is unknown, is not installed, or does not run on this device or in this dtype.

    """
    if dtype not in (None, *DTYPES):
        raise refusal(f"dtype={dtype}", f"dtype is one of {', '.join(map(str, (*DTYPES, torch.int8)))}")
    if engine == "openvino" and device.type == "cpu":
        openvino.openvino()  # says what to install
    found: list[Candidate] = []
    names: list[str] = []
    for each in (dtype,) if dtype else _dtypes(device):
        names = _engines(device, each)
        default = [name for name in names if name != "pytorch" or name == names[0]]
        chosen = default if engine is None else [engine] if engine in names else []
        found += [Candidate(name, each, partial(ENGINES[name], device=device, dtype=each)) for name in chosen]
    if not found:
        able = ", ".join(map(repr, names))
        raise refusal(f"engine={engine!r}", f"the engines that compute in {each} on {device} are {able}")
    return tuple(found)


def _dtypes(device: torch.device) -> tuple[torch.dtype, ...]:
    if device.type == "cpu":
        return (torch.float32, torch.bfloat16) if onednn.has_native_bfloat16() else (torch.float32,)
    return (torch.float16,) if device.type == "cuda" else (torch.float32,)


def _engines(device: torch.device, dtype: torch.dtype) -> list[str]:
    """Return the engines that run on a device in a dtype, the default one first."""
    if device.type == "cpu":
        return [*["onednn"] * onednn.usable(dtype), "pytorch", *["openvino"] * (dtype in openvino.dtypes())]
    nvidia = device.type == "cuda" and torch.version.cuda is not None  # torch calls AMD's "cuda" as well
    return [*["cuda"] * nvidia, "pytorch"]


def refusal(asked: str, found: str) -> ConfigError:
    """Return the error for an engine or dtype that cannot be had."""
    return ConfigError(
        asked=f"optimize with {asked}",
        found=found,
        done="the network is unchanged",
        advice="use one of these, or leave it out for what is best here",
    )


def build(plan: Plan, able: Sequence[Candidate]) -> tuple[Engine, Candidate, tuple[Trial, ...]]:
    """Build the engine of the fastest candidate for a plan, which it takes over; return the candidate and all trials.

    A single candidate is not timed. Several run on a generated street scene; out are those that label more than 0.5 %
    of its pixels otherwise than the first. The trials are kept in the cache, for this network, processor, number of
    threads, and these versions.
    """
    if len(able) == 1:
        return able[0].build(plan), able[0], ()
    facts = _facts(able)
    key = _key(plan, facts)
    with ExitStack() as stack:
        try:
            stack.enter_context(cache.lock(key))  # processes of one job take the same engine, and time it one by one
        except CacheError as error:
            logger.info("the next process will time the engines again: %s", error)
        if trials := _remembered(key, able[0]):
            chosen = _fastest(able, trials)
            return chosen.build(plan), chosen, trials
        trials, engines = _try_out(plan, able)
        _remember(key, facts, trials, able[0])
    chosen = _fastest(able, trials)
    others = ", ".join(str(each) for each in trials if each.candidate != str(chosen))
    took = next(each for each in trials if each.candidate == str(chosen))
    logger.info("optimized with %s for %d x %d pixels, not %s", took, *SIZE, others)
    return engines[chosen], chosen, trials


def _fastest(able: Sequence[Candidate], trials: Sequence[Trial]) -> Candidate:
    times = {each.candidate: each.milliseconds for each in trials if each.agreement >= LEAST_AGREEMENT}
    best = able[0]
    for each in able[1:]:
        if GAIN * times.get(str(each), math.inf) < times[str(best)]:
            best = each
    return best


def _try_out(plan: Plan, able: Sequence[Candidate]) -> tuple[tuple[Trial, ...], dict[Candidate, Engine]]:
    """Run all candidates in turns; return their trials and engines."""
    refuse_after_fork(torch.device("cpu"))
    bands = next(plan.buffers()).shape[1]  # of the stem's weight; colors stand for those of other images
    x = normalize(scene(0, *SIZE).image)[:, [band % 3 for band in range(bands)]]
    x = x.contiguous(memory_format=torch.channels_last)
    engines: dict[Candidate, Engine] = {}
    agreements: dict[Candidate, float] = {}
    masks: list[npt.NDArray[np.uint8]] = []
    with torch.inference_mode():
        for each in able:
            try:
                engine = each.build(copy.deepcopy(plan, {id(tensor): tensor for tensor in plan.buffers()}))
                masks.append(_mask(engine(x.to(each.dtype))))
            except RuntimeError as error:
                if each is able[0]:
                    raise
                logger.warning("%s is left out: %s", each, (str(error).splitlines() or [""])[0][:200])
                continue
            engines[each] = engine
            agreements[each] = float((masks[-1] == masks[0]).mean())
        seconds = dict.fromkeys(engines, math.inf)
        start = time.perf_counter()
        for _ in range(ROUNDS):
            best = min(seconds.values())
            for each, engine in engines.items():
                if seconds[each] <= HOPELESS * best:
                    seconds[each] = min(seconds[each], _seconds(engine, x.to(each.dtype)))
            if time.perf_counter() - start > SECONDS:
                break
    return tuple(Trial(str(each), 1000 * seconds[each], agreements[each]) for each in engines), engines


def _mask(logits: Tensor) -> npt.NDArray[np.uint8]:
    if not logits.isfinite().all():
        return np.full(SIZE, 255, np.uint8)  # agrees with nothing
    return make_mask([ViewLogits.of_whole(logits[0], *SIZE)], *SIZE)


def _seconds(engine: Engine, x: Tensor) -> float:
    start = time.perf_counter()
    engine(x)
    return time.perf_counter() - start


# --- the cache -------------------------------------------------------------------------------------------------------


def _facts(able: Sequence[Candidate]) -> dict[str, object]:
    """Return what the times depend on, the network aside."""
    versions: dict[str, str | None] = {"hrnet-zoo": __version__, "torch": torch.__version__, "openvino": None}
    with suppress(metadata.PackageNotFoundError):
        versions["openvino"] = metadata.version("openvino")
    abilities = sorted(name for name, able in torch.cpu.get_capabilities().items() if able is True)
    threads = torch.get_num_threads()
    candidates = list(map(str, able))
    return {"processor": processor(), "abilities": abilities, "threads": threads, "candidates": candidates, **versions}


def _key(plan: Plan, facts: dict[str, object]) -> str:
    """Return the cache key of a plan's trials; of its weights some values of each tensor count."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for tensor in plan.buffers():
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(tensor.flatten()[:: max(1, tensor.numel() // 16)].contiguous().numpy().tobytes())
    return digest.hexdigest()


def _remembered(key: str, first: Candidate) -> tuple[Trial, ...]:
    try:
        return _read(cache.path_of(key, "timing"), first) if cache.is_cached(key, "timing") else ()
    except CacheError as error:
        logger.info("timing the engines again: %s", error)
        return ()


def _remember(key: str, facts: dict[str, object], trials: Sequence[Trial], first: Candidate) -> None:
    data = json.dumps({**facts, "size": SIZE, "trials": [asdict(each) for each in trials]}, indent=2).encode()
    try:
        cache.publish(key, data, lambda path: _read(path, first), "timing")
    except CacheError as error:
        logger.info("the trials are not kept: %s", error)


def _read(path: Path, first: Candidate) -> tuple[Trial, ...]:
    """Read trials, the first candidate's among them; CacheError if they are damaged or cannot be read."""
    with cache.disk_errors(path, f"read {path}"):
        text = path.read_bytes()
    try:
        found = tuple(
            Trial(str(each["candidate"]), float(each["milliseconds"]), float(each["agreement"]))
            for each in json.loads(text)["trials"]
        )
        if not any(each.candidate == str(first) and each.agreement >= LEAST_AGREEMENT for each in found):
            raise ValueError(f"there is no trial of {first}")
    except (ValueError, TypeError, KeyError) as error:
        raise CacheError(
            asked=f"read {path}",
            found=f"{type(error).__name__}: {error}",
            done="the file was left as it is",
            advice="remove the file",
            path=path,
        ) from error
    return found


def processor() -> str:
    """Return the name of the CPU, which `platform` does not know on Linux."""
    with suppress(OSError):
        if line := re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE):
            return line[1]
    return platform.processor() or platform.machine()
