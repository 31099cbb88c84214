"""The page: an image and a few choices -> overlay, confidence, legend, and files to download."""

from __future__ import annotations

import concurrent.futures
import functools
import html
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
from gradio_client.utils import is_file_obj_with_meta, traverse
from PIL import Image

from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.errors import ConfigError, HRNetZooError, ImageTooLargeError, printable
from hrnet_zoo.images.atomic import atomic_write, png
from hrnet_zoo.images.formats import open_image
from hrnet_zoo.inference.annotations import write_json
from hrnet_zoo.inference.result import SegmentationResult
from hrnet_zoo.inference.tables import TableWriter, table_columns, table_row
from hrnet_zoo.models.base import SegmentationModel
from hrnet_zoo.zoo.resolve import is_here

MAX_BYTES = 30_000_000  # of an upload
MAX_PIXELS = 25_000_000  # of an image: what most phones take
TIME_LIMIT_S = 120.0  # until an image is labeled, and until its files are written
WAITING = 16  # images; one is computed at a time, on all cores
VIEW_SIDE = 1600  # pixels of what the browser shows; files have the image's size
KEPT_MODELS = 2  # in memory
FILES_KEPT_S = 3600  # uploads and results on the disk, until the next image comes

FILES = {"_labels.png": "Labels", "_overlay.png": "Overlay", ".geojson": "GeoJSON", ".csv": "Table"}  # by ending

_STYLE = """<style>
.legend { max-height: 30em; overflow-y: auto; }
.legend table { width: 100%; border-collapse: collapse; }
.legend td, .legend th { padding: 3px 6px; text-align: right; white-space: nowrap; font-weight: normal; }
.legend td:nth-child(2) { width: 100%; text-align: left; white-space: normal; overflow-wrap: anywhere; }
.legend tr:first-child { opacity: .7; }
.legend span { display: inline-block; width: 1em; height: 1em; border: 1px solid gray; vertical-align: -2px; }
</style>"""
CSS = "#classes { max-height: 24em; overflow-y: auto; }"  # of 150 there are many
_ALERT = "padding: 8px 12px; border-left: 4px solid #c00; overflow-wrap: anywhere"

T = TypeVar("T")


class Labeler:
    """What the page does: chooses models, labels images and writes files, within the limits.

    Attributes:
        names: models to choose from.
        folder: a private folder, of uploads and of files to download.

    """

    def __init__(self, names: Sequence[str], load: Callable[[str], SegmentationModel], folder: Path) -> None:
        """Load the first model with `load`, which returns the model of a name or raises HRNetZooError."""
        self.names, self.folder = names, folder.resolve()
        self._load = functools.lru_cache(KEPT_MODELS)(load)
        self._load(names[0])
        self._worker = concurrent.futures.ThreadPoolExecutor(1, "hrnet-zoo-page")

    def model(self, name: str) -> SegmentationModel:
        """Return a model; ConfigError if it is none of `names`, or its weights have left the cache."""
        if name not in self.names or (name != self.names[0] and not is_here(name)):
            raise ConfigError(
                asked=f"label with {name}",
                found=f"no model {name} on this machine, and the page downloads nothing",
                done="nothing was computed",
                advice="choose another one",
            )
        return self._load(name)

    def choose(self, name: str) -> gr.CheckboxGroup:
        """Return the classes of a model, all of them on."""
        try:
            classes = list(self.model(name).classes)
        except HRNetZooError:  # `show` comes next, and says what is wrong
            classes = []
        return gr.CheckboxGroup(classes, value=classes)

    def show(
        self, upload: Mapping[str, Any] | None, name: str, classes: Sequence[str], min_confidence: float
    ) -> Iterator[tuple[Any, ...]]:
        """Yield views, message, legend and buttons, first without files; or a message that says what is wrong."""
        if upload is None:
            yield None, None, None, None, *_buttons()
            return
        self._sweep()
        path = Path(upload["path"])
        try:
            model = self.model(name)
            chosen = None if set(classes) == set(model.classes) else classes
            options = {"classes": chosen, "confidence": True, "min_confidence": min_confidence}
            result = self._in_time(lambda: _predict(model, path, options))
            yield *_views(result), None, _legend(result), *_buttons()
            files = self._in_time(lambda: write_files(result, path, Path(tempfile.mkdtemp(dir=self.folder))))
            yield *(gr.skip(),) * 4, *_buttons(files)
        except HRNetZooError as error:
            words = html.escape(printable(f"{path.name}: {error.found}; {error.advice}"))
            yield None, None, f'<div role="alert" style="{_ALERT}">{words}</div>', None, *_buttons()

    def _sweep(self) -> None:
        """Remove old uploads and results, each of which has a folder."""
        for folder in filter(Path.is_dir, self.folder.iterdir()):
            written = max(each.stat().st_mtime for each in (folder, *folder.iterdir()))
            if time.time() - written > FILES_KEPT_S:
                shutil.rmtree(folder, ignore_errors=True)  # what is in use, on Windows, stays until the next time

    def _in_time(self, step: Callable[[], T]) -> T:
        """Return what a step of the work returns; ConfigError after the time limit, though it goes on to its end."""
        future = self._worker.submit(step)
        try:
            return future.result(TIME_LIMIT_S)
        except concurrent.futures.TimeoutError as error:
            future.cancel()  # unless it has begun
            raise ConfigError(
                asked="label an image on the page",
                found=f"it takes longer than {TIME_LIMIT_S:.0f} s",
                done="the work was given up",
                advice="take a smaller image or model, try again later, or use `hrnet-zoo predict`",
            ) from error


class _Page(gr.Blocks):  # type: ignore[misc]  # of a package without types
    """Takes no file but what is in `folder`: Gradio would fetch addresses, and read any file by its path."""

    folder: Path

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *rest: Any) -> Any:  # noqa: ANN401 - as Gradio's
        traverse(inputs, self._check, is_file_obj_with_meta)
        return await super().preprocess_data(block_fn, inputs, *rest)

    def _check(self, file: dict[str, Any]) -> None:
        if not Path(file["path"]).resolve().is_relative_to(self.folder):
            raise gr.Error("this file was not uploaded", print_exception=False)


def build_page(labeler: Labeler, notice: str) -> gr.Blocks:
    """Return the page, not served yet; `notice` is a sentence on who can reach it."""
    names, classes = list(labeler.names), list(labeler.model(labeler.names[0]).classes)
    with _Page(analytics_enabled=False, title="hrnet-zoo") as page:
        page.folder = labeler.folder
        gr.Markdown(f"# hrnet-zoo\n{notice}")
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                words = "Drop a photo, or click to choose or take one"
                image = gr.Image(label="Image", placeholder=words, height=300, buttons=[])
                gr.Examples(_examples(labeler.folder), image, label="Generated street scenes")
                words = "demo knows nothing but generated street scenes; hrnet-zoo download NAME adds a model"
                model = gr.Dropdown(names, value=names[0], label="Model", info=words)
            with gr.Column(scale=3, min_width=320):
                with gr.Tab("Classes"):
                    overlay = gr.ImageSlider(label="Image and overlay", interactive=False, buttons=["fullscreen"])
                with gr.Tab("Confidence"):
                    sure = gr.ImageSlider(label="Image and confidence", interactive=False, buttons=["fullscreen"])
                message = gr.HTML()
                with gr.Row():
                    files = [
                        gr.DownloadButton(each, interactive=False, min_width=140, size="md") for each in FILES.values()
                    ]
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                legend = gr.HTML(apply_default_css=False)
            with gr.Column(scale=3, min_width=320):
                words = "Pixels whose class is less probable stay unlabeled"
                least = gr.Slider(0, 1, 0, step=0.05, label="Least confidence", info=words)
                shown = gr.CheckboxGroup(
                    classes, value=classes, label="Classes", show_select_all=True, elem_id="classes"
                )
        inputs, outputs = [image, model, shown, least], [overlay, sure, message, legend, *files]
        # Values come as they are: Gradio would decode the image, without our limits.
        how = {"preprocess": False, "concurrency_id": "network", "concurrency_limit": 1, "api_visibility": "private"}
        events = [image.change, shown.input, least.release]
        gr.on(events, labeler.show, inputs, outputs, trigger_mode="always_last", **how)
        model.change(labeler.choose, model, shown, **how).then(labeler.show, inputs, outputs, **how)
    page.queue(max_size=WAITING, api_open=False)
    return page


def write_files(result: SegmentationResult, path: Path, folder: Path) -> list[Path]:
    """Write the files of a result, named after its image, as `hrnet-zoo predict` does; return them, as in `FILES`."""
    labels, overlay, polygons, table = files = [folder / f"{path.stem}{ending}" for ending in FILES]
    result.save(labels)
    atomic_write(overlay, png(result.overlay()))
    write_json(polygons, result.to_geojson())
    with TableWriter(table, table_columns(result.classes, confidence=True)) as rows:
        rows.append({**table_row(path, result), "path": path.name})
    return files


def _predict(model: SegmentationModel, path: Path, options: Mapping[str, Any]) -> SegmentationResult:
    with open_image(path, whole=False) as header:
        width, height = header.displayed
    if width * height > MAX_PIXELS:
        raise ImageTooLargeError(
            asked=f"label {path.name}",
            found=f"{width} x {height} = {width * height:,} pixels; the page takes {MAX_PIXELS:,}",
            done="nothing was decoded",
            advice="make it smaller, or use `hrnet-zoo predict`",
            source=path.name,
        )
    return model.predict(path, **options)


def _views(result: SegmentationResult) -> tuple[tuple[Image.Image, Image.Image], tuple[Image.Image, Image.Image]]:
    views = Image.fromarray(result.image), result.overlay(legend=False), result.confidence_image(scale=False)
    for view in views:
        view.thumbnail((VIEW_SIDE, VIEW_SIDE))
    image, overlay, confidence = views
    return (image, overlay), (image, confidence)


def _legend(result: SegmentationResult) -> str:
    means = result.mean_confidence()
    rows = "".join(
        f'<tr><td><span style="background: #{bytes(color).hex()}"></span></td><td>{html.escape(printable(name))}</td>'
        f"<td>{html.escape(share)}</td><td>{f'{100 * means[name]:.1f} %' if name in means else ''}</td></tr>"
        for color, name, share in result.legend()
    )
    head = "<tr><th></th><td>class</td><th>share</th><th>confidence</th></tr>"
    return f'{_STYLE}<div class="legend"><table>{head}{rows}</table></div>'


def _buttons(files: Sequence[Path] = ()) -> list[gr.DownloadButton]:
    if not files:
        return [gr.DownloadButton(interactive=False, value=None) for _ in FILES]
    return [gr.DownloadButton(interactive=True, value=file) for file in files]


def _examples(folder: Path) -> list[list[str]]:
    paths = [folder / f"scene_{seed}.jpg" for seed in range(3)]
    for seed, path in enumerate(paths):
        Image.fromarray(scene(seed).image).save(path, quality=90)
    return [[str(path)] for path in paths]
