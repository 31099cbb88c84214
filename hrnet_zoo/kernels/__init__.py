"""Kernels for CUDA in Triton, which torch's builds for CUDA bring along. Its modules import it, so they come late."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import os
from collections.abc import Callable

import torch
from torch import Tensor

OLDEST = (8, 0)  # compute capability: the first with bfloat16, and what Triton's own tests begin with

logger = logging.getLogger("hrnet_zoo")


@functools.cache
def installed(device: torch.device) -> bool:
    """Tell whether kernels can be tried on a device at all: Triton is there, and the device is one for it.

    If not, one log line says why. In Triton's interpreter (TRITON_INTERPRET=1) they run on the CPU, for tests.
    """
    if device.type == "cpu":
        return os.environ.get("TRITON_INTERPRET") == "1" and importlib.util.find_spec("triton") is not None
    if importlib.util.find_spec("triton") is None:
        reason = "triton is not installed"
    elif torch.cuda.get_device_capability(device) < OLDEST:
        reason = f"compute capability {torch.cuda.get_device_capability(device)} is below {OLDEST}"
    else:
        return True
    logger.warning("kernels of one's own cannot be used on %s, PyTorch's are: %s", device, reason)
    return False


def right(what: str, compute: Callable[[], Tensor], expected: Tensor, error: float) -> bool:
    """Tell whether a kernel computes here what it should, to within an error. If not, one log line says why."""
    from triton.errors import TritonError

    try:
        worst = float((compute().double().cpu() - expected.double()).abs().max())
    except (TritonError, RuntimeError, OSError) as failure:  # RuntimeError, OSError: no C compiler, or no cache folder
        reason = (str(failure).splitlines() or [type(failure).__name__])[0][:200]
    else:
        if worst <= error:
            return True
        reason = f"its results are off by {worst:.2g}"
    logger.warning("the kernel for %s cannot be used, PyTorch's are: %s", what, reason)
    return False
