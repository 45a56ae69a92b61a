"""What a manifest says of a version's judges."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tracemill.pipelines.judging.calibrate import Measured
from tracemill.pipelines.judging.judges import Judge, judges_of, plain_judges
from tracemill.pipelines.versions.dataset import Dataset
from tracemill.pipelines.versions.manifest import MadeFrom

if TYPE_CHECKING:
    from tracemill.pipelines.plan import Plan


def judging_facts(plan: "Plan", measured: Sequence[Measured] | None) -> MadeFrom:
    """`judged`: whose word decided about rows; `calibration`: how often it was right. Nothing where nobody judges."""
    judges = judges_of(plan)
    facts = MadeFrom()
    if judges:
        facts["judged"] = plain_judges(judges, [found.cases.plugin for found in measured or ()])
    if measured:
        facts["calibration"] = [found.plain(_models(plan, judges, found)) for found in measured]
    return facts


def _models(plan: "Plan", judges: Sequence[Judge], measured: Measured) -> dict[str, str]:
    plugin = measured.cases.plugin
    judging = next((judge.roles for judge in judges if judge.plugin is plugin), tuple(plugin.needs()))
    return {role: plan.roles[role].model.name for role in judging if role in plan.roles}


def inherited(parents: Sequence[Dataset]) -> list[dict[str, Any]]:
    """What versions that are sources say of their judges: their rows came here, and what was turned down there did not."""
    return [
        {**judge, "of": judge.get("of", str(parent))}
        for parent in dict.fromkeys(parents)
        for judge in parent.manifest().get("judged", ())
    ]
