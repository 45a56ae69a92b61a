"""Step trees: a search over the steps of a problem's solutions, and how good the model's chances are after each of them.

    search      grows a tree by                                     labels a step by
    omega       binary search for the first wrong step (OmegaPRM)   rollouts from the prefixes that it probes
    shepherd    some whole solutions (Math-Shepherd)                rollouts from every prefix of them
    bfs         expanding every node (HRM's released code)          the share of right leaves below it

`nodes` has a row a step, whatever the search, `trees` a row a problem; `rows` are a process reward model's, `pairs` sibling steps and
`values` the labels of ReST-MCTS*. A label is worth what the model makes of a prefix. It is no judgement of the step.
"""

from collections.abc import Mapping
from dataclasses import fields
from fractions import Fraction
from typing import Any, Literal

from tracemill.schemas.plugins import Engine
from tracemill.schemas.rows import Outcome, Problem, Rejection
from tracemill.synth.prompts import check_prompt, check_temperature, shown
from tracemill.synth.step_tree import bfs, omega, shepherd
from tracemill.synth.step_tree.evidence import Rule
from tracemill.synth.step_tree.hnc import RATE, Order
from tracemill.synth.step_tree.interval import MOST, wrong_enough
from tracemill.synth.step_tree.labels import finish, mark_first_errors
from tracemill.synth.step_tree.layout import Layout, Steps
from tracemill.synth.step_tree.pairs import EDITS, MARGIN
from tracemill.synth.step_tree.rows import ROW_COLUMNS, ROW_TABLES, Rules, check_rules, outcome_of, tree_flag
from tracemill.synth.step_tree.search import Search as Tree
from tracemill.synth.step_tree.search import Spent
from tracemill.synth.step_tree.tables import TABLES as TREE_TABLES
from tracemill.synth.step_tree.tables import node_rows, tree_row

NEEDS = {"solver": ("complete", "prefix")}
COLUMNS = ROW_COLUMNS
TABLES: Mapping[str, Mapping[str, Any]] = {**TREE_TABLES, **ROW_TABLES}

Searches = Literal["omega", "shepherd", "bfs"]
Rollouts = Literal["adaptive", "fixed"]

OWN: Mapping[str, Mapping[str, int]] = {
    "omega": {"prefilter": omega.PREFILTER, "search_limit": omega.SEARCH_LIMIT},
    "shepherd": {"solutions": shepherd.SOLUTIONS},
    "bfs": {"branching": bfs.BRANCHING, "height": bfs.HEIGHT},
}
"""The options of each search, with their values where a recipe is silent."""
ADAPTIVE: Mapping[str, float] = {"min_value": 0.4, "most": 64}
"""0 of 8, which the papers call 0, brings the upper end to 0.39. Not in the papers; our defaults."""


def check(
    *,
    search: str,
    rollouts: str,
    k: int | None,
    prompt: str | None,
    temperature: float | None,
    threshold: float,
    confidence: float,
    max_tokens_per_problem: int | None,
    **given: Any,
) -> None:
    """Raise ValueError for options that cannot work, or that the chosen search does not know."""
    if prompt is not None:
        check_prompt(prompt)
    check_temperature(temperature)
    _check_searches(search, {name: given[name] for own in OWN.values() for name in own})
    _check_rollouts(search, rollouts, {"k": k, **{name: given[name] for name in ADAPTIVE}})
    for name, idle in (
        ("rollouts", rollouts == "adaptive"),
        ("threshold", not threshold),
        ("confidence", confidence == 0.95),
    ):
        if search == "bfs" and not idle:
            raise ValueError(f"{name}: search = 'bfs' draws no rollouts; take it out")
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold = {threshold}: a share from 0 to below 1")
    if not 0.5 <= confidence < 1:
        raise ValueError(f"confidence = {confidence}: a share from 0.5 to below 1, such as 0.95")
    if threshold and given["min_value"] is not None:
        raise ValueError(f"min_value decides where threshold = 0; with threshold = {threshold} take it out")
    _check_reach(_rule(rollouts, k, given["min_value"], given["most"], threshold, confidence))
    if max_tokens_per_problem is not None and max_tokens_per_problem < 1:
        raise ValueError(f"max_tokens_per_problem = {max_tokens_per_problem}: at least 1 token, or leave it out")
    check_rules(_rules(given))


def _check_searches(search: str, given: Mapping[str, int | None]) -> None:
    for name, value in given.items():
        if value is None:
            continue
        if name not in OWN[search]:
            owner = next(other for other, own in OWN.items() if name in own)
            raise ValueError(
                f"{name} belongs to search = {owner!r}; search = {search!r} takes: {', '.join(OWN[search])}"
            )
        if value < 1:
            raise ValueError(f"{name} = {value}: at least 1")
        if name in ("prefilter", "solutions") and value > MOST:
            raise ValueError(f"{name} = {value}: solutions of a problem, 1 to {MOST}")


def _check_rollouts(search: str, rollouts: str, given: Mapping[str, float | None]) -> None:
    for name, value in given.items():
        if value is None:
            continue
        if search == "bfs":
            raise ValueError(f"{name}: search = 'bfs' draws no rollouts; take it out")
        if (name == "k") != (rollouts == "fixed"):
            raise ValueError(f"{name} belongs to rollouts = {'fixed' if name == 'k' else 'adaptive'!r}; take it out")
        if name != "min_value" and not 1 <= value <= MOST:
            raise ValueError(f"{name} = {value}: rollouts of a prefix, 1 to {MOST}")
        if name == "min_value" and not 0 < value < 1:
            raise ValueError(f"min_value = {value}: a share between 0 and 1")


def _check_reach(rule: Rule) -> None:
    """A label 0 has to be within reach of `most` rollouts."""
    if rule.k is None and rule.threshold == 0:
        enough = wrong_enough(rule.min_value, rule.confidence)
        if enough is None or enough > rule.most:
            takes = f"more than {MOST}" if enough is None else str(enough)
            raise ValueError(
                f"min_value = {float(rule.min_value)} at confidence {float(rule.confidence)} takes {takes} rollouts without a right one, "
                f"and most = {rule.most}: raise one of the two"
            )


def _rule(
    rollouts: str, k: int | None, min_value: float | None, most: int | None, threshold: float, confidence: float
) -> Rule:
    return Rule(
        k=(k or shepherd.K) if rollouts == "fixed" else None,
        threshold=Fraction(str(threshold)),
        min_value=Fraction(str(ADAPTIVE["min_value"] if min_value is None else min_value)),
        confidence=Fraction(str(confidence)),
        most=int(ADAPTIVE["most"]) if most is None else most,
    )


def _rules(given: Mapping[str, Any]) -> Rules:
    return Rules(**{field.name: given[field.name] for field in fields(Rules)})


async def step_tree(
    problem: Problem,
    engine: Engine,
    *,
    search: Searches = "omega",
    steps: Steps = "headers",
    prompt: str | None = None,
    temperature: float | None = None,
    rollouts: Rollouts = "adaptive",
    k: int | None = None,
    min_value: float | None = None,
    most: int | None = None,
    threshold: float = 0.0,
    confidence: float = 0.95,
    max_tokens_per_problem: int | None = None,
    prefilter: int | None = None,
    search_limit: int | None = None,
    solutions: int | None = None,
    branching: int | None = None,
    height: int | None = None,
    hnc: bool = True,
    hnc_order: Order = "shuffled",
    hnc_rate: float = RATE,
    coarse: bool = True,
    test_coarse_on_hnc: bool = True,
    balance: bool = True,
    per_height: int = 5,
    one_label_rows: int = 5,
    test_share: float = 0.2,
    rest: bool = True,
    pairs: bool = True,
    pair_margin: float = MARGIN,
    pair_edits: int = EDITS,
    row_seed: int = 0,
) -> Outcome:
    """Grow the tree of a problem, label its steps, and make rows of them.

    `steps` says how the model writes them: `headers`, lines `# Step 1`, `# Step 2` and on, then `# Answer` and `# END!`; or `paragraphs`, for
    chat models, a blank line between steps. `prompt` asks for that in words of its own unless given; {question} stands for the problem.
    The model goes on from steps as a forced prefix. `temperature` is the model's own; 0.1 for `bfs`, as released.

    `omega` draws `prefilter` solutions (32) and turns a question down whose solutions are all right or all wrong; then it searches at most
    `search_limit` (100) wrong ones for their first error. `shepherd` draws `solutions` (15) and looks at every step. `bfs` expands every
    node into `branching` (5) children, `height` (5) steps deep. An option of another search is an error.

    `rollouts = "fixed"` draws `k` (8) from a prefix. `adaptive` draws until the hard label is clear: whether the value is above `threshold`.
    Above 0 it is with the first right solution; it is not once the interval's upper end is at most `min_value` (0.4, which 0 of 8 reaches).
    At `most` (64) the label stays unknown. Intervals hold with `confidence` whenever one stops. A problem that has cost
    `max_tokens_per_problem` is stopped, keeps what it has and says so in the table `trees`.

    Rows: `hnc` adds those of a compressed copy of the tree, in which a step and the one before it are joined with probability `hnc_rate`
    (`hnc_order = "reference"` asks siblings in order, as released), and `coarse` those of two steps at once (in the test split of
    the copy only with `test_coarse_on_hnc`). `balance` draws as many nodes of each label at a height as the rarest has, `per_height` where
    there is one label; a tree whose solutions are all right or all wrong gives `one_label_rows`. `test_share` of the questions are `test`, by
    hash. `rest` and `pairs` fill the tables `values` and `pairs`; pairs differ by `pair_margin` in Q and `pair_edits` characters.
    `row_seed` changes what is drawn here, and no tree.
    """
    given = dict(locals())
    messages = shown(problem, prompt or Layout(steps).prompt)
    rule = _rule(rollouts, k, min_value, most, threshold, confidence)
    own = {name: default if given[name] is None else given[name] for name, default in OWN[search].items()}
    if not await engine.verifiable(problem.gold):
        return Outcome(rejections=[(None, Rejection("unverifiable_gold", {"gold": problem.gold}))])
    tree = Tree(problem, engine, Layout(steps), messages, rule, temperature, max_tokens_per_problem)
    if search == "bfs" and temperature is None:
        tree.temperature = bfs.TEMPERATURE
    why, stopped = await _grown(tree, search, own)
    finish(tree, leaves=search == "bfs")
    if search == "shepherd":
        mark_first_errors(tree.root)
    return _outcome(tree, search, _rules(given), why, stopped)


async def _grown(tree: Tree, search: Searches, own: Mapping[str, int]) -> tuple[str | None, str | None]:
    """(why the problem gives no tree, why the search ended before its end)."""
    try:
        match search:
            case "omega":
                return await omega.omega(tree, **own)
            case "shepherd":
                return await shepherd.shepherd(tree, **own)
            case "bfs":
                return await bfs.bfs(tree, **own)
    except Spent:
        return None, "token_budget"


def _outcome(tree: Tree, search: Searches, rules: Rules, why: str | None, stopped: str | None) -> Outcome:
    """Rows and tables. A problem that is turned down leaves its tree in the tables, and no rows."""
    problem, root = tree.problem, tree.root
    made = Outcome(tables={name: [] for name in ROW_TABLES})
    if why is None:
        made = outcome_of(
            problem,
            root,
            rules=rules,
            prompt=tree.messages,
            model=tree.engine.model_name(),
            counter=tree.engine.counter(),
            counted="leaves" if search == "bfs" else "rollouts",
        )
    counts = {"correct": root.n_correct, "drawn": root.n_total, "undecided": root.n_undecided}
    rejections = made.rejections if why is None else [(None, Rejection(why, counts))]
    turned_down = next((reason.reason for trace, reason in rejections if trace is None), None)
    outcome = turned_down or tree_flag(root) or "ok"
    tables = {
        **made.tables,
        "nodes": list(node_rows(problem.problem_id, root)),
        "trees": [tree_row(tree, search, outcome, stopped)],
    }
    return Outcome(traces=made.traces, rejections=rejections, tables=tables)
