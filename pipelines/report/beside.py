"""Where reports stand: `<store>/.reports/<name>/<version>.html`, outside of the versions, which never change once they stand.

A version is named by its content and published as it is; its report can be made anew at any time, by a later release too, so it is
no part of it. A kill between the two leaves a whole store without a report.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tracemill.pipelines.report.draw import NEEDS, can_draw
from tracemill.pipelines.store import Store
from tracemill.pipelines.versions.dataset import VERSION, Dataset, check_name, reading
from tracemill.pipelines.versions.durable import watch_disk, write_whole

if TYPE_CHECKING:
    from tracemill.pipelines.build import Built
    from tracemill.schemas.recipe import Recipe

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


def with_report(built: "Built", recipe: "Recipe", store: Store) -> "Built":
    """The build with its report written. One that cannot be made is a note: the version stands already."""
    if not recipe.report.write:
        return built
    if not can_draw():
        said = any(NEEDS in note for note in built.notes)
        return built if said else replace(built, notes=(*built.notes, f"no report was written: {NEEDS}"))
    from tracemill.pipelines.report.report import report

    try:
        with reading(built.dataset):
            return replace(built, report=write_beside(store.root, built.dataset, report(built.dataset)))
    except Exception as error:  # noqa: BLE001 - whatever is wrong with a picture, the version is not lost
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        return replace(
            built,
            notes=(*built.notes, f"no report was written ({why}); `tracemill report {built.dataset}` tries again"),
        )


def without_version(root: Path) -> Iterator[tuple[Path, str]]:
    """Reports of versions that are gone, and what else stands among them that nobody reads."""
    for file in sorted((root / FOLDER).glob("*/*")):
        version = file.name.removesuffix(".html")
        if file.name.startswith("."):
            yield file, "half a report, of a process that is gone"
        elif VERSION.fullmatch(version) and file.suffix == ".html" and not (root / file.parent.name / version).is_dir():
            yield file, "the report of a version that is gone"
