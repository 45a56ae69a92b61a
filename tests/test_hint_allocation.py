"""The fewest rollouts: decisions that equal the full protocol's, whatever the order of arrival, and what is never drawn."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hint_policies import FAMILIES, World, luck, world, worlds
from tracemill.synth.hints import allocation as rounds
from tracemill.synth.hints import hints
from tracemill.synth.hints.allocation import measure
from tracemill.synth.hints.certain import certain
from tracemill.synth.hints.outcomes import AT_MOST
from tracemill.synth.hints.predictive import ACCURACY, Completions, Luck, binomials, pick, prior
from tracemill.synth.hints.strategies import (
    Config,
    Count,
    Rules,
    Table,
    choose,
    configs_needed,
    first_stage,
)

DECIDE = ("max_score", "s_loo", "t_loo", "css")


@dataclass
class Draws:
    """A policy's verdicts by number, after a wait by luck; it remembers what was asked and fails on a draw asked twice."""

    world: World
    salt: str = ""
    arrival: int = 0
    asked: dict[Config, list[int]] = field(default_factory=dict)

    async def __call__(self, config: Config, start: int, n: int) -> list[str]:
        wanted = list(range(start, start + n))
        assert not set(wanted) & set(self.asked.setdefault(config, []))
        self.asked[config] += wanted
        if self.arrival:
            await asyncio.sleep(random.Random(f"{self.arrival}{config}{start}").random() / 500)
        return self.world.draws(config, start, n, self.salt)

    @property
    def spent(self) -> int:
        return sum(map(len, self.asked.values()))


def measured(draws: Draws, **options: object) -> dict[Config, Count]:
    return asyncio.run(measure(draws.world.n, draws, seed_key=draws.world.name, **options))  # type: ignore[arg-type]


def test_fixed_draws_all_that_the_full_protocol_needs_and_nothing_else():
    draws = Draws(world("additive", 5, 1))
    table = measured(draws, allocation="fixed", m=8)
    assert configs_needed(5, ["css"], table, rules=Rules(m=8)) == []
    assert all(sorted(numbers) == list(range(8)) for numbers in draws.asked.values())
    second = set(table) - set(first_stage(5))
    assert second == set(configs_needed(5, ["css"], {c: table[c] for c in first_stage(5)}, rules=Rules(m=8)))


def test_a_strategy_that_is_not_asked_for_draws_nothing():
    assert measured(Draws(world("additive", 5, 1)), strategies=("none", "all")) == {}
    alone = measured(Draws(world("redundant", 5, 1)), strategies=("max_score",), allocation="fixed", m=8)
    assert set(alone) == set(first_stage(5))


def test_cbrs_draws_runs_of_their_own_after_the_first():
    draws = Draws(world("additive", 3, 3))
    table = measured(draws, strategies=("cbrs",), allocation="fixed", m=4)
    assert all(sorted(numbers) == list(range(32)) for numbers in draws.asked.values())
    first = measured(Draws(world("additive", 3, 3)), strategies=("max_score",), allocation="fixed", m=4)
    assert {config: (c.correct, c.total) for config, c in table.items()} == {
        config: (c.correct, c.total) for config, c in first.items()
    }


@pytest.mark.parametrize("strategy", [*DECIDE, "cbrs"])
@pytest.mark.parametrize("family", [*FAMILIES, "flat"])
def test_with_confidence_one_the_decision_is_the_full_protocols(strategy: str, family: str):
    for number in range(3):
        there = world(family, 2 + number, number)
        rules = Rules(m=10, runs=3)
        full = measured(Draws(there), strategies=(strategy,), allocation="fixed", rules=rules)
        draws = Draws(there)
        found = measured(draws, strategies=(strategy,), confidence=1.0, rules=rules)
        assert choose(strategy, there.n, found, rules=rules).kept == choose(strategy, there.n, full, rules=rules).kept


def test_draws_that_cannot_change_the_decision_are_left_out():
    solved = World(5, 30.0, (0.0,) * 5, name="solved")
    draws = Draws(solved)
    measured(draws, confidence=1.0)
    assert len(draws.asked[()]) == 32, "32 of 32 without hints cannot be beaten"
    assert draws.spent < 32 * 7 / 2


def test_a_clear_problem_takes_a_fraction_of_the_rollouts_and_is_decided_alike():
    hard = World(5, -20.0, (4.5,) * 5, name="each-one-matters")
    for there, kept in ((hard, (0, 1, 2, 3, 4)), (World(5, 3.0, (-3.0,) * 5, name="hints-hurt"), ())):
        draws = Draws(there)
        found = measured(draws, confidence=0.9)
        assert choose("css", 5, found).kept == kept
        assert draws.spent < 32 * 7 / 2


def agreement(confidence: float, number: int) -> tuple[float, float]:
    """The share of problems decided as by the full protocol on the same draws, and of its rollouts."""
    same, spent, full = 0, 0, 0
    for there in worlds(number, start=500):
        one, other = Draws(there), Draws(there)
        found = measured(one, confidence=confidence)
        reference = measured(other, allocation="fixed")
        same += choose("css", there.n, found).kept == choose("css", there.n, reference).kept
        spent, full = spent + one.spent, full + other.spent
    return same / number, spent / full


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_is_right_as_often_as_it_says():
    for confidence in (0.7, 0.9):
        same, spent = agreement(confidence, 120)
        assert same > confidence - 2.5 * (confidence * (1 - confidence) / 120) ** 0.5
        assert spent < 0.75


@pytest.mark.parametrize("number", [3, 10, 17])
def test_the_order_in_which_verdicts_arrive_changes_nothing(number: int):
    there = worlds(24)[number]
    calm = Draws(there)
    expected = measured(calm, confidence=0.8)
    for arrival in (1, 2, 3):
        late = Draws(there, arrival=arrival)
        assert measured(late, confidence=0.8) == expected
        assert {c: sorted(n) for c, n in late.asked.items()} == {c: sorted(n) for c, n in calm.asked.items()}


def test_more_confidence_goes_on_from_the_same_draws():
    there = worlds(24)[5]
    spent: list[Mapping[Config, list[int]]] = []
    for confidence in (0.6, 0.8, 0.95, 1.0):
        draws = Draws(there)
        measured(draws, confidence=confidence)
        spent.append(draws.asked)
    for fewer, more in pairwise(spent):
        assert all(set(numbers) <= set(more[config]) for config, numbers in fewer.items())


def test_a_larger_m_draws_only_the_difference():
    there = world("conflicting", 3, 4)
    few, many = Draws(there), Draws(there)
    measured(few, allocation="fixed", m=8)
    measured(many, allocation="fixed", m=16)
    assert all(set(few.asked[c]) <= set(many.asked[c]) for c in first_stage(3))


def test_undecided_verdicts_are_counted_inside_the_total():
    async def shrug(config: Config, start: int, n: int) -> Sequence[str]:
        return ["undecided" if i % 2 else "different" for i in range(start, start + n)]

    table = asyncio.run(measure(3, shrug, allocation="fixed", m=4))
    assert set(table.values()) == {Count(0, 4, 2)}
    assert choose("css", 3, table).all_zero


@pytest.mark.parametrize(
    ("options", "word"),
    [({"m": 0}, "m = 0"), ({"confidence": 0.4}, "confidence = 0.4"), ({"allocation": "some"}, "'some'")],
)
def test_options_that_cannot_work_say_what_can(options: Mapping[str, object], word: str):
    with pytest.raises(ValueError, match=word):
        measured(Draws(world("additive", 3, 0)), **options)


async def coin(config: Config, start: int, n: int) -> list[str]:
    return ["equal" if luck(f"{config}{i}") < 0.5 else "different" for i in range(start, start + n)]


def test_thirty_points_are_settled_stage_by_stage():
    table = asyncio.run(measure(30, coin, m=3, confidence=0.6))
    assert set(first_stage(30)) <= set(table)
    assert set(choose("css", 30, table, rules=Rules(m=3)).kept) <= set(range(30))


def test_up_to_how_many_points_rollouts_are_left_out_is_what_guide_and_option_say():
    for n, less in ((AT_MOST, True), (AT_MOST + 1, False)):
        draws = Draws(World(n, 30.0, (0.0,) * n, name="solved"))
        measured(draws, strategies=("max_score",))
        assert (draws.spent < 32 * (n + 2)) == less
    guide = (Path(__file__).resolve().parent.parent / "docs" / "hints.md").read_text(encoding="utf-8")
    assert f"Above {AT_MOST} points everything is drawn" in guide
    assert f"for problems of {AT_MOST} points at most" in " ".join(str(hints.__doc__).split())


# ---- what is certain


def ended(n: int, table: Table, strategy: str, rules: Rules, tosses: random.Random) -> Config:
    """What is kept when the missing draws fall as they may."""
    whole = dict(table)
    while missing := configs_needed(n, [strategy], whole, rules=rules):
        for config in missing:
            had = whole.get(config, Count(0, 0))
            runs = [had, *had.runs, *[Count(0, 0)] * rules.runs][: rules.runs if strategy == "cbrs" else 1]
            slant = tosses.choice((0, 0.5, 1))
            first, *more = (
                Count(r.correct + sum(tosses.random() < slant for _ in range(rules.m - r.total)), rules.m) for r in runs
            )
            whole[config] = Count(first.correct, rules.m, runs=tuple(more))
    return choose(strategy, n, whole, rules=rules).kept


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_what_is_called_certain_no_missing_draw_can_change(data: st.DataObject):
    strategy = data.draw(st.sampled_from([*DECIDE, "cbrs"]))
    n, m = data.draw(st.integers(1, 4)), 4
    rules = Rules(m=m, runs=2, tau=data.draw(st.integers(0, 1)), delta=data.draw(st.integers(0, 1)))

    def count(least: int) -> Count:
        total = data.draw(st.integers(least, m))
        return Count(data.draw(st.sampled_from(sorted({0, total // 2, total}))), total)

    table: dict[Config, Count] = {}
    for config in first_stage(n):
        had = count(1)
        table[config] = Count(had.correct, had.total, runs=(count(0),) if strategy == "cbrs" else ())
    if not certain(n, table, [strategy], rules):
        return
    kept = choose(strategy, n, table, rules=rules).kept
    tosses = random.Random(data.draw(st.integers(0, 1000)))
    assert {ended(n, table, strategy, rules, tosses) for _ in range(20)} == {kept}


def every_end(n: int, table: Table, strategy: str, rules: Rules) -> set[Config]:
    """All that may be kept, over every count that the missing draws can lead to, stage by stage."""
    missing = configs_needed(n, [strategy], table, rules=rules)
    if not missing:
        return {choose(strategy, n, table, rules=rules).kept}
    had = [table.get(config, Count(0, 0)) for config in missing]
    ends = product(*(range(count.correct, count.correct + rules.m - count.total + 1) for count in had))
    whole = ({c: Count(end, rules.m) for c, end in zip(missing, counts, strict=True)} for counts in ends)
    return set().union(*(every_end(n, {**table, **done}, strategy, rules) for done in whole))


@pytest.mark.parametrize(("strategy", "tau"), [("css", 0), ("css", 1), ("max_score", 0), ("s_loo", 0), ("t_loo", 0)])
def test_what_is_called_certain_holds_over_all_completions_of_small_tables(strategy: str, tau: int):
    rules, luck = Rules(m=2, tau=tau), random.Random(f"{strategy}{tau}")
    whole = [Count(correct, 2) for correct in range(3)]
    begun = [*whole, Count(0, 1), Count(1, 1)]
    called = 0
    for _ in range(1500):
        table = {config: luck.choice(begun if luck.random() < 0.5 else whole) for config in first_stage(3)}
        table |= {config: luck.choice(whole) for config in ((0,), (1,), (2,)) if luck.random() < 0.5}
        if certain(3, table, [strategy], rules) and configs_needed(3, [strategy], table, rules=rules):
            called += 1
            assert len(every_end(3, table, strategy, rules)) == 1, table
    assert called > 50


def test_which_removals_are_pruned_is_open_while_one_of_them_may_still_rise():
    table = {(): 0, (0, 1, 2): 0, (0, 2): 1, (0, 1): 0, (2,): 2, (1, 2): 1}
    counts = {config: Count(correct, 2) for config, correct in table.items()}
    assert certain(3, counts, ["css"], Rules(m=2))
    open_yet = {**counts, (1, 2): Count(1, 1)}
    assert every_end(3, open_yet, "css", Rules(m=2)) == {(1,), (2,)}
    assert not certain(3, open_yet, ["css"], Rules(m=2))


def test_certainty_is_seen_where_it_is():
    rules = Rules(m=4)
    table = {(): Count(0, 4), (0, 1): Count(4, 4), (1,): Count(0, 1), (0,): Count(0, 1)}
    assert certain(2, table, ["css", "max_score", "s_loo"], rules)
    assert not certain(2, {**table, (0,): Count(1, 1)}, ["max_score"], rules)


# ---- what is predicted


def test_the_prior_and_the_binomials_are_distributions():
    log, parts = prior()
    assert np.allclose(np.exp(log).sum(), 1)
    assert np.allclose(parts.sum(axis=1), 1)
    assert (ACCURACY[0], ACCURACY[-1]) == (0, 1)
    half = len(ACCURACY) // 2
    flat = binomials(4).reshape(5, len(ACCURACY), 5) - 2 * np.arange(5 * len(ACCURACY)).reshape(5, -1, 1)
    assert np.allclose(flat[4, half], [1 / 16, 5 / 16, 11 / 16, 15 / 16, 1])


def test_pick_inverts_a_distribution_function_in_its_row():
    flat = np.array([0.5, 1.0, 2.25, 3.0])
    rows, chance = np.array([0, 0, 1, 1]), np.array([0.49, 0.51, 0.2, 0.9])
    assert pick(flat, rows, 2, chance).tolist() == [0, 1, 0, 1]


def test_completions_keep_what_was_drawn_and_stay_within_m():
    table = {(): Count(2, 3), (0,): Count(0, 8), (0, 1): Count(5, 5), (1,): Count(4, 8)}
    tables = Completions(2, table, Rules(m=8), Luck("p", 500))
    cells = [(config, 0) for config in table]
    which, where = np.repeat(np.arange(4), 500), np.tile(np.arange(500), 4)
    missing = tables.missing(cells, which, where).reshape(4, 500)
    assert missing.max(axis=1).tolist()[1::2] == [0, 0]
    assert missing.min() == 0
    assert missing[0].max() <= 5
    assert missing[2].max() <= 3
    assert missing[2].mean() / 3 > missing[0].mean() / 5


def test_a_prediction_depends_on_the_problem_and_its_counts_alone():
    table = {c: Count(i, 4) for i, c in enumerate(first_stage(3))}
    backwards = dict(reversed(table.items()))
    one, other = (rounds.forecast(3, t, ["css"], Rules(), Luck("p", 200)) for t in (table, backwards))
    assert one.agree == other.agree
    assert one.weight == pytest.approx(other.weight)
