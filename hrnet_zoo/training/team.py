"""The processes that train together: one alone, or several by `accelerate launch` or `torchrun`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hrnet_zoo.errors import ConfigError, install
from hrnet_zoo.evaluation.ranks import Ranks, environment, rank_errors, start_group

if TYPE_CHECKING:
    from accelerate import Accelerator


class Team:
    """A process among those that train together; alone it needs nothing but torch.

    Args:
        device: of this process.

    Attributes:
        rank: its number, 0 to size - 1.
        size: how many there are.

    Raises:
        ConfigError: there are several, and accelerate is not installed; or the environment is torchrun's in part only.
        RankError: the others cannot be reached.

    """

    def __init__(self, device: torch.device) -> None:
        self._accelerator: Accelerator | None = None
        self._module: nn.Module | None = None
        started = dist.is_available() and dist.is_initialized()
        place = (dist.get_rank(), dist.get_world_size()) if started else environment()
        self.rank, self.size = place or (0, 1)
        self.ranks = Ranks(self.rank, self.size, device)
        if self.size > 1:
            try:
                from accelerate import Accelerator
            except ImportError as error:
                raise ConfigError(
                    asked=f"a training by {self.size} processes",
                    found=f"accelerate cannot be imported ({error})",
                    done="nothing was computed",
                    advice=install("train"),
                ) from error
            if not started:
                start_group(self.ranks)
            with rank_errors(self.ranks):
                # Precision is set here, and not by what `accelerate config` may have stored on this machine.
                self._accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="no")

    def joined(self, network: nn.Module) -> nn.Module:
        """Return what to call in place of the network, so that gradients become the mean over all processes."""
        if self._accelerator is None:
            return network
        with rank_errors(self.ranks):
            self._module = self._accelerator.prepare_model(network)
        return self._module

    def alone(self) -> AbstractContextManager[Any]:
        """Leave the gradients of a backward pass to this process, for the next one to bring together."""
        return nullcontext() if self._accelerator is None else self._accelerator.no_sync(self._module)

    def sum(self, numbers: Tensor) -> Tensor:
        """Return the sum over all processes.

        Raises:
            RankError: one is gone.

        """
        if self.size > 1:
            with rank_errors(self.ranks):
                dist.all_reduce(numbers)
        return numbers

    def max(self, number: Tensor) -> Tensor:
        """Return the largest over all processes.

        Raises:
            RankError: one is gone.

        """
        with rank_errors(self.ranks):
            dist.all_reduce(number, dist.ReduceOp.MAX)
        return number
