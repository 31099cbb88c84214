"""List the image files of a folder, and pair images with their masks by name."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

# Extensions of a folder's images. A file that is named itself is recognized by its content.
SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".avif"),
}
# Unsupported photographs: HEIF, JPEG 2000, JPEG XL, camera raw.
_UNSUPPORTED_SUFFIXES = {
    *(".heic", ".heif", ".hif", ".jp2", ".j2k", ".jpx", ".jpf", ".jxl", ".dng", ".cr2", ".cr3", ".crw", ".nef"),
    *(".nrw", ".arw", ".srf", ".sr2", ".raf", ".orf", ".rw2", ".pef", ".srw", ".x3f", ".3fr", ".iiq", ".raw"),
}
UNSUPPORTED = "unsupported photograph format"
# What to do with .npy files where RGB is expected, and with photographs where other bands are.
OTHER_BANDS = ("name the bands of .npy files (bands=, --bands)", "save images of these bands as TIFF or .npy")
_JUNK = {"thumbs.db", "desktop.ini", "__macosx"}
# Common affixes of image and mask names.
_NAME_SUFFIX = re.compile(
    r"(?<=.)[ ._-]+(?:gtfine_labeltrainids|gtfine_labelids|leftimg8bit|labeltrainids|labelids|trainids|segmentation"
    r"|annotations?|labels?|masks?|images?|img|seg|gt|rgb)$"
)
_NAME_PREFIX = re.compile(r"^(?:images?|img|masks?|labels?|seg|gt)(?:[ ._-]+(?=.)|(?=\d))")


@dataclass(frozen=True)
class Sample:
    """An image and its mask."""

    name: str  # unique within the folder, such as "lindau/lindau_000000_000019"
    image: Path
    labels: Path


@dataclass(frozen=True)
class Problem:
    """Something wrong with a folder, or worth knowing.

    Attributes:
        kind: the kind of problem, in a few words.
        text: details; "" if the kind says it all.
        advice: the next step.
        files: all files concerned, relative to the folder and with their own details; for classes, their names.
        error: False for a note, which does not stop `evaluate` or `finetune`.

    """

    kind: str
    text: str
    advice: str
    files: tuple[str, ...] = ()
    error: bool = True

    @property
    def found(self) -> str:
        """The text, the number of files, and the first five of them."""
        if not self.files:
            return self.text
        count = len(self.files)
        names = ", ".join(self.files[:5]) + (f" and {count - 5} more" if count > 5 else "")
        if self.text:
            return f"{self.text} ({count}: {names})"
        return f"{count} {'file' if count == 1 else 'files'}: {names}"

    def __str__(self) -> str:
        return f"{self.kind}: {self.found}; {self.advice}"


def find_images(
    folder: Path, home: Path, suffixes: Collection[str] = frozenset(SUFFIXES)
) -> tuple[list[Path], list[Problem]]:
    """List the image files at any depth below `folder`, and what was skipped, by their extensions.

    Links are followed, but no folder is entered twice. Hidden files and those of desktops are ignored.
    Problems name files relative to `home`.
    """
    images: list[Path] = []
    unsupported: list[Path] = []
    others: list[Path] = []
    closed: list[Path] = []
    visited: set[str] = set()
    for path, folders, files in os.walk(folder, onerror=lambda error: closed.append(error.filename), followlinks=True):
        real = os.path.realpath(path)
        folders[:] = [] if real in visited else sorted(name for name in folders if not _is_junk(name))
        for name in files if real not in visited else []:
            if not _is_junk(name):
                suffix = Path(name).suffix.lower()
                kind = images if suffix in suffixes else unsupported if suffix in _UNSUPPORTED_SUFFIXES else others
                kind.append(Path(path, name))
        visited.add(real)
    names_bands = ".npy" in suffixes
    unexpected = SUFFIXES if names_bands else {".npy"}
    is_other = any(path.suffix.lower() in unexpected for path in others)
    advice = OTHER_BANDS[names_bands] if is_other else "move it elsewhere"
    not_one = f"skipped: the extension is none of {', '.join(sorted(suffixes))}"
    problems = [
        Problem("unreadable folder", "it cannot be listed", "check its permissions", _names(closed, home)),
        Problem(UNSUPPORTED, "skipped", "export it as JPEG or PNG", _names(unsupported, home), error=False),
        Problem("not an image", not_one, advice, _names(others, home), error=False),
    ]
    return sorted(images), [problem for problem in problems if problem.files]


def relative_name(path: Path, home: Path) -> str:
    """Return a path relative to `home`, with slashes, and printable even if it is not UTF-8."""
    return Path(os.path.relpath(path, home)).as_posix().encode(errors="backslashreplace").decode()


def stem(path: Path, folder: Path) -> str:
    """Return the path relative to `folder` without its extension, with slashes and in Unicode form NFC."""
    return unicodedata.normalize("NFC", path.relative_to(folder).with_suffix("").as_posix())


def pair(
    images: list[tuple[str, Path]], labels: list[tuple[str, Path]], home: Path
) -> tuple[list[Sample], list[Problem]]:
    """Pair images and masks by the names given with them.

    Names that differ only in case are paired first, then those that are equal without the usual affixes ("_mask",
    "img_", "_labelIds", ...). Where several files match, none is paired.
    """
    samples: list[Sample] = []
    ambiguous: list[Path] = []
    keys: tuple[Callable[[str], str], ...] = (str.casefold, _core)
    for key in keys:
        groups: dict[str, tuple[list[tuple[str, Path]], list[tuple[str, Path]]]] = {}
        for side, named in enumerate((images, labels)):
            for each in named:
                groups.setdefault(key(each[0]), ([], []))[side].append(each)
        images, labels = [], []
        for some, masks in groups.values():
            if len(some) == len(masks) == 1:
                samples.append(Sample(*some[0], masks[0][1]))
            elif some and masks:
                ambiguous += [path for _, path in (*some, *masks)]
            else:
                images += some
                labels += masks
    alone, orphans = ([path for _, path in named] for named in (images, labels))
    one_each = "rename or move files until each image has one mask"
    problems = [
        Problem("ambiguous names", "several files match", one_each, _names(ambiguous, home)),
        Problem("image without mask", "no mask has its name", "add the mask, or remove the image", _names(alone, home)),
        Problem(
            "mask without image", "no image has its name", "add the image, or remove the mask", _names(orphans, home)
        ),
    ]
    return sorted(samples, key=lambda sample: sample.name), [problem for problem in problems if problem.files]


def _core(name: str) -> str:
    """Return a relative name without the usual affixes: "a" for "a.jpg_labels"."""
    folder, slash, last = name.casefold().rpartition("/")
    core = _NAME_PREFIX.sub("", _NAME_SUFFIX.sub("", last))
    ending = Path(core).suffix
    return folder + slash + (core.removesuffix(ending) if ending in SUFFIXES else core)


def _is_junk(name: str) -> bool:
    return name.startswith(".") or name.lower() in _JUNK


def _names(paths: Iterable[Path], home: Path) -> tuple[str, ...]:
    return tuple(sorted(relative_name(path, home) for path in paths))
