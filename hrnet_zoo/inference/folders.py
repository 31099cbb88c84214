"""Images on disk -> label maps and overlays on disk."""

from __future__ import annotations

import errno
import glob
import logging
import os
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hrnet_zoo.datasets.pairing import SUFFIXES, UNSUPPORTED, find_images
from hrnet_zoo.errors import HRNetZooError, ImageError, OutputError, UnreadableImageError, printable
from hrnet_zoo.images.atomic import atomic_write, make_folder, png, refuse_address, refuse_existing
from hrnet_zoo.images.prefetch import beside
from hrnet_zoo.images.progress import Bar
from hrnet_zoo.inference.logits import check_budget
from hrnet_zoo.inference.predict import check_mode, evaluating, predict_each
from hrnet_zoo.inference.result import SegmentationResult
from hrnet_zoo.models.predictor import Predictor

_logger = logging.getLogger("hrnet_zoo")

_NAME_FAULTS = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)  # too long; letters that this file system does not take
RESULTS_BEHIND = 2  # images whose results may wait to be written while the network goes on


@dataclass(frozen=True)
class Job:
    """One image, and where its results go (None: not wanted)."""

    image: Path
    labels: Path | None
    overlay: Path | None


def plan(inputs: Sequence[str], out: Path, *, labels: bool, overlay: bool, force: bool) -> list[Job]:
    """List the images of files, folders and globs, and where the results of each will lie below `out`.

    Folders are searched to any depth and keep their structure, links are followed (`datasets.pairing.find_images`);
    hidden files, and results below `out`, are left out; photographs of formats that are not read are told of.

    Raises:
        UnreadableImageError: a folder holds no image.
        OutputError: `out` is an address, two images would share a result, a result exists and `force` is not given,
            or a result would replace an image.

    """
    refuse_address(out)
    found: dict[Path, Path] = {}  # image -> its place relative to `out`; each image once
    for text in inputs:
        for image, place in _images(text, out):
            found.setdefault(image, place)
    stems = Counter(_stem(place) for place in found.values())
    jobs = []
    for image, place in found.items():
        # "a.jpg" gives "a_labels.png", unless there is an "a.png" beside it.
        base = place.with_suffix("") if stems[_stem(place)] == 1 else place
        jobs.append(
            Job(
                image,
                out / base.with_name(f"{base.name}_labels.png") if labels else None,
                out / base.with_name(f"{base.name}_overlay.png") if overlay else None,
            )
        )
    targets = [target for job in jobs for target in (job.labels, job.overlay) if target]
    if shared := [target for target, number in Counter(targets).items() if number > 1]:
        raise _refusal(shared[0], "several of the images have this name", "predict them one folder at a time")
    if not force:
        refuse_existing(targets)
    inputs_too = {os.path.realpath(image) for image in found}
    if lost := [target for target in targets if os.path.realpath(target) in inputs_too]:
        raise _refusal(lost[0], "it is itself one of the images to label", "name another --out folder")
    return jobs


def predict_files(
    model: Predictor,
    jobs: Sequence[Job],
    *,
    mode: str | None,
    ms_flip: bool,
    alpha: float,
    max_memory: int | None,
    progress: bool,
    on_error: Literal["skip", "raise"] = "skip",
) -> Generator[tuple[Job, dict[str, Any] | HRNetZooError], None, None]:
    """Label every pixel of every image and write the results.

    An image that cannot be read, or whose name the file system does not take for a result, is left out ("skip"), or
    ends the work there ("raise"): what was written stays.

    While the network computes, threads read the next images and write the last results. An error or an interruption
    is passed on when what was computed before is written.

    Yields:
        Of each image in turn image, labels, overlay (paths or None), and fractions by class name; or the error.

    Raises:
        ConfigError: `mode` or `max_memory` is what `predict` refuses, before the first image.
        ImageError: an image cannot be read, and `on_error` is "raise".
        OutputError: a result cannot be written.

    """
    check_mode(mode)
    check_budget(max_memory)

    def computed() -> Generator[tuple[Job, SegmentationResult | ImageError], None, None]:
        images = (job.image for job in jobs)
        with closing(predict_each(network, images, mode, ms_flip, max_memory=max_memory)) as results:
            pairs = zip(jobs, results, strict=True)
            for job, result in Bar(pairs, "predict", len(jobs), unit="image", disable=None if progress else True):
                if isinstance(result, ImageError) and on_error == "raise":
                    raise result
                yield job, result

    def write(each: tuple[Job, SegmentationResult | ImageError]) -> tuple[Job, dict[str, Any] | HRNetZooError]:
        job, result = each
        if isinstance(result, ImageError):
            return job, result
        try:
            if job.overlay:  # whose name is the longer one
                make_folder(job.overlay.parent)
                atomic_write(job.overlay, png(result.overlay(alpha=alpha)))
            if job.labels:
                make_folder(job.labels.parent)
                result.save(job.labels)
        except OutputError as error:
            if on_error == "raise" or getattr(error.__cause__, "errno", None) not in _NAME_FAULTS:
                raise
            return job, error
        return job, {
            "image": str(job.image),
            "labels": job.labels and str(job.labels),
            "overlay": job.overlay and str(job.overlay),
            "fractions": result.fractions(),
        }

    with (
        evaluating(model) as network,
        closing(computed()) as results,
        closing(beside(results, write, threads=1, ahead=RESULTS_BEHIND, finish=True)) as written,
    ):
        yield from written


def _images(text: str, out: Path) -> Generator[tuple[Path, Path], None, None]:
    """Yield the images that one argument stands for, each with its place in the output folder."""
    path = Path(text)
    if text and os.path.isdir(text):  # noqa: PTH112 - never raises, as Path.is_dir does for a name too long
        found, problems = find_images(path, path)
        files = [file for file in found if not _is_result(file, path, out)]
        told = [problem for problem in problems if problem.error or problem.kind == UNSUPPORTED]
        if not files:
            endings = f"no file with one of the endings {', '.join(sorted(SUFFIXES))}"
            raise UnreadableImageError(
                asked=f"the images in {path}",
                found="; ".join([endings, *(f"{problem.kind}: {problem.found}" for problem in told)]),
                done="nothing was computed or written",
                advice="name another folder, or the files themselves: of these the content decides",
                source=str(path),
            )
        for problem in told:
            _logger.warning("%s: %s", printable(path), printable(problem))
        yield from ((file, file.relative_to(path)) for file in files)
    elif not os.path.exists(text) and (matches := sorted(glob.glob(_pattern(text), recursive=True))):  # noqa: PTH110 - as above
        for match in matches:
            yield from _images(match, out)
    else:
        yield path, Path(path.name or "image")


def _pattern(text: str) -> str:
    """Return a pattern for `glob`, in which folders that are called so are meant, such as "trip [1]"."""
    place, parts = Path(), list(Path(text).parts)
    for number, part in enumerate(parts):
        place /= part
        if not os.path.lexists(place):  # from here on the pattern counts; never raises, as above
            break
        parts[number] = glob.escape(part)
    return os.path.join(*parts) if parts else text  # noqa: PTH118 - Path would drop what a pattern ends in


def _is_result(file: Path, folder: Path, out: Path) -> bool:
    """Tell whether a file of a folder is a result of ours, below an output folder inside it."""
    # os.path.realpath and not Path.resolve, which raises at a link that leads to itself.
    top, results, place = (Path(os.path.realpath(path)) for path in (folder, out, file))
    return top in results.parents and results in place.parents


def _stem(place: Path) -> str:
    """Drop the ending, and what file systems may not tell apart: "A.jpg" and "a.png" want two results."""
    return str(place.with_suffix("")).casefold()


def _refusal(path: Path, found: str, advice: str) -> OutputError:
    done = "nothing was computed or written"
    return OutputError(asked=f"write {path}", found=found, done=done, advice=advice, path=path)
