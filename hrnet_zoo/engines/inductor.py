"""A plan on a CPU, compiled ahead of time by torch's own compiler for each size of picture that it meets.

A package takes half a minute to make and a moment to load; the cache keeps it (`hrnet_zoo.weights.packages`), under a
name that all it depends on goes into. It is machine code with the weights in it: 12 MB for W18-Small in bfloat16, 130
for W48, for each size.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import tempfile
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from hrnet_zoo.costs import processor
from hrnet_zoo.errors import CacheError, CheckpointFormatError, ConfigError
from hrnet_zoo.weights import cache, packages

SIZES = 8  # compiled in one process; torch.compile, too, has had enough of new sizes after so many
VERSION = 1  # of what is compiled from a plan
MOST_OFF = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.1}  # of the largest score

Run = Callable[[Tensor], Tensor]
logger = logging.getLogger("hrnet_zoo")

# torch's compiler keeps its folder in an environment variable: one at a time in a process.
_compiling = threading.Lock()


class InductorEngine:
    """A plan on the CPU as compiled code; sizes beyond the first `SIZES` go to the plan as it is.

    Args:
        plan: of `hrnet_zoo.engines.plan.make_plan`; it is taken over.
        dtype: of the arithmetic.
        plain: an engine with the same plan, which judges each package, and scores what is not compiled.
        name: of the network, for the packages' names.

    Raises:
        ConfigError: there is no C++ compiler.

    """

    name = "inductor"
    device = torch.device("cpu")

    def __init__(self, plan: fx.GraphModule, dtype: torch.dtype, plain: Run, name: str) -> None:
        compiler()
        self.dtype = dtype
        with torch.inference_mode(mode=False):  # what was made in inference mode cannot be exported
            for step in plan.modules():
                for key, each in step.named_buffers(recurse=False):
                    order = torch.channels_last if each.ndim == 4 else torch.preserve_format
                    setattr(step, key, each.clone().to(dtype, memory_format=order))
        self._plan = plan
        self._plain = plain
        self._name = packages.stem_of(name)
        self._runs: dict[tuple[int, int, int], Run] = {}
        self._failure: ConfigError | None = None
        self._enough = False
        self._lock = threading.Lock()

    def __call__(self, x: Tensor) -> Tensor:
        """Score normalised RGB pictures (N, 3, H, W): (N, ceil(H/4), ceil(W/4), classes).

        Raises:
            ConfigError: the compiler failed, now or before.

        """
        return self._score(x) if len(x) == 1 else torch.cat([self._score(each[None]) for each in x])

    def _score(self, x: Tensor) -> Tensor:
        x = x.to(self.dtype).contiguous(memory_format=torch.channels_last)
        size = (x.shape[2], x.shape[3], torch.get_num_threads())
        return (self._runs.get(size) or self._new(size, x))(x)

    def _new(self, size: tuple[int, int, int], x: Tensor) -> Run:
        """Return what scores a size that was not there yet; other threads that need a new one wait."""
        with self._lock:
            if size in self._runs:
                return self._runs[size]
            if self._failure:
                raise self._failure
            if len(self._runs) == SIZES:
                if not self._enough:
                    logger.warning("%d sizes of pictures were compiled; others are scored without that", SIZES)
                self._enough = True
                return self._plain
            with tempfile.TemporaryDirectory(prefix="hrnet-zoo-") as folder:
                self._runs[size] = self._ready(x, Path(folder))
            return self._runs[size]

    def _ready(self, x: Tensor, folder: Path) -> Run:
        """Return what scores pictures of this size: from the cache, or compiled now and kept there."""
        stem = self._stem(x)
        if run := self._kept(stem, x, folder / "first.pt2"):
            return run
        try:
            with cache.lock(stem):  # another process may be at it
                return self._kept(stem, x, folder / "second.pt2") or self._made(stem, x, folder)
        except CacheError as error:
            logger.warning("what is compiled is not kept: %s", error)
            return self._made(None, x, folder)

    def _kept(self, stem: str, x: Tensor, copy: Path) -> Run | None:
        try:
            return self._judged(load(copy), x) if packages.take(stem, copy) else None
        except (CacheError, CheckpointFormatError) as error:
            logger.warning("what was compiled before is not used: %s", error)
        except (RuntimeError, ValueError, OSError, AssertionError) as error:  # of another system's libraries, say
            logger.warning("what was compiled before cannot be loaded here: %s", error)
        return None

    def _made(self, stem: str | None, x: Tensor, folder: Path) -> Run:
        logger.warning("compiling %s for %d x %d pixels, half a minute or more", self._name, *x.shape[2:])
        try:
            path = compile_plan(self._plan, torch.zeros_like(x), folder / "plan.pt2")
            run = self._judged(load(path), x)
        except ConfigError as error:
            self._failure = error
            raise
        if stem is not None and run is not self._plain:
            try:
                packages.keep(stem, path)
            except (CacheError, CheckpointFormatError) as error:
                logger.warning("what was compiled is not kept: %s", error)
        return run

    def _judged(self, run: Run, x: Tensor) -> Run:
        """Return what was compiled if it scores this picture as the plan does, and else the plan."""
        expected = self._plain(x).float()
        off = float((run(x).float() - expected).abs().max() / expected.abs().max())
        if off <= MOST_OFF[self.dtype]:
            return run
        logger.warning("compiled code is not used for %s: its scores are off by %.2g", tuple(x.shape[2:]), off)
        return self._plain

    def _stem(self, x: Tensor) -> str:
        """Name the package by all that it depends on."""
        facts = [VERSION, torch.__version__, torch.get_num_threads(), processor(), platform.platform()]
        plan = [str(self.dtype), tuple(x.shape), self._plan.code]
        digest = hashlib.sha256(json.dumps([*facts, dict(torch.cpu.get_capabilities()), *plan]).encode())
        for key, each in self._plan.state_dict().items():
            digest.update(f"{key} {tuple(each.shape)}".encode())
            digest.update(each.contiguous().flatten().view(torch.uint8).numpy())
        for step in self._plan.modules():
            digest.update(repr(sorted((key, value) for key, value in vars(step).items() if key[0] != "_")).encode())
        return f"{self._name}-{x.shape[2]}x{x.shape[3]}-{digest.hexdigest()[:32]}"


def compiler() -> str:
    """Return the C++ compiler that torch would use.

    Raises:
        ConfigError: there is none.

    """
    from torch._inductor import cpp_builder  # slow to import

    try:
        return cpp_builder.get_cpp_compiler()
    except (RuntimeError, OSError) as error:
        raise ConfigError(
            asked="optimize with compile=True",
            found=f"there is no C++ compiler: {str(error).splitlines()[0][:200]}",
            done="the network was left as it is",
            advice="install one (g++, clang++), or name it in CXX; or leave compile out",
        ) from error


def compile_plan(plan: torch.nn.Module, x: Tensor, path: Path) -> Path:
    """Compile a plan for pictures like `x` into a package, with its weights; what else it leaves lies beside that.

    Raises:
        ConfigError: the compiler failed.

    """
    from torch._inductor import aoti_compile_and_package
    from torch._inductor.utils import fresh_cache

    options: dict[str, Any] = {"freezing": True}  # weights lie as the processor likes them
    try:
        with _compiling, warnings.catch_warnings(), torch.inference_mode(mode=False), torch.no_grad():
            warnings.simplefilter("ignore")  # of torch's own inner workings
            with fresh_cache(dir=str(path.parent)):
                exported = torch.export.export(plan, (x.clone(),))
                aoti_compile_and_package(exported, package_path=str(path), inductor_configs=options)
    except (RuntimeError, OSError) as error:
        raise ConfigError(
            asked=f"compile for {x.shape[2]} x {x.shape[3]} pixels",
            found=f"torch's compiler failed: {str(error).splitlines()[0][:300]}",
            done="nothing was kept, and it is not tried again",
            advice="leave compile out; the plan without it is about a tenth slower",
        ) from error
    return path


def load(path: Path) -> Run:
    """Load a package: normalised pictures (1, 3, H, W) to scores (1, ceil(H/4), ceil(W/4), classes)."""
    from torch._inductor import aoti_load_package

    run = aoti_load_package(str(path))

    def scores(x: Tensor) -> Tensor:
        found: Tensor = run(x)
        return found.permute(0, 2, 3, 1)

    return scores
