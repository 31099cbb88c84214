"""One update of the weights: forward, loss, backward, SGD; mixed precision, accumulation, EMA, checkpointing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.amp import GradScaler, autocast
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm
from torch.optim import SGD
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

from hrnet_zoo.datasets.label_rules import IGNORE_INDEX
from hrnet_zoo.errors import TrainingError, raise_on_oom
from hrnet_zoo.evaluation.ranks import Ranks, rank_errors
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.models.hrnet import ExchangeModule
from hrnet_zoo.training.config import PRECISIONS, TrainingConfig
from hrnet_zoo.training.distributed import all_reduce, convert_sync_batchnorm
from hrnet_zoo.training.losses import HEAD_WEIGHTS, Loss
from hrnet_zoo.training.resume import Progress, read_state, write_state
from hrnet_zoo.training.schedule import learning_rate, parameter_groups

MOMENTUM = 0.9
STOPPED = "the training was stopped; what was saved last is intact"


class Updater:
    """A network in float32, trained in place, with its optimizer and everything else that an update changes."""

    def __init__(self, network: FCNHRNet, config: TrainingConfig, loss: Loss, ranks: Ranks) -> None:
        self.network, self.config, self.loss, self.ranks = network, config, loss, ranks
        self.device = next(network.parameters()).device
        self.progress = Progress()
        if config.freeze:
            network.freeze_backbone()
        if ranks.size > 1:
            convert_sync_batchnorm(network)
        # The average is a copy of the network without activation checkpointing.
        average_function = get_ema_multi_avg_fn(config.ema)  # type: ignore[no-untyped-call]
        with torch.device("cpu"):  # where its counter is, whatever torch's default device
            average = AveragedModel(network, multi_avg_fn=average_function, use_buffers=True) if config.ema else None
        self.average = average
        if config.gradient_checkpointing:
            checkpoint_activations(network)
        groups = parameter_groups(network, config)
        self.optimizer = SGD(groups, lr=config.lr, momentum=MOMENTUM, weight_decay=config.weight_decay)
        for parameter in self._learning():
            self.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        self.scaler = GradScaler(self.device.type, enabled=config.precision == "fp16")
        self.heads = _Heads(network)
        self.parallel: DistributedDataParallel | None = None
        if ranks.size > 1:
            with rank_errors(ranks):
                self.parallel = DistributedDataParallel(self.heads)

    @property
    def model(self) -> FCNHRNet:
        """The network to be evaluated and kept: the running average, if there is one."""
        return self.network if self.average is None else cast(FCNHRNet, self.average.module)

    def update(self, images: Tensor, labels: Tensor) -> float:
        """Learn from this process's share of a batch; return the mean loss over the labeled pixels of the whole batch.

        Args:
            images: (N, C, H, W) float32, normalized.
            labels: (N, H, W) int64 class indices, 255 ignored.

        Raises:
            TrainingError: the loss or a gradient is not finite; the weights are unchanged.
            ConfigError: the device has too little memory.

        """
        asked = f"update {self.progress.step + 1} of {self.config.steps}"
        lr = learning_rate(self.config, self.progress.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["factor"]
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        with raise_on_oom(
            f"{asked} with {len(images)} images on {self.device}",
            done=STOPPED,
            advice="a smaller batch or crop; or accumulate, gradient_checkpointing, precision='bf16'",
        ):
            loss = self._backward(images, labels)
        gradients = [parameter.grad for parameter in self.network.parameters() if parameter.grad is not None]
        # In float16 the scaler handles infinite gradients: it skips the update and lowers the scale.
        norm = 0.0 if self.scaler.is_enabled() else float(get_total_norm(gradients))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise TrainingError(
                asked=f"{asked} at a learning rate of {lr:.3g}",
                found=f"a loss of {loss} with gradients of norm {norm}",
                done=STOPPED,
                advice="resuming would not help: begin anew with a smaller lr, a warmup, or precision='fp32'",
            )
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.network)
        self.progress.step += 1
        return loss

    def _backward(self, images: Tensor, labels: Tensor) -> float:
        """Compute the gradients part by part, and return the loss.

        A part is weighted by its fraction of the labeled pixels of the whole batch. So the cross-entropy does not
        depend on how the batch is split, into parts or among processes. The other losses are not sums over pixels.
        """
        dtype, head_weights = PRECISIONS[self.config.precision], HEAD_WEIGHTS[self.network.method]
        labeled = all_reduce((labels != IGNORE_INDEX).sum().to(self.device, torch.float64), self.ranks).clamp(min=1)
        zero = torch.zeros((), device=self.device)
        total = zero.double()
        parts = list(zip(images.chunk(self.config.accumulate), labels.chunk(self.config.accumulate), strict=True))
        for number, (images, labels) in enumerate(parts, start=1):
            images = images.to(self.device, non_blocking=True).contiguous(memory_format=torch.channels_last)
            labels = labels.to(self.device, non_blocking=True)
            weight = (labels != IGNORE_INDEX).sum() / labeled
            # Gradients are exchanged once per update, with the last part.
            with self.parallel.no_sync() if self.parallel and number < len(parts) else nullcontext():
                with autocast(self.device.type, dtype=dtype, enabled=dtype != torch.float32):
                    logits = [*(self.parallel or self.heads)(images)]
                # Popped: nothing keeps the logits, the largest tensors.
                loss = sum((each * self.loss(logits.pop(0), labels) for each in head_weights), zero) * weight
                # DistributedDataParallel averages gradients over the processes; the sum is needed here.
                self.scaler.scale(loss * self.ranks.size).backward()  # type: ignore[no-untyped-call]
            total += loss.detach().double()
        return float(all_reduce(total, self.ranks))

    def save(self, path: Path) -> None:
        """Write the state of the training."""
        self.progress.scaler = self.scaler.state_dict()
        write_state(path, self.config, self.progress, self._tensors())

    def resume(self, path: Path) -> None:
        """Continue a training with the same config; ResumeError if the file is damaged, or of another one."""
        self.progress = read_state(path, self.config, self._tensors())
        if self.progress.scaler:
            self.scaler.load_state_dict(self.progress.scaler)

    def _tensors(self) -> dict[str, Tensor]:
        """Return all tensors that an update changes."""
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        if self.average is not None:
            tensors |= {f"average.{name}": tensor for name, tensor in self.average.state_dict().items()}
        for index, parameter in enumerate(self._learning()):
            tensors[f"momentum.{index}"] = self.optimizer.state[parameter]["momentum_buffer"]
        return tensors

    def _learning(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]


class _Heads(nn.Module):
    """The network as a module that returns the logits of each head, which DistributedDataParallel wraps."""

    def __init__(self, network: FCNHRNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.network.heads_logits(images)


def checkpoint_activations(network: FCNHRNet) -> None:
    """Keep only the inputs of the exchange modules, and recompute what is inside them for the backward pass."""
    for module in network.backbone.modules():
        if isinstance(module, ExchangeModule):
            module.__class__ = _CheckpointedExchangeModule


class _CheckpointedExchangeModule(ExchangeModule):
    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        result: list[Tensor] = checkpoint(
            super().forward,
            maps,
            use_reentrant=False,
            preserve_rng_state=False,  # nothing inside is random, and the generator is the user's
            context_fn=lambda: (nullcontext(), _running_statistics_frozen(self)),
        )
        return result


@contextmanager
def _running_statistics_frozen(module: nn.Module) -> Iterator[None]:
    """Keep batch norm from counting the same images twice."""
    norms = [each for each in module.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm) and each.training]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
