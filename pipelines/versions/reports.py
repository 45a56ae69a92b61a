"""Where reports stand: `<store>/.reports/<name>/<version>.html`, outside of the versions, which never change once they stand.

A version is named by its content and published as it is; its report can be made anew at any time, by a later release too, so it is
no part of it. A kill between the two leaves a whole store without a report.
"""

from collections.abc import Iterator
from pathlib import Path

from tracemill.pipelines.versions.dataset import VERSION, Dataset, check_name
from tracemill.pipelines.versions.durable import watch_disk, write_whole

FOLDER = ".reports"


def place_of(root: Path, dataset: Dataset) -> Path:
    """The file of a version's report, which may not be there."""
    check_name(dataset.name)
    return root / FOLDER / dataset.name / f"{dataset.version}.html"


def write_beside(root: Path, dataset: Dataset, page: str) -> Path:
    """Write a version's report, in place of the one that was there."""
    file = place_of(root, dataset)
    with watch_disk(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, page)
    return file


def without_version(root: Path) -> Iterator[Path]:
    """Reports of versions that are gone. What else stands there is not ours, or is just being written."""
    for file in sorted((root / FOLDER).glob("*/*.html")):
        if VERSION.fullmatch(file.stem) and not (root / file.parent.name / file.stem).is_dir():
            yield file
