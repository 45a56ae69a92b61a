"""The report that a build leaves beside its version."""

from dataclasses import replace
from typing import TYPE_CHECKING

from tracemill.pipelines.report.draw import NEEDS, can_draw
from tracemill.pipelines.store import Store
from tracemill.pipelines.versions.dataset import reading
from tracemill.pipelines.versions.reports import write_beside

if TYPE_CHECKING:
    from tracemill.pipelines.build import Built
    from tracemill.schemas.recipe import Recipe


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
