"""Results -> one COCO file of many images, whose regions are kept as they are found."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from hrnet_zoo.errors import OutputError
from hrnet_zoo.images.atomic import atomic_write, output_errors
from hrnet_zoo.inference.annotations import as_json, coco_annotations, coco_categories
from hrnet_zoo.inference.result import SegmentationResult
from hrnet_zoo.inference.tables import TableWriter, check_target, one_line, rows_path

_COLUMNS = ("path", "width", "height", "classes", "annotations")


class CocoFile:
    """A COCO file of many images; a context manager, which completes the file if no error is raised within.

    JSON is readable only once it is complete, so each image is a row of a table beside the file until then.

    Attributes:
        place: the file that has the images.
        before: the number of images that it had.
        added: the number of images that were added.

    """

    def __init__(
        self, path: Path, classes: Sequence[str], *, min_area: int = 0, resume: bool = False, force: bool = False
    ) -> None:
        """Begin a file, or go on with one.

        Args:
            path: a .json; the images wait in the same name with .jsonl behind.
            classes: of the results.
            min_area: leave out regions with fewer pixels.
            resume: go on with the file if there is one.
            force: begin it anew if there is one.

        Raises:
            OutputError: the file exists, is none of ours, has other classes, is being written by another process, or
                cannot be read or written.

        """
        check_target(path, resume=resume, force=force)
        self._path, self._classes, self._min_area = path, list(classes), min_area
        self.place = self._rows = rows_path(path)
        if resume and path.exists() and not self._rows.exists():
            atomic_write(self._rows, self._unpacked())
        self._table = TableWriter(self._rows, _COLUMNS, resume=resume, force=force)
        if any(row["classes"] != self._classes for row in self._images()):
            self._table.__exit__(OutputError)
            raise self._refusal("it has other classes")
        self.before, self.added = len(self._table.done), 0

    def has(self, image: Path) -> bool:
        """Tell whether the file had this image when it was opened."""
        return self._table.has(image.as_posix())

    def add(self, image: Path, result: SegmentationResult) -> None:
        """Add the regions of an image."""
        height, width = result.mask.shape
        found = list(coco_annotations(result, self._min_area))
        values = (one_line(image.as_posix()), width, height, self._classes, found)
        self._table.append(dict(zip(_COLUMNS, values, strict=True)))
        self.added += 1

    def __enter__(self) -> CocoFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._table.__exit__(kind)
        if kind is None:
            atomic_write(self._path, self._packed())
            self.place = self._path
            self._rows.unlink()

    def _images(self) -> Iterator[dict[str, Any]]:
        with self._rows.open("rb") as rows:
            yield from map(json.loads, rows)

    def _packed(self) -> Iterator[bytes]:
        """Yield the file, of which one line is in memory at a time."""
        yield b'{"images": ['
        for number, row in enumerate(self._images(), start=1):
            image = {"id": number, "file_name": row["path"], "width": row["width"], "height": row["height"]}
            yield b",\n" * (number > 1) + as_json(image)
        yield b'],\n"categories": ' + as_json(coco_categories(self._classes)) + b',\n"annotations": [\n'
        total = 0
        for number, row in enumerate(self._images(), start=1):
            for annotation in row["annotations"]:
                total += 1
                yield b",\n" * (total > 1) + as_json({"id": total, "image_id": number, **annotation})
        yield b"\n]}\n"

    def _unpacked(self) -> Iterator[bytes]:
        """Yield the rows of a complete file."""
        with output_errors(self._path, f"read {self._path}", "nothing was changed", "check the permissions"):
            text = self._path.read_bytes()
        try:
            facts = json.loads(text)
            if facts.keys() != {"images", "categories", "annotations"}:
                raise ValueError("it has other members")
            if facts["categories"] != coco_categories(self._classes):
                raise ValueError("it has other classes")
            found: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in facts["images"]}
            for annotation in facts["annotations"]:
                del annotation["id"]
                found[annotation.pop("image_id")].append(annotation)
            for image in facts["images"]:
                values = (image["file_name"], image["width"], image["height"], self._classes, found[image["id"]])
                yield as_json(dict(zip(_COLUMNS, values, strict=True))) + b"\n"
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise self._refusal(f"it is damaged, or none of ours: {error}") from error

    def _refusal(self, found: str) -> OutputError:
        return OutputError(
            asked=f"go on with {self._path}",
            found=found,
            done="nothing was computed or changed",
            advice="use the model and the options it was begun with, or name another file; --force replaces it",
            path=self._path,
        )
