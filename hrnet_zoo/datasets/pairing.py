"""Images and the label files that belong to them: found by their names, and never by a guess."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

# Which files of a folder are meant as images; of files named one by one, the content decides.
SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".avif"),
    }
)
# Photographs of formats that are not read: Apple's and Canon's HEIF, JPEG 2000, JPEG XL, and camera raw.
UNREAD_SUFFIXES = frozenset(
    {
        *(".heic", ".heif", ".hif", ".jp2", ".j2k", ".jpx", ".jpf", ".jxl", ".dng", ".cr2", ".cr3", ".crw", ".nef"),
        *(".nrw", ".arw", ".srf", ".sr2", ".raf", ".orf", ".rw2", ".pef", ".srw", ".x3f", ".3fr", ".iiq", ".raw"),
    }
)
UNREAD = "photograph of a format that is not read"
_JUNK = frozenset({"thumbs.db", "desktop.ini", "__macosx"})  # left by desktops; dot files are left out anyway
# What people add to the names of images and masks.
_ADDED_AFTER = re.compile(
    r"(?<=.)[ ._-]+(?:gtfine_labeltrainids|gtfine_labelids|leftimg8bit|labeltrainids|labelids|trainids|segmentation"
    r"|annotations?|labels?|masks?|images?|img|seg|gt|rgb)$"
)
_ADDED_BEFORE = re.compile(r"^(?:images?|img|masks?|labels?|seg|gt)(?:[ ._-]+(?=.)|(?=\d))")


@dataclass(frozen=True)
class Sample:
    """An image and its labels.

    Attributes:
        name: short and unique within a folder, such as "lindau/lindau_000000_000019".
        image: path of the image.
        labels: path of the label file.

    """

    name: str
    image: Path
    labels: Path


@dataclass(frozen=True)
class Problem:
    """Something that is wrong with a folder, or worth knowing.

    Attributes:
        kind: which of the known problems, in a few words.
        text: what it is about, as a sentence without its stop; "" where the kind says it.
        advice: the next step.
        files: every file concerned, relative to the folder, with what is particular to it (of classes, their names).
        error: False for a note, which spoils nothing.

    """

    kind: str
    text: str
    advice: str
    files: tuple[str, ...] = ()
    error: bool = True

    @property
    def found(self) -> str:
        """What was found: the text, how many, and the first five."""
        if not self.files:
            return self.text
        count, more = len(self.files), len(self.files) - 5
        names = ", ".join(self.files[:5]) + (f" and {more} more" if more > 0 else "")
        return (
            f"{self.text} ({count}: {names})" if self.text else f"{count} {'file' if count == 1 else 'files'}: {names}"
        )

    def __str__(self) -> str:
        return f"{self.kind}: {self.found}; {self.advice}"


Pairs: TypeAlias = tuple[list[Sample], list[Problem]]


def find_images(folder: Path, home: Path) -> tuple[list[Path], list[Problem]]:
    """List the image files at any depth below `folder`, by their names' endings.

    Links are followed, but no folder is entered twice. What is left out is told: hidden files and what desktops
    leave behind, photographs of formats that are not read, files that are no images, and folders that cannot be
    listed. Names are relative to `home`. Every command lists folders so.
    """
    images: list[Path] = []
    unread: list[Path] = []
    others: list[Path] = []
    hidden: list[str] = []
    closed: list[str] = []
    seen: set[str] = set()

    def refuse(error: OSError) -> None:
        closed.append(relative_name(Path(error.filename), home))

    for path, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(path)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        hidden += [relative_name(Path(path, name), home) for name in (*folders, *files) if _is_junk(name)]
        folders[:] = sorted(name for name in folders if not _is_junk(name))
        for name in files:
            if not _is_junk(name):
                suffix = Path(name).suffix.lower()
                kind = images if suffix in SUFFIXES else unread if suffix in UNREAD_SUFFIXES else others
                kind.append(Path(path, name))
    problems = [
        Problem("unreadable folder", "it cannot be listed", "check its permissions", tuple(sorted(closed))),
        Problem(UNREAD, "left out", "export it as JPEG or PNG", _names(unread, home), error=False),
        Problem("hidden file", "left out", "delete it if it is in the way", tuple(sorted(hidden)), error=False),
        Problem(
            "not an image",
            f"left out: the ending is none of {', '.join(sorted(SUFFIXES))}",
            "move it elsewhere",
            _names(others, home),
            error=False,
        ),
    ]
    return sorted(images), [problem for problem in problems if problem.files]


def relative_name(path: Path, home: Path) -> str:
    """Return the name of a file below `home` for people: with slashes, and printable even if it is not UTF-8."""
    return Path(os.path.relpath(path, home)).as_posix().encode(errors="backslashreplace").decode()


def stem(path: Path, folder: Path) -> str:
    """Return the name below `folder` without its ending, with slashes, in Unicode's composed form (NFC)."""
    return unicodedata.normalize("NFC", path.relative_to(folder).with_suffix("").as_posix())


def pair(
    images: Sequence[Path],
    labels: Sequence[Path],
    folders: tuple[Path, Path],
    home: Path,
    name: Callable[[Path, Path], str] = stem,
) -> Pairs:
    """Bring together images and label files (below `folders`) by name.

    First those whose names are equal but for the ending, upper and lower case, and Unicode's form; then, of the rest,
    those whose names are equal without the usual additions ("_mask", "img_", "_labelIds", ...). Where several would
    fit, none is taken.
    """
    samples: list[Sample] = []
    ambiguous: list[Path] = []
    rest = [
        [(name(path, folder), path) for path in paths] for paths, folder in zip((images, labels), folders, strict=True)
    ]
    for key in (str.casefold, _core):
        groups: dict[str, tuple[list[tuple[str, Path]], list[tuple[str, Path]]]] = {}
        for side, named in enumerate(rest):
            for each in named:
                groups.setdefault(key(each[0]), ([], []))[side].append(each)
        rest = [[], []]
        for group in groups.values():
            if len(group[0]) == len(group[1]) == 1:
                (title, image), (_, label) = group[0][0], group[1][0]
                samples.append(Sample(title, image, label))
            elif group[0] and group[1]:
                ambiguous += [path for side in group for _, path in side]
            else:
                for left, unpaired in zip(rest, group, strict=True):
                    left += unpaired
    problems = [
        Problem(
            "ambiguous names",
            "several files would pair up",
            "rename or move files until each image has one mask",
            _names(ambiguous, home),
        ),
        Problem(
            "image without mask",
            "no label file has its name",
            "add the mask, or take the image away",
            _names((path for _, path in rest[0]), home),
        ),
        Problem(
            "mask without image",
            "no image has its name",
            "add the image, or take the mask away",
            _names((path for _, path in rest[1]), home),
        ),
    ]
    samples.sort(key=lambda sample: sample.name)
    return samples, [problem for problem in problems if problem.files]


def only(
    members: Sequence[str], files: tuple[list[Path], list[Path]], folders: tuple[Path, Path]
) -> tuple[list[Path], list[Path], list[Problem]]:
    """Return those of the images and of the label files (below `folders`) whose names are listed."""
    wanted = set(members)
    images, labels = (
        [path for path in paths if stem(path, folder) in wanted] for paths, folder in zip(files, folders, strict=True)
    )
    there = {stem(path, folders[0]) for path in images} | {stem(path, folders[1]) for path in labels}
    absent = tuple(name for name in dict.fromkeys(members) if name not in there)
    problem = Problem(
        "listed file missing", "neither image nor label file is there", "unpack the dataset wholly", absent
    )
    return images, labels, [problem] if absent else []


def cityscapes_name(path: Path, folder: Path) -> str:
    """Return "city/city_000000_000000" for an image or a label file of Cityscapes."""
    return re.sub(r"_(leftImg8bit|gtFine_label(Train)?Ids)$", "", stem(path, folder))


def one_kind(
    labels: Sequence[Path], folder: Path, home: Path, *, official: bool = True
) -> tuple[list[Path], str, list[Problem]]:
    """Choose between the labelIds and the labelTrainIds files of Cityscapes.

    Those with official ids are chosen if every image has them; for classes of one's own (not `official`), the others.

    Returns:
        One file for each image, the ending of the kind chosen, and what is wrong: files of the other kind then
        stand in where the chosen one is missing.

    """
    kinds = ("_labelIds", "_labelTrainIds") if official else ("_labelTrainIds", "_labelIds")
    first, second = (
        {cityscapes_name(path, folder): path for path in labels if path.stem.endswith(f"_gtFine{kind}")}
        for kind in kinds
    )
    if first.keys() >= second.keys():
        return list(first.values()), kinds[0], []
    if second.keys() >= first.keys():
        return list(second.values()), kinds[1], []
    others = [second[name] for name in second.keys() - first.keys()]
    problem = Problem(
        "mixed label kinds",
        "some images have labelIds alone, others labelTrainIds alone",
        "make one kind for all of them, and take the other away",
        _names(others, home),
    )
    return [*first.values(), *others], kinds[0], [problem]


def _core(name: str) -> str:
    """Return a relative name without the usual additions to its last part; "a.jpg_labels" gives "a"."""
    folder, slash, last = name.casefold().rpartition("/")
    core = _ADDED_BEFORE.sub("", _ADDED_AFTER.sub("", last))
    ending = Path(core).suffix
    return folder + slash + (core.removesuffix(ending) if ending in SUFFIXES else core)


def _is_junk(name: str) -> bool:
    return name.startswith(".") or name.lower() in _JUNK


def _names(paths: Iterable[Path], home: Path) -> tuple[str, ...]:
    return tuple(sorted(relative_name(path, home) for path in paths))
