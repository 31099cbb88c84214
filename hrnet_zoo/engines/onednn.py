"""Plan -> engine on a CPU: convolution, bias, addition and ReLU as one call of oneDNN; stem and head in row stripes.

The operations (`torch.ops.mkldnn`) are those that torch's compiler calls. They are not public, hence the probe.
"""

import functools
import logging
import math

import torch
from torch import Tensor, nn

from hrnet_zoo.engines.folding import Convolution, Head, Plan, PyTorchEngine, Stem, replace_steps
from hrnet_zoo.models.hrnet import fit

# Bytes of maps within a stripe.
STEM_BYTES, HEAD_BYTES = 16 << 20, 4 << 20
STEM_CHANNELS = 4  # counted per pixel of an image: a quarter of the stem's, or most of a stripe would be margin
FACTORS = (2, 4, 8)  # of the coarser maps

logger = logging.getLogger("hrnet_zoo")


class OneDNNConvolution(Convolution):
    """A plan's convolution as one call of oneDNN; sums are float32 within the call.

    Weights are not packed for one image size: that is 1 to 3 % faster there, and half a millisecond per convolution
    slower elsewhere.
    """

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Compute what `Convolution` does, in one pass over the result."""
        if self.needs_float32(x):
            return super().forward(x, other)
        tensors = (x, self.weight, self.bias)
        geometry = ([self.padding] * 2, [self.stride] * 2, [1, 1], 1)
        after = "relu" if self.relu else None
        ops = torch.ops.mkldnn
        result: Tensor
        if other is None:
            result = ops._convolution_pointwise.default(*tensors, *geometry, after or "none", [], "")
        else:
            result = ops._convolution_pointwise_.binary(other, *tensors, *geometry, "add", 1.0, after, [], "")
        return result


class StripedStem(Stem):
    """A plan's stem in stripes of rows, so that maps of up to 256 channels are never whole in memory."""

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the maps at strides 4 and 8 of a batch of images (N, 3, H, W)."""
        rows = _stripe_rows(x, STEM_CHANNELS, 8, STEM_BYTES)
        if rows >= x.shape[2]:
            return super().forward(x)  # type: ignore[no-any-return]
        # Each step spoils a row at stride 4 where a stripe is cut: rows above and below are computed, and cut off.
        margin = 8 * math.ceil(len(self.steps) / 2)
        stripes: list[list[Tensor]] = []
        for start in range(0, x.shape[2], rows):
            first, end = max(0, start - margin), min(start + rows, x.shape[2])
            maps = super().forward(x[:, :, first : end + margin])
            places = [slice((start - first) // stride, math.ceil((end - first) / stride)) for stride in (4, 8)]
            stripes.append([each[:, :, place] for each, place in zip(maps, places, strict=True)])
        return [torch.cat(each, dim=2) for each in zip(*stripes, strict=True)]


class StripedHead(Head):
    """A plan's head in stripes of rows, so that the mixed maps stay in the processor's cache.

    The two coarsest maps, most of the channels, are mixed before they are upsampled: a 1x1 convolution and bilinear
    upsampling can be exchanged. That differs from the plan by rounding, and spares half of the head's time.
    """

    def __init__(self, mix: Convolution, classifier: Convolution) -> None:
        super().__init__(mix, classifier)
        finest = mix.weight.shape[1] // 15  # channels of the maps: 1, 2, 4 and 8 times as many
        fine, coarse, coarsest = torch.split(mix.weight, [3 * finest, 4 * finest, 8 * finest], dim=1)
        self.mix_fine = OneDNNConvolution(fine.contiguous(), mix.bias, stride=1, relu=True)
        none = torch.zeros_like(mix.bias)
        self.mix_coarse = nn.ModuleList(
            OneDNNConvolution(weight.contiguous(), none, stride=1) for weight in (coarse, coarsest)
        )

    def forward(self, x: Tensor, *coarser: Tensor) -> Tensor:
        """Return logits (N, classes, H, W) at the size of the finest map `x`."""
        height = x.shape[2]
        # A part is upsampled with the weights of the whole only if the maps have exactly 1/2, 1/4, 1/8 of the rows.
        if any(each.shape[2] * factor != height for each, factor in zip(coarser, FACTORS, strict=True)):
            return super().forward(x, *coarser)
        mixed = [mix(each) for mix, each in zip(self.mix_coarse, coarser[1:], strict=True)]
        rows = _stripe_rows(x, self.mix.weight.shape[0], FACTORS[-1], HEAD_BYTES)
        stripes: list[Tensor] = []
        for start in range(0, height, rows):
            end = min(start + rows, height)
            finer, *large = (
                _upsampled_rows(each, factor, start, end, x.shape[3])
                for each, factor in zip((coarser[0], *mixed), FACTORS, strict=True)
            )
            total = torch.add(*large)
            stripes.append(self.classifier(self.mix_fine(torch.cat([x[:, :, start:end], finer], dim=1), total)))
        return torch.cat(stripes, dim=2)


def _upsampled_rows(x: Tensor, factor: int, start: int, end: int, width: int) -> Tensor:
    """Return the rows from `start` to `end` of a map upsampled by `factor`, from those that they interpolate."""
    first = max(0, start // factor - 1)
    part = x[:, :, first : end // factor + 1]
    return fit(part, (part.shape[2] * factor, width))[:, :, start - first * factor : end - first * factor]


def _stripe_rows(x: Tensor, channels: int, multiple: int, stripe_bytes: int) -> int:
    """Return how many rows of `x` make a stripe of so many bytes, where each pixel takes so many channels."""
    row_bytes = x.shape[0] * x.shape[3] * channels * x.element_size()
    return multiple * max(1, round(stripe_bytes / row_bytes / multiple))


class OneDNNEngine(PyTorchEngine):
    """Runs a plan on the CPU with oneDNN's fused convolutions."""

    name = "onednn"

    def __init__(self, plan: Plan, device: torch.device, dtype: torch.dtype) -> None:
        replace_steps(plan, Convolution, _fused)
        replace_steps(plan, Stem, lambda stem: StripedStem(stem.steps, stem.transition))
        if type(plan.head) is Head:  # OCRNet's attention needs all rows
            replace_steps(plan, Head, lambda head: StripedHead(head.mix, head.classifier))
        super().__init__(plan, device, dtype)


def _fused(step: Convolution) -> OneDNNConvolution:
    return OneDNNConvolution(step.weight, step.bias, step.stride, step.relu)


@functools.cache
def usable(dtype: torch.dtype) -> bool:
    """Probe whether oneDNN's fused convolutions exist here and compute the right numbers; log why not."""
    generator = torch.Generator("cpu").manual_seed(0)

    def random(*shape: int) -> Tensor:  # whatever the caller's torch defaults are
        return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")

    try:
        for relu in (False, True):
            step = Convolution(random(8, 8, 3, 3) / 9, random(8), stride=1, relu=relu)
            x, other = (random(1, 8, 6, 5).to(dtype, memory_format=torch.channels_last) for _ in range(2))
            with torch.inference_mode(), torch.autocast("cpu", enabled=False):
                expected = step(x.float(), other.float())
                error = float((_fused(step).to(dtype)(x, other).float() - expected).abs().max())
            if error >= 64 * torch.finfo(dtype).eps:
                raise RuntimeError(f"its results are off by {error:.2g}")
    except (AttributeError, RuntimeError, TypeError) as missing:  # no such operation, dtype or arguments
        reason = str(missing).splitlines()[0][:200]
        logger.warning("oneDNN's fused convolutions are unavailable in %s; using PyTorch: %s", dtype, reason)
        return False
    return True


def has_native_bfloat16() -> bool:
    """Tell whether this processor multiplies in bfloat16 itself (AMX or AVX512-bf16)."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
