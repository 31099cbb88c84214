"""hrnet-zoo beside the reference and others' runtimes on this CPU: one command, one dated table in Markdown.

    python examples/compare_with_peers.py --rows network image > table.md

Peers are taken as they are installed, and left out, with a line that says so, where they are not:

- the reference, mmsegmentation, in float32 (tests/slow/test_reference.py says how to install it);
- ONNX Runtime and OpenVINO with the network as torch.onnx exports it, and `F.interpolate` and `argmax` for the mask
  (`pip install onnx onnxscript onnxruntime openvino`);
- torch.compile, with --compile, which takes minutes.

All have the same weights, of the demo network (W18-Small) or random, and get the same generated street scene. Random
weights make rounding errors look larger than those of trained networks. All contenders of a row take turns, so that
what else the machine does meets all alike; compare only figures of one row. For scales and mirroring the reference
resizes, like ours, to the image's size, and its scales are those of the published table.
"""

import argparse
import datetime
import importlib
import importlib.metadata
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hrnet_zoo import create_model, optimize
from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.engines.choice import candidates, processor
from hrnet_zoo.engines.openvino import import_extra
from hrnet_zoo.errors import ConfigError
from hrnet_zoo.evaluation.costs import measure
from hrnet_zoo.images.preprocess import normalize, resize
from hrnet_zoo.images.read import RGB
from hrnet_zoo.inference.logits import ViewLogits
from hrnet_zoo.inference.masks import make_mask
from hrnet_zoo.inference.metrics import count_matrix
from hrnet_zoo.inference.predict import MS_RATIOS, evaluating
from hrnet_zoo.models.base import SegmentationModel
from hrnet_zoo.models.fcn import FCNHRNet

ROWS = ("network", "image", "ms-flip", "mask", "counts")
PACKAGES = ("torch", "mmsegmentation", "mmcv-lite", "onnxruntime", "openvino", "numpy")
CONFIG = "fcn_{}_4xb2-40k_cityscapes-512x1024.py"  # of the reference's; 19 classes
# Classes and size (height, width) of the image; scores are at a quarter of it, by a whole factor or not.
MASKS = [(19, (1024, 2048)), (19, (509, 1021)), (150, (512, 683))]

Run = Callable[[], object]


@dataclass
class Contender:
    """One way to do a row's work, and how it is checked: by the first one's result."""

    name: str
    run: Run


class Scores(nn.Module):
    """What others are given: the network up to its scores at a quarter of the image's size."""

    def __init__(self, model: FCNHRNet) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.decode_head = model.decode_head

    def forward(self, x: Tensor) -> Tensor:
        """Score normalized images (N, 3, H, W)."""
        scores: Tensor = self.decode_head(self.backbone(x))
        return scores


class Operations(ModuleType):
    """Stands where mmcv has its compiled operations, of which FCN-HRNet uses none."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        """Give whatever is asked for."""
        if name.startswith("__"):
            raise AttributeError(name)
        return _absent


class Reference:
    """The reference's network with the weights of ours.

    Raises:
        ImportError: it is not installed, or not for this mmcv.

    """

    def __init__(self, model: FCNHRNet) -> None:
        mmseg = reference_package()
        get: Callable[[str], Any] = importlib.import_module
        config = get("mmengine.config").Config.fromfile(
            Path(mmseg.__path__[0]) / ".mim/configs/hrnet" / CONFIG.format(model.arch)
        )
        config.model.pretrained = None
        self._models = get("mmseg.registry").MODELS
        self.network = get("mmengine.model").revert_sync_batchnorm(self._models.build(config.model)).eval()
        self.network.load_state_dict(model.state_dict(), strict=True)
        self.network.cfg = config
        self._infer = get("mmseg.apis").inference_model
        self._collate = get("mmengine.dataset").pseudo_collate
        self._compose = get("mmengine.dataset").Compose

    def scores(self, x: Tensor) -> Tensor:
        """Score a normalized image at a quarter of its size."""
        scores: Tensor = self.network.decode_head(self.network.backbone(x))
        return scores

    def mask(self, image: RGB) -> npt.NDArray[Any]:
        """Label an image; as OpenCV has it, in BGR."""
        return _labels(self._infer(self.network, np.ascontiguousarray(image[..., ::-1])))

    def ms_flip(self, image: RGB) -> Callable[[], npt.NDArray[Any]]:
        """Return what labels an image by six scales of its own size, each mirrored too."""
        height, width = image.shape[:2]
        scales = [(int(width * ratio), int(height * ratio)) for ratio in MS_RATIOS]
        views = [
            [{"type": "Resize", "scale": scale, "keep_ratio": True} for scale in scales],
            [{"type": "RandomFlip", "prob": chance, "direction": "horizontal"} for chance in (0.0, 1.0)],
            [{"type": "PackSegInputs"}],
        ]
        steps = [{"type": "mmseg.LoadImageFromNDArray"}, {"type": "TestTimeAug", "transforms": views}]
        steps = self._compose(steps)
        several = self._models.build({"type": "SegTTAModel", "module": self.network})
        bgr = np.ascontiguousarray(image[..., ::-1])
        return lambda: _labels(several.test_step(self._collate([steps({"img": bgr})]))[0])


def _labels(sample: Any) -> npt.NDArray[Any]:  # noqa: ANN401 - the reference's
    labels: npt.NDArray[Any] = sample.pred_sem_seg.data[0].numpy()
    return labels


def _absent(*_: object, **__: object) -> None:
    raise NotImplementedError("a compiled operation of mmcv")


def reference_package() -> ModuleType:
    """Import the reference."""
    there = "mmcv._ext" in sys.modules
    sys.modules.setdefault("mmcv._ext", Operations("mmcv._ext"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            package = importlib.import_module("mmseg")
            importlib.import_module("mmseg.utils").register_all_modules()
    except AssertionError as error:  # of releases of mmcv that it does not work with
        raise ImportError(str(error)) from error
    finally:
        if not there:
            del sys.modules["mmcv._ext"]
    return package


def exported(model: FCNHRNet, x: Tensor, folder: Path) -> Path:
    """Export a network for images of one size as a user would."""
    path = folder / f"{model.arch}_{x.shape[2]}x{x.shape[3]}.onnx"
    if not path.exists():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(Scores(model).eval(), (x,), path, dynamo=True, verbose=False, external_data=False)
    return path


def onnx_runtime(path: Path) -> Callable[[Tensor], Tensor]:
    """Return what scores with ONNX Runtime, in float32."""
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.contiguous().numpy()})[0])


def open_vino(path: Path, precision: str) -> Callable[[Tensor], Tensor]:
    """Return what scores with OpenVINO as its own documentation would have it."""
    openvino = import_extra("openvino", "openvino", "engine='openvino'")
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    core = openvino.Core()
    request = core.compile_model(core.read_model(path), "CPU", settings).create_infer_request()
    return lambda x: torch.from_numpy(next(iter(request.infer([x.contiguous().numpy()]).values())))


class Peers:
    """All that is installed, for one network."""

    def __init__(self, arch: str, folder: Path, skipped: dict[str, str], *, compiled: bool) -> None:
        # The demo network is a trained W18-Small; of the others there are random weights without a download.
        name = "demo" if arch == "hr18s" else f"fcn_{arch}_cityscapes_40k"
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.model = create_model(name, pretrained=arch == "hr18s", device="cpu", dtype=torch.float32)
        self.folder, self.skipped, self.compiled = folder, skipped, compiled
        self.reference = self._or_skip("the reference", lambda: Reference(self.model))
        self.fast: dict[str, SegmentationModel] = {"optimize": (taken := optimize(self.model))}
        for each in candidates(self.model.device):
            self.fast[str(each)] = optimize(self.model, engine=each.engine, dtype=each.dtype)
        if other := self._or_skip("8 bits", lambda: optimize(self.model, dtype=torch.int8)):
            self.fast["8 bits"] = other
        print(f"{name}: optimize takes {taken}, of {', '.join(map(str, taken.trials))}\n")

    def others(self, x: Tensor) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
        """Yield what scores normalized images of this size at a quarter of it, with the names of others' runtimes."""
        makers: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
            "ONNX Runtime float32": lambda: onnx_runtime(exported(self.model, x, self.folder)),
            "OpenVINO float32": lambda: open_vino(exported(self.model, x, self.folder), "f32"),
            "OpenVINO bfloat16": lambda: open_vino(exported(self.model, x, self.folder), "bf16"),
        }
        for name, make in makers.items():
            if (found := self._or_skip(name, make)) is not None:
                expected = self.model.logits_stride4(x).permute(0, 3, 1, 2)
                error = float((found(x) - expected).abs().max() / expected.abs().max())
                if error < (1e-4 if "float32" in name else 0.5):
                    yield name, found
                else:
                    self.skipped[name] = f"a wrong graph: scores are off by {error:.1e}"
        if self.compiled:
            yield "torch.compile", torch.compile(Scores(self.model))
        else:
            self.skipped["torch.compile"] = "not asked for; --compile includes it"

    def _or_skip(self, name: str, make: Callable[[], Any]) -> Any:  # noqa: ANN401 - whatever is made
        try:
            return make()
        except ImportError as error:
            self.skipped[name] = str(error).splitlines()[0]
        except ConfigError as error:
            self.skipped[name] = error.found
        return None


def network_row(peers: Peers, size: tuple[int, int]) -> Iterator[Contender]:
    """Map a normalized image to logits at a quarter of its size."""
    x = normalize(street(*size)).contiguous(memory_format=torch.channels_last)

    def by_pixel(scores: Callable[[Tensor], Tensor]) -> Tensor:
        return scores(x).permute(0, 2, 3, 1)

    yield Contender("exact", lambda: peers.model.logits_stride4(x))
    if peers.reference:
        plain = x.contiguous()  # as the reference's own pipeline gives it
        yield Contender("reference", lambda: peers.reference.scores(plain).permute(0, 2, 3, 1))
    for name, scores in peers.others(x):
        yield Contender(name, partial(by_pixel, scores))
    for name, form in peers.fast.items():
        yield Contender(name, partial(form.logits_stride4, x.to(form.dtype)))


def image_row(peers: Peers, size: tuple[int, int]) -> Iterator[Contender]:
    """Array to mask."""
    image = street(*size)
    yield Contender("exact", lambda: mask_of(peers.model, image))
    if peers.reference:
        yield Contender("reference: inference_model", lambda: peers.reference.mask(image))

    def by_hand(scores: Callable[[Tensor], Tensor]) -> npt.NDArray[Any]:
        return best(scores(normalize(image)), size)

    for name, scores in peers.others(normalize(image)):
        yield Contender(f"{name} + interpolate + argmax", partial(by_hand, scores))
    for name, form in peers.fast.items():
        yield Contender(name, partial(mask_of, form, image))


def ms_flip_row(peers: Peers, size: tuple[int, int]) -> Iterator[Contender]:
    """Array to mask by six scales, each mirrored too."""
    image = street(*size)
    yield Contender("exact", lambda: mask_of(peers.model, image, ms_flip=True))
    if peers.reference:
        yield Contender("reference: SegTTAModel", peers.reference.ms_flip(image))
    for name, form in peers.fast.items():
        yield Contender(name, partial(mask_of, form, image, ms_flip=True))


def mask_row(classes: int, size: tuple[int, int]) -> Iterator[Contender]:
    """Scores at a quarter of the image's size to mask: smooth random ones, as networks' are."""
    height, width = size
    coarse = (-(-height // 4), -(-width // 4))
    rough = torch.randn(1, classes, *(-(-side // 8) for side in coarse), generator=torch.Generator().manual_seed(0))
    planes = F.interpolate(rough, coarse, mode="bicubic")
    pixels = planes[0].permute(1, 2, 0).contiguous()
    view = ViewLogits.of_whole(pixels, height, width)
    yield Contender("make_mask", lambda: make_mask([view], height, width))
    yield Contender(
        "interpolate + argmax", lambda: F.interpolate(planes, size, mode="bilinear").argmax(dim=1)[0].numpy()
    )


def counts_row(size: tuple[int, int], skipped: dict[str, str]) -> Iterator[Contender]:
    """Truth and mask to counts of each class."""
    random = np.random.default_rng(0)
    truth, mask = (random.integers(0, 19, size, np.uint8) for _ in range(2))
    yield Contender("count_matrix", lambda: count_matrix(truth, mask, 19).diagonal())
    try:
        reference_package()
        metric = importlib.import_module("mmseg.evaluation").IoUMetric
    except ImportError as error:
        skipped["the reference's IoUMetric"] = str(error).splitlines()[0]
        return
    labels, found = (torch.from_numpy(each.astype(np.int64)) for each in (truth, mask))
    yield Contender("reference: IoUMetric", lambda: metric.intersect_and_union(found, labels, 19, 255)[0].numpy())


def best(planes: Tensor, size: tuple[int, int]) -> npt.NDArray[Any]:
    """Return each pixel's best class as one would without hrnet-zoo, from scores (1, classes, h, w)."""
    mask: npt.NDArray[Any] = F.interpolate(planes, size, mode="bilinear").argmax(dim=1)[0].numpy()
    return mask


def mask_of(form: SegmentationModel, image: RGB, *, ms_flip: bool = False) -> npt.NDArray[Any]:
    """Label an image with one form of the network."""
    result = form.predict(image, ms_flip=ms_flip, progress=False)
    return result.mask


def street(height: int, width: int) -> RGB:
    """Return a street scene of this size."""
    return resize(scene(0).image, height, width)


def distance(found: Any, expected: Any) -> str:  # noqa: ANN401 - scores, masks or counts
    """Say how far a result is from the first one's: scores by the largest error, labels by the pixels that differ."""
    if isinstance(expected, Tensor) and expected.is_floating_point():
        error = (found.float() - expected.float()).abs().max() / expected.abs().max()
        return f"scores off by {float(error):.1e}"
    return f"{np.mean(np.asarray(found) == np.asarray(expected)):.4%} alike"


def table(title: str, contenders: list[Contender], seconds: float) -> Iterator[str]:
    """Measure a row's contenders in turns, and yield its lines of the table."""
    results = [each.run() for each in contenders]
    costs = measure({each.name: each.run for each in contenders}, torch.device("cpu"), seconds, progress=True)
    peers = [name for name in costs if name.startswith(("reference", "interpolate"))]
    fast = next(name for name in ("optimize", contenders[0].name) if name in costs)
    for contender, result in zip(contenders, results, strict=True):
        cost = costs[contender.name]
        memory = "?" if cost.peak_memory is None else f"{cost.peak_memory / 1e6:,.0f}"
        ratio = f"{costs[peers[0]].median / cost.median:.2f}" if peers else "-"
        yield (
            f"| {title} | {contender.name} | {1000 * cost.median:.4g} | {1000 * cost.minimum:.4g} "
            f"| {ratio} | {cost.median / costs[fast].median:.2f} | {memory} | {distance(result, results[0])} |"
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=["network", "image", "mask"])
    parser.add_argument("--archs", nargs="+", choices=["hr18s", "hr18", "hr48"], default=["hr18s"])
    parser.add_argument(
        "--seconds", type=float, default=5, help="of each row at least; at least 5 runs of each in any case"
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile too")
    parser.add_argument("--shrink", type=int, default=1, help="divide all sides by this, to try the script out")
    options = parser.parse_args()
    skipped: dict[str, str] = {}

    def shrunk(height: int, width: int) -> tuple[int, int]:
        return max(8, height // options.shrink), max(8, width // options.shrink)

    versions = ", ".join(f"{name} {version}" for name in PACKAGES if (version := installed(name)))
    print(f"{datetime.date.today()}, {processor()}, {torch.get_num_threads()} threads; {versions}\n")
    print(
        "| work | by | ms, median | ms, least | times as fast as the reference | times the time of optimize "
        "| MB at the first run's peak | beside the first |"
    )
    print("|---|---|---:|---:|---:|---:|---:|---|")

    def show(title: str, contenders: Iterator[Contender]) -> None:
        for line in table(title, list(contenders), options.seconds):
            print(line, flush=True)

    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        for arch in options.archs if {"network", "image", "ms-flip"} & set(options.rows) else ():
            peers = Peers(arch, Path(folder), skipped, compiled=options.compile)
            for row, size, contenders in (
                ("network", shrunk(512, 1024), network_row),
                ("image", shrunk(1024, 2048), image_row),
                ("ms-flip", shrunk(512, 1024), ms_flip_row),
            ):
                if row in options.rows:
                    boxed(peers, size)
                    with evaluating(peers.model):
                        show(f"{row}, {arch}, {size[0]}x{size[1]}", contenders(peers, size))
        for classes, whole in MASKS if "mask" in options.rows else ():
            size = shrunk(*whole)
            show(f"scores to mask, {classes} classes, {size[0]}x{size[1]}", mask_row(classes, size))
        if "counts" in options.rows:
            show("counts, 19 classes", counts_row(shrunk(1024, 2048), skipped))
    for name, why in skipped.items():
        print(f"\nnot measured: {name}: {why}")


def boxed(peers: Peers, size: tuple[int, int]) -> None:
    """Let every form of the network see images of this size as they are, and the reference too."""
    resize_to = (max(size), min(size))
    for form in (peers.model, *peers.fast.values()):
        form.dataset = replace(form.dataset, resize_to=resize_to)
    if peers.reference:
        for step in peers.reference.network.cfg.test_pipeline:
            if step["type"] == "Resize":
                step["scale"] = resize_to


def installed(name: str) -> str | None:
    """Return a package's version."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
