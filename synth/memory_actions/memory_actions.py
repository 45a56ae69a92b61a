"""LightThinker++: steps that are folded to notes as soon as they are done, looked up when they are needed, and folded again.

    question                            ->  B is 8 times 2: 8 * 2 = 16.
                                            commit: B = 16
    question, 1. A = 24, 2. B = 16      ->  expand: 1
    question, 1. A is 3 times 8: ...    ->  ...

Zhu et al. 2026 (arXiv:2604.03679), whose code was not out and of which we know the filters alone: protocol and prompt are our default. The
memory really hides what is folded: each step is a request of its own, made of the question and the notes as they stand. It is a folder,
since memory, filters and method are three things.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from tracemill.schemas.filling import fill
from tracemill.schemas.plugins import Engine
from tracemill.schemas.request import Completion, Message, Sampling
from tracemill.schemas.rows import Outcome, Problem, Rejection, Trace, Verdict, by_lot
from tracemill.synth.engine import together
from tracemill.synth.memory_actions import behaviour
from tracemill.synth.memory_actions.memory import Memory, Move, read_move
from tracemill.synth.prompts import check_prompt, check_temperature, earlier, worded
from tracemill.synth.sample import MOST

PROMPT = """\
Solve the problem one step at a time. You have a memory of numbered notes, one for each step that is done, and you are shown nothing else of \
your work. Reply with one move, whose last line is one of these:

commit: NOTE      behind one new step of reasoning; NOTE says in a few words what it found, and is all that you will see of it
expand: K         shows step K in full again
fold: K           shows its note alone again
answer: \\boxed{ANSWER}      once you are done, with all notes folded

Problem:
{question}

{notes}Your move:"""
NOTES = "Notes:\n{notes}\n\n"
# not stated in the paper; our defaults: steps of a trajectory, and how many of ten that only commit are kept
STEPS, COMMIT_ONLY = 40, 3


def check(*, n: int, steps: int, commit_only: float, prompt: str, notes: str, temperature: float | None) -> None:
    """Raise ValueError for options that cannot work."""
    if not 1 <= n <= MOST or not 2 <= steps <= 1000:
        raise ValueError(
            f"n = {n}, steps = {steps}: between 1 and {MOST:,} trajectories of each problem, and 2 to 1000 steps of one"
        )
    if not 0 <= commit_only <= 1:
        raise ValueError(
            f"commit_only = {commit_only}: the share that is kept of trajectories that only commit, from 0 to 1"
        )
    check_prompt(prompt)
    for name, text in (("prompt", prompt), ("notes", notes)):
        if "{notes}" not in text:
            raise ValueError(f"{name} = {text!r} has no place for the notes: write {{notes}} where they belong")
    check_temperature(temperature)


@dataclass(slots=True)
class Step:
    """One request and what it did."""

    context: str
    completion: Completion
    move: Move | None
    visible: int
    raw: int


@dataclass(slots=True)
class Trajectory:
    """All steps to the answer, or to where it went wrong."""

    number: int
    steps: list[Step] = field(default_factory=list)
    fault: str | None = None
    verdict: Verdict | None = None
    ops: list[str] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        return [step.move.note for step in self.steps if step.move is not None and step.move.action == "commit"]

    @property
    def suite(self) -> str | None:
        """Null where nothing was committed, or only one of expand and fold was used."""
        commits, expands, folds = behaviour.counts(self.ops)
        if not commits or bool(expands) != bool(folds):
            return None
        return "full" if expands else "commit_only"


async def memory_actions(
    problem: Problem,
    engine: Engine,
    *,
    n: int = 1,
    steps: int = STEPS,
    commit_only: float = COMMIT_ONLY / 10,
    prompt: str = PROMPT,
    notes: str = NOTES,
    temperature: float | None = None,
) -> Outcome:
    """Let the model solve each problem `n` times with a memory of notes, and make each step a row: what it saw, what it did.

    {question} and {notes} stand in `prompt`; in the place of the second comes `notes` with the numbered lines in it, and nothing where there are
    none yet. A reply has one line `commit: `, `expand: `, `fold: ` or `answer: `, and what stands before a commit is the step that it folds.

    A trajectory is turned down whole, each of its steps with the reason: a reply that is no move, cut off, or not a note that is there; no
    answer after `steps`; a wrong or undecided one; the faults of behaviour.py; a note that says the one before it again (`same_note`); no
    commit. Of those that only commit `commit_only` are kept, by hash, so that a model does not unlearn to do without looking up. Of a kept one, a step
    whose note is longer than itself is turned down alone.
    """
    if not await engine.verifiable(problem.gold):
        return Outcome(rejections=[(None, Rejection("unverifiable_gold", {"gold": problem.gold}))])
    went = await together(
        _went(problem, engine, number, steps, (prompt, notes), Sampling(temperature=temperature)) for number in range(n)
    )
    traces: list[Trace] = []
    rejections: list[tuple[Trace | None, Rejection]] = []
    table = []
    for trajectory in went:
        name = f"memory-{trajectory.number:04d}"
        fault, evidence = _fault(trajectory, f"{problem.problem_id}/{name}", commit_only)
        for number, step in enumerate(trajectory.steps):
            trace = _trace(problem, engine, trajectory, name, number, step)
            if fault is not None:
                rejections.append((trace, Rejection(fault, evidence)))
            elif step.move and step.move.action == "commit" and _longer(engine, step.move):
                rejections.append((trace, Rejection("longer_note", {"step": step.move.raw, "note": step.move.note})))
            else:
                traces.append(trace)
        table.append(_line(problem, trajectory, name, fault or "kept"))
    return Outcome(traces=traces, rejections=rejections, tables={"trajectories": table})


def _longer(engine: Engine, move: Move) -> bool:
    return engine.count_tokens(move.note) > engine.count_tokens(move.raw)


async def _went(
    problem: Problem, engine: Engine, number: int, most: int, templates: tuple[str, str], sampling: Sampling
) -> Trajectory:
    """One trajectory, step by step; what the model is shown is what the memory shows."""
    memory, way = Memory(), Trajectory(number)
    for at in range(most):
        context = _shown(problem, memory, *templates)
        asked = (*earlier(problem), Message(role="user", content=context))
        [reply] = await engine.sample(asked, start=number, scope="memory_actions", salt=str(at), sampling=sampling)
        visible = engine.count_tokens(context)
        read = "truncated" if reply.truncated else read_move(reply.text)
        move = None if isinstance(read, str) else read
        way.steps.append(Step(context, reply, move, visible, visible + memory.unfolded(engine.count_tokens)))
        if move is None:
            way.fault = str(read)
            return way
        way.fault = memory.apply(move)
        way.ops.append(move.op + (str(len(memory.entries)) if move.action == "commit" else ""))
        if move.action == "answer":
            way.verdict = await engine.verify(reply, problem.gold)
        if way.fault is not None or way.verdict is not None:
            return way
    way.fault = "no_answer"
    return way


def _shown(problem: Problem, memory: Memory, prompt: str, notes: str) -> str:
    """The prompt with the question and the memory in it; what stands in them is not read again."""
    remembered = fill(notes, notes=memory.notes()) if memory.entries else ""
    return fill(prompt, question=worded(problem), notes=remembered)


def _fault(trajectory: Trajectory, name: str, commit_only: float) -> tuple[str | None, dict[str, Any]]:
    """Why a trajectory is turned down, and what a person needs to agree."""
    evidence: dict[str, Any] = {"ops": " ".join(trajectory.ops), "steps": len(trajectory.steps)}
    if trajectory.fault is not None:
        return trajectory.fault, evidence | {"reply": trajectory.steps[-1].completion.text[-200:]}
    if trajectory.verdict is None or trajectory.verdict.correct is not True:
        verdict = trajectory.verdict
        undecided = verdict is None or verdict.correct is None
        return "undecided" if undecided else "wrong", evidence | {"answer": verdict.answer if verdict else None}
    commits, expands, folds = behaviour.counts(trajectory.ops)
    evidence |= {"commits": commits, "expands": expands, "folds": folds}
    if commits == 0:
        return "no_commit", evidence
    if (why := behaviour.fault(trajectory.ops)) is not None:
        return why, evidence
    if (again := behaviour.repeats(trajectory.notes)) is not None:
        return "same_note", evidence | {"notes": trajectory.notes[again - 2 : again]}
    if expands == 0 and not by_lot("commit_only", name, commit_only):
        return "commit_only", evidence
    return None, evidence


def _trace(problem: Problem, engine: Engine, way: Trajectory, name: str, number: int, step: Step) -> Trace:
    commits, expands, folds = behaviour.counts(way.ops)
    trace = Trace.of(  # the verdict is the trajectory's
        problem,
        step.completion,
        name=f"{name}-{number:02d}",
        prompt=(*earlier(problem), Message(role="user", content=step.context)),
        model=engine.model_name(),
        traj_id=f"{problem.problem_id}/{name}",
        step=number,
        context=step.context,
        target=step.completion.text,
        action=step.move.action if step.move else None,
        arg=step.move.arg if step.move else None,
        visible_tokens=step.visible,
        raw_tokens=step.raw,
        z=step.move.note if step.move and step.move.action == "commit" else None,
        n_com=commits,
        n_exp=expands,
        n_fld=folds,
        suite=way.suite,
    )
    return replace(trace, verdict=way.verdict)


def _line(problem: Problem, way: Trajectory, name: str, outcome: str) -> dict[str, Any]:
    commits, expands, folds = behaviour.counts(way.ops)
    return {
        "id": f"{problem.problem_id}/{name}",
        "problem_id": problem.problem_id,
        "ops": " ".join(way.ops),
        "steps": len(way.steps),
        "n_com": commits,
        "n_exp": expands,
        "n_fld": folds,
        "suite": way.suite,
        "outcome": outcome,
        "peak_visible": max(step.visible for step in way.steps),
        "peak_raw": max(step.raw for step in way.steps),
    }
