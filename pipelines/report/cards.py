"""The pictures of a version's own card, drawn before it is committed: without a browser, and of equal facts the equal bytes."""

from collections.abc import Iterator

from tracemill.pipelines.cards.card import CardPicture
from tracemill.pipelines.report.charts import Chart
from tracemill.pipelines.report.draw import standing_alone
from tracemill.pipelines.report.facts import Facts, facts_of
from tracemill.pipelines.report.methods import method_charts
from tracemill.pipelines.report.sections import accuracy_chart, funnel_chart, lengths_chart
from tracemill.pipelines.versions.dataset import Dataset

FOLDER = "pictures"


def card_pictures(dataset: Dataset) -> list[tuple[CardPicture, str]]:
    """What a card shows, with the file of each; RecipeError where matplotlib is not installed."""
    return [
        (CardPicture(path=f"{FOLDER}/{chart.name}.svg", title=chart.title, said=chart.said), standing_alone(chart))
        for chart in _charts(facts_of(dataset, examples=0))
    ]


def _charts(facts: Facts) -> Iterator[Chart]:
    if (funnel := funnel_chart(facts)) is not None:
        yield funnel
    if facts.lengths is not None:
        yield lengths_chart(facts)
    if (accuracy := accuracy_chart(facts)) is not None:
        yield accuracy
    if summary := facts.manifest.get("summary"):
        yield from (chart for chart, _ in method_charts(summary))
