"""Label files and folders: images on disk -> label maps and overlays on disk."""

from __future__ import annotations

import errno
import glob
import logging
import os
from collections import Counter
from collections.abc import Collection, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hrnet_zoo.datasets.pairing import SUFFIXES, UNSUPPORTED, find_images
from hrnet_zoo.errors import HRNetZooError, ImageError, OutputError, printable
from hrnet_zoo.images.atomic import atomic_write, make_folder, png, refuse_address, refuse_existing
from hrnet_zoo.images.formats import image_errors
from hrnet_zoo.images.prefetch import prefetch_in_threads
from hrnet_zoo.images.progress import Bar
from hrnet_zoo.inference.annotations import write_json
from hrnet_zoo.inference.coco_file import CocoFile
from hrnet_zoo.inference.predict import PredictOptions, evaluating, predict_each
from hrnet_zoo.inference.result import SegmentationResult
from hrnet_zoo.inference.tables import TableWriter, error_row, table_row
from hrnet_zoo.models.base import SegmentationModel

_logger = logging.getLogger("hrnet_zoo")

_NAME_FAULTS = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)  # names that the file system refuses
RESULTS_BEHIND = 2  # results that may wait to be written while the network goes on


@dataclass(frozen=True)
class Job:
    """An image, and the files of its results (None: not wanted)."""

    image: Path
    labels: Path | None
    overlay: Path | None
    geojson: Path | None = None
    confidence: Path | None = None

    def files(self) -> dict[str, Path]:
        """Return the files that are wanted, by their kind."""
        return {kind: file for kind, file in vars(self).items() if kind != "image" and file}


def plan(
    inputs: Sequence[str],
    out: Path,
    *,
    labels: bool,
    overlay: bool,
    force: bool,
    geojson: bool = False,
    confidence: bool = False,
    suffixes: Collection[str] = frozenset(SUFFIXES),
) -> list[Job]:
    """List the images of files, folders and globs, and the files of their results in the folder `out`.

    Folders are searched to any depth, following links (`datasets.pairing.find_images`), and keep their structure;
    hidden files and results in `out` are skipped; photographs in unsupported formats are skipped with a warning.
    `suffixes` are those of images: `hrnet_zoo.images.bands.SUFFIXES` for a model with bands of its own.

    Raises:
        ImageError: a folder holds no image.
        OutputError: `out` is an address, two images would share a result, a result exists and `force` is not given,
            or a result would replace an image.

    """
    refuse_address(out)
    found: dict[Path, Path] = {}  # image -> its place relative to `out`
    for text in inputs:
        for image, place in _images(text, out, suffixes):
            found.setdefault(image, place)
    stems = Counter(map(_stem, found.values()))
    jobs = []
    for image, place in found.items():
        # "a.jpg" gives "a_labels.png", unless there is an "a.png", too.
        base = place.with_suffix("") if stems[_stem(place)] == 1 else place
        endings = ("_labels.png", "_overlay.png", ".geojson", "_confidence.png")
        results = (
            out / base.with_name(base.name + ending) if wanted else None
            for ending, wanted in zip(endings, (labels, overlay, geojson, confidence), strict=True)
        )
        jobs.append(Job(image, *results))
    targets = Counter(target for job in jobs for target in job.files().values())
    if not force:
        refuse_existing(list(targets))
    images = {os.path.realpath(image) for image in found}
    for target, number in targets.items():
        if number > 1 or os.path.realpath(target) in images:
            raise OutputError(
                asked=f"write {target}",
                found="several of the images have this name" if number > 1 else "it is one of the images to label",
                done="nothing was computed or written",
                advice="choose another --out folder, or predict one folder at a time",
                path=target,
            )
    return jobs


def remaining(jobs: Sequence[Job], table: TableWriter | None, coco: CocoFile | None) -> list[Job]:
    """Return the jobs whose images the table and the COCO file do not both have; what failed is in the table alone."""
    files = [file for file in (table, coco) if file]
    if not files:
        return list(jobs)
    failed = [job for job in jobs if table and table.has_error(job.image)]
    return [job for job in jobs if job not in failed and not all(file.has(job.image) for file in files)]


def predict_files(
    model: SegmentationModel,
    jobs: Sequence[Job],
    options: PredictOptions,
    *,
    alpha: float = 0.5,
    progress: bool = False,
    on_error: Literal["skip", "raise"] = "skip",
    panorama: bool = False,
    table: TableWriter | None = None,
    coco: CocoFile | None = None,
    min_area: int = 0,
    simplify: float = 0,
) -> Generator[tuple[Job, dict[str, Any] | HRNetZooError], None, None]:
    """Label every pixel of every image and write the results, while threads read and write other images.

    Results that were computed before an error or an interruption are written before it is raised. `panorama` is that of
    `SegmentationResult.fractions`, `min_area` and `simplify` are those of `to_geojson`. After an image's files are
    written, `coco` gets its regions, if it was labeled, and `table` a row, unless they have it already.

    Yields:
        For each image in order: image, labels, overlay, geojson, confidence (paths or None), and fractions by class
        name. With on_error="skip" the error, if the image cannot be read or the file system refuses the name of a
        result.

    Raises:
        ImageError: an image cannot be read, and `on_error` is "raise".
        OutputError: a result cannot be written.

    """

    def computed() -> Generator[tuple[Job, SegmentationResult | ImageError], None, None]:
        with closing(predict_each(network, (job.image for job in jobs), options)) as results:
            pairs = zip(jobs, results, strict=True)
            for job, result in Bar(pairs, "predict", len(jobs), unit="image", disable=None if progress else True):
                if isinstance(result, ImageError) and on_error == "raise":
                    raise result
                yield job, result

    def write(each: tuple[Job, SegmentationResult | ImageError]) -> tuple[Job, dict[str, Any] | HRNetZooError]:
        job, result = each
        outcome = result if isinstance(result, ImageError) else save(job, result)
        if isinstance(outcome, HRNetZooError) and table and not table.has(job.image):
            table.append(error_row(job.image, outcome.found))
        return job, outcome

    def save(job: Job, result: SegmentationResult) -> dict[str, Any] | HRNetZooError:
        try:
            with image_errors(str(job.image)):
                fractions = result.fractions(panorama)
                row = table_row(job.image, result, fractions) if table else {}
            for file in job.files().values():
                make_folder(file.parent)
            if job.confidence:  # first, because its name is the longest
                atomic_write(job.confidence, png(result.confidence_image()))
            if job.overlay:
                atomic_write(job.overlay, png(result.overlay(alpha=alpha)))
            if job.labels:
                result.save(job.labels)
            if job.geojson:
                write_json(job.geojson, result.to_geojson(min_area, simplify))
        except (ImageError, OutputError) as error:
            bad_name = getattr(error.__cause__, "errno", None) in _NAME_FAULTS
            if on_error == "raise" or not (isinstance(error, ImageError) or bad_name):
                raise
            return error
        if coco and not coco.has(job.image):  # before the row, without which --resume does the image again
            coco.add(job.image, result)
        if table and not table.has(job.image):
            table.append(row)
        return {kind: file and str(file) for kind, file in vars(job).items()} | {"fractions": fractions}

    with (
        evaluating(model) as network,
        closing(computed()) as results,
        closing(prefetch_in_threads(results, write, threads=1, ahead=RESULTS_BEHIND, finish=True)) as written,
    ):
        yield from written


def _images(text: str, out: Path, suffixes: Collection[str]) -> Generator[tuple[Path, Path], None, None]:
    """Yield the images of a file, folder or glob, each with its place in the output folder."""
    path = Path(text)
    if text and os.path.isdir(text):  # noqa: PTH112 - never raises, as Path.is_dir does for a name too long
        found, problems = find_images(path, path, suffixes)
        results = Path(os.path.realpath(out))  # Path.resolve raises for a link to itself
        within = Path(os.path.realpath(path)) in results.parents
        files = [file for file in found if not (within and results in Path(os.path.realpath(file)).parents)]
        skipped = [problem for problem in problems if problem.error or problem.kind == UNSUPPORTED]
        if not files:
            endings = f"no file with one of the endings {', '.join(sorted(suffixes))}"
            raise ImageError(
                asked=f"the images in {path}",
                found="; ".join([endings, *(f"{problem.kind}: {problem.found}" for problem in skipped)]),
                done="nothing was computed or written",
                advice="choose another folder, or name the files: then their endings do not matter",
                source=str(path),
            )
        for problem in skipped:
            _logger.warning("%s: %s", printable(path), printable(problem))
        yield from ((file, file.relative_to(path)) for file in files)
    elif not os.path.exists(text) and (matches := sorted(glob.glob(_pattern(text), recursive=True))):  # noqa: PTH110 - as above
        for match in matches:
            yield from _images(match, out, suffixes)
    else:
        yield path, Path(path.name or "image")


def _pattern(text: str) -> str:
    """Return a pattern for `glob` that takes existing folders such as "trip [1]" literally."""
    place, parts = Path(), list(Path(text).parts)
    for number, part in enumerate(parts):
        place /= part
        if not os.path.lexists(place):  # never raises, as above
            break
        parts[number] = glob.escape(part)
    return os.path.join(*parts) if parts else text  # noqa: PTH118 - Path would drop what a pattern ends in


def _stem(place: Path) -> str:
    """Drop the ending and the case, which some file systems ignore: "A.jpg" and "a.png" need two results."""
    return str(place.with_suffix("")).casefold()
