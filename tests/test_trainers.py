"""Exports against what trainers read: column lists with their source named, and, slow, the code of the trainers themselves."""

import ast
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.test_views import frame, problem, sample, turn, version
from tracemill.pipelines.export import export, lengths
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import FORMATS
from tracemill.schemas.tables import PROBLEMS, REJECTED, ROWS, SAMPLES, Talk, stored
from tracemill.schemas.views import MADE_OF, alpaca, openrlhf, sharegpt, trl_kto

Row = dict[str, Any]
TOOLS = json.dumps([{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}])
CALLS = [
    {"type": "function", "id": f"c{b}", "function": {"name": "add", "arguments": {"a": 6, "b": b}}} for b in (7, 8)
]
PLAIN = [turn("system", "Be brief."), turn("user", "6 + 7?"), turn("assistant", r"<think>hm</think>\boxed{13}")]
SEVERAL = [turn("user", "Hi"), turn("assistant", "Yes?"), turn("user", "Now:"), turn("user", "6 + 7?"), PLAIN[-1]]
CALLING = [
    turn("developer", "Use tools."),
    turn("user", "6 + 7, 6 + 8?"),
    {"role": "assistant", "content": "", "tool_calls": CALLS, "reasoning_content": "I call."},
    {"role": "tool", "content": "13", "tool_call_id": "c7"},
    {"role": "tool", "content": "14", "tool_call_id": "c8"},
    {"role": "assistant", "content": "Once more.", "tool_calls": CALLS[:1]},
    {"role": "tool", "content": "13", "tool_call_id": "c7", "name": "add"},
    PLAIN[-1],
]
READ: Mapping[str, tuple[str, ...]] = {
    "trl-sft": ("messages",),  # TRL 1.16, trl/trainer/sft_trainer.py
    "trl-dpo": ("prompt", "chosen", "rejected", "tools"),  # trl/trainer/dpo_trainer.py
    "trl-kto": ("prompt", "completion", "label", "tools"),  # trl/trainer/kto_trainer.py
    "trl-grpo": ("prompt", "solution"),  # trl/trainer/grpo_trainer.py, trl/rewards/accuracy_rewards.py
    "verl": ("data_source", "prompt", "reward_model", "extra_info"),  # verl 0.9.1, utils/dataset/rl_dataset.py
    "sharegpt": ("conversations", "system", "tools"),  # LLaMA-Factory 0.9.5, llamafactory/data/converter.py
    "alpaca": ("instruction", "input", "output", "system", "history", "tools"),  # the same
    "openrlhf": ("input", "output"),  # OpenRLHF 0.11.2, openrlhf/datasets/sft_dataset.py
}
"""What the loader of each format reads, and where its code says so."""


def talks(*conversations: list[Row], tools: str | None = None, folded: bool = False) -> dict[str, pl.LazyFrame]:
    """The chosen traces of a version, which hold these conversations."""
    rows = [
        {
            "id": f"t{i}",
            "problem_id": f"p{i}",
            "messages": [stored(said) for said in talk],  # type: ignore[arg-type]
            "tools": tools,
            "n_tokens": 8000 + 300 * i,
            "tokenizer": "tiny",
        }
        for i, talk in enumerate(conversations)
    ]
    seen = Talk()
    for row in rows:
        seen.see(row, "messages")
    return {"traces" if folded else "rows": frame(seen.over(ROWS), rows)}


def made(view: Callable[..., pl.LazyFrame], *conversations: list[Row], **how: Any) -> list[Row]:
    return view(talks(*conversations, **how)).collect().to_dicts()


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A version with conversations of one turn, of several, and with calls; and with right and wrong samples."""
    made_of = talks(PLAIN, SEVERAL, CALLING, tools=TOOLS)
    seen = Talk(tools=True)
    problems = [{**problem("p", prompt=PLAIN[:2]), "tools": TOOLS}]
    return version(
        tmp_path / "sums" / "0123456789abcdef",
        **made_of,
        problems=frame(seen.over(PROBLEMS), problems),
        samples=frame(SAMPLES, [sample("a", 5), sample("b", 9), sample("c", 2, "different")]),
    )


def loaded(folder: Path, cache_in: Path) -> list[Row]:
    import datasets

    datasets.disable_progress_bars()
    return list(datasets.load_dataset(str(folder), split="train", cache_dir=str(cache_in / "cache")))


# ---- trl-kto


def labels(*samples: Row, problems: list[Row] | None = None) -> list[tuple[str, bool]]:
    tables = {"samples": frame(SAMPLES, list(samples)), "problems": frame(PROBLEMS, problems or [problem("p")])}
    rows = trl_kto(tables).collect().to_dicts()
    return [(row["completion"][0]["content"].removeprefix("text of "), row["label"]) for row in rows]


def test_right_answers_are_true_wrong_ones_false_and_undecided_ones_left_out() -> None:
    unsure = [sample("u", 1, "undecided: timeout"), sample("v", 1, None)]  # type: ignore[arg-type]
    assert labels(sample("a", 3), sample("b", 4, "different"), *unsure) == [("a", True), ("b", False)]


def test_a_truncated_answer_is_never_true_and_may_be_false() -> None:
    cut, lost = sample("a", 3, finish_reason="length"), sample("b", 4, "different", finish_reason="length")
    assert labels(cut, lost) == [("b", False)]


def test_equal_texts_of_a_problem_are_one_row() -> None:
    assert labels(sample("a", 3, text="x"), sample("b", 4, text="x"), sample("c", 3)) == [("x", True), ("c", True)]


def test_wrong_answers_of_a_problem_without_a_chosen_trace_are_in_it_with_the_prompt_they_answer() -> None:
    tables = {
        "samples": frame(SAMPLES, [sample("a", 3, "different"), sample("b", 3, "different", role="judge")]),
        "problems": frame(PROBLEMS, [problem("p", outcome="none_chosen")]),
    }
    assert trl_kto(tables).collect().to_dicts() == [
        {
            "prompt": [turn("system", "Be brief."), turn("user", "p?")],
            "completion": [turn("assistant", "text of a")],
            "label": False,
            "problem_id": "p",
        }
    ]
    assert labels(sample("a", 3), problems=[problem("p", prompt=None)]) == []


def test_given_traces_are_labelled_from_what_was_chosen_and_what_was_turned_down() -> None:
    def trace(name: str, verdict: str) -> Row:
        about = {"id": name, "problem_id": "p", "verdict": verdict, "finish_reason": "given", "n_tokens": None}
        return {**about, "messages": [turn("user", "p?"), turn("assistant", f"text of {name}")]}

    down = [trace("no", "different"), trace("open", "undecided: no answer")]
    tables = {
        "traces": frame(ROWS, [trace("yes", "equal")]),  # the rows are folded
        "rejected": frame(REJECTED, [{"id": row["id"], "problem_id": "p", "row": json.dumps(row)} for row in down]),
        "problems": frame(PROBLEMS, [problem("p")]),
    }
    found = {row["completion"][0]["content"]: row["label"] for row in trl_kto(tables).collect().to_dicts()}
    assert found == {"text of yes": True, "text of no": False}


# ---- LLaMA-Factory


def test_sharegpt_has_tags_for_roles_and_the_system_prompt_beside_them() -> None:
    assert made(sharegpt, PLAIN) == [
        {
            "conversations": [{"from": "human", "value": "6 + 7?"}, {"from": "gpt", "value": PLAIN[-1]["content"]}],
            "system": "Be brief.",
        }
    ]


def test_questions_in_a_row_are_one_turn_and_no_system_prompt_is_an_empty_one() -> None:
    [row] = made(sharegpt, SEVERAL, folded=True)
    assert [said["value"] for said in row["conversations"][:3]] == ["Hi", "Yes?", "Now:\n\n6 + 7?"]
    assert row["system"] == ""


@pytest.mark.parametrize(("view", "where"), [(sharegpt, "conversations"), (alpaca, "history")])
def test_earlier_thoughts_stand_between_think_tags(view: Any, where: str) -> None:
    thought = {**turn("assistant", "Yes?"), "reasoning_content": "Who is it?"}
    [row] = made(view, [SEVERAL[0], thought, *SEVERAL[2:]])
    assert "<think>\nWho is it?\n</think>\n\nYes?" in str(row[where]).replace("\\n", "\n")


def test_calls_are_function_call_turns_and_what_tools_say_is_one_observation() -> None:
    [row] = made(sharegpt, CALLING, tools=TOOLS)
    tags = ["human", "function_call", "observation", "function_call", "observation", "gpt"]
    assert [said["from"] for said in row["conversations"]] == tags
    values = [said["value"] for said in row["conversations"]]
    first, second = ([{"name": "add", "arguments": {"a": 6, "b": b}} for b in bs] for bs in ((7, 8), (7,)))
    assert values[1] == f"<think>\nI call.\n</think>\n\n{json.dumps(first)}"
    assert values[2] == "13\n</tool_response>\n<tool_response>\n14"
    assert values[3] == f"Once more.<tool_call>{json.dumps(second)}</tool_call>"
    assert (row["system"], row["tools"]) == ("Use tools.", TOOLS)


@pytest.mark.parametrize(
    "talk",
    [
        [turn("user", "a"), turn("assistant", "b"), turn("assistant", "c")],
        [turn("user", "a"), turn("assistant", "b"), turn("system", "c"), turn("assistant", "d")],
        [turn("system", "a"), turn("assistant", "b")],
        [turn("assistant", "b"), turn("user", "a"), turn("assistant", "b")],
        [turn("user", "a"), turn("assistant", "b"), turn("assistant", "c"), turn("assistant", "d")],
        [turn("user", "a"), turn("assistant", "b"), turn("user", "c")],
        [turn("system", "a")],
    ],
)
@pytest.mark.parametrize("view", [sharegpt, alpaca])
def test_a_conversation_whose_sides_do_not_take_turns_is_left_out(view: Any, talk: list[Row]) -> None:
    assert len(made(view, talk, PLAIN)) == 1


def test_alpaca_has_the_last_question_and_earlier_turns_as_history() -> None:
    answer = PLAIN[-1]["content"]
    assert made(alpaca, PLAIN, SEVERAL) == [
        {"instruction": "6 + 7?", "input": "", "output": answer, "system": "Be brief.", "history": []},
        {"instruction": "Now:\n\n6 + 7?", "input": "", "output": answer, "system": "", "history": [["Hi", "Yes?"]]},
    ]


def test_alpaca_leaves_out_conversations_with_calls_and_keeps_tools_that_were_shown() -> None:
    [row] = made(alpaca, CALLING, PLAIN, tools=TOOLS)
    assert (row["instruction"], row["tools"]) == ("6 + 7?", TOOLS)


def test_dataset_info_names_the_file_its_columns_and_every_tag(dataset: Path, tmp_path: Path) -> None:
    out = export(dataset, "sharegpt", tmp_path / "out")
    [(name, entry)] = json.loads((out / "dataset_info.json").read_text()).items()
    assert (name, entry["formatting"]) == ("sums", "sharegpt")
    assert set(entry["columns"].values()) == set(pl.read_parquet(out / entry["file_name"]).columns)
    assert sorted(entry["tags"]) == sorted(
        ["role_tag", "content_tag", "user_tag", "assistant_tag", "observation_tag", "function_tag", "system_tag"]
    )
    out = export(dataset, "alpaca", tmp_path / "alpaca")
    entry = json.loads((out / "dataset_info.json").read_text())["sums"]
    assert set(entry["columns"].values()) == set(pl.read_parquet(out / entry["file_name"]).columns)
    assert entry["formatting"] == "alpaca"


# ---- OpenRLHF


def test_openrlhf_has_turns_before_the_answer_and_the_answer_or_prompts_with_labels() -> None:
    assert made(openrlhf, SEVERAL) == [{"input": SEVERAL[:4], "output": SEVERAL[4:]}]
    problems = [problem("p"), problem("q", outcome="none_chosen"), problem("r", gold=None)]
    assert openrlhf({"problems": frame(PROBLEMS, problems)}, form="rl").collect().to_dicts() == [
        {"prompt": problem("p")["prompt"], "label": "7", "datasource": "small", "problem_id": "p"}
    ]


# ---- all of them


@pytest.mark.parametrize("to", READ)
def test_an_export_has_the_columns_that_its_trainer_reads_and_datasets_opens_it(
    to: str, dataset: Path, tmp_path: Path
) -> None:
    rows = loaded(export(dataset, to, tmp_path / "out"), tmp_path)
    assert rows
    for row in rows:
        assert set(READ[to]) <= row.keys()


def test_every_format_of_a_trainer_has_its_columns_listed() -> None:
    assert [name for name in FORMATS if name not in MADE_OF] == list(READ)


def test_the_length_of_answers_is_told_with_who_counted(dataset: Path, tmp_path: Path) -> None:
    out = export(dataset, "sharegpt", tmp_path / "out")
    assert list(lengths(dataset, "sharegpt", out)) == [
        "rows    3, from 3 answers in rows",
        "tokens  mean 8,300, max 8,600; over 8,192: 66.7%, 16,384: 0.0%, 32,768: 0.0% (answers alone, counted by tiny)",
    ]
    out = export(dataset, "alpaca", tmp_path / "alpaca")
    assert next(lengths(dataset, "alpaca", out)) == "rows    2, from 3 answers in rows"
    out = export(dataset, "trl-kto", tmp_path / "kto")
    assert next(lengths(dataset, "trl-kto", out)) == "rows    3, from 3 answers in samples"
    out = export(dataset, "openrlhf", tmp_path / "rl", form="rl")
    assert list(lengths(dataset, "openrlhf", out, form="rl")) == ["rows    1, prompts"]


def test_lengths_of_traces_that_nobody_counted_are_not_told(tmp_path: Path) -> None:
    row = {"id": "a", "problem_id": "p", "messages": PLAIN}
    path = version(tmp_path / "v", rows=frame(ROWS, [row]))
    assert list(lengths(path, "trl-sft", export(path, "trl-sft", tmp_path / "out"))) == [
        "rows    1, from 1 answers in rows"
    ]


@pytest.mark.parametrize(("to", "options"), [("openrlhf", {"form": "dpo"}), ("trl-kto", {"role": 1})])
def test_their_options_are_checked(to: str, options: Row, dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="Input should be"):
        export(dataset, to, tmp_path / "out", **options)


# ---- the code of the trainers

ALIGN = """
import ast, json, sys, types
from pathlib import Path
root, out, name = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
def package(at):
    module = types.ModuleType(at); module.__path__ = [str(root / at.replace(".", "/"))]; sys.modules[at] = module
def constants(at, *names):
    tree = ast.parse((root / (at.replace(".", "/") + ".py")).read_text())
    module = types.ModuleType(at); sys.modules[at] = module
    for node in tree.body:
        if isinstance(node, ast.Assign) and node.targets[0].id in names:
            setattr(module, node.targets[0].id, ast.literal_eval(node.value))
for at in ("llamafactory", "llamafactory.data", "llamafactory.extras"):
    package(at)
constants("llamafactory.extras.constants", "DATA_CONFIG", "FILEEXT2TYPE", "RUNNING_LOG")
misc = types.ModuleType("llamafactory.extras.misc"); sys.modules["llamafactory.extras.misc"] = misc
misc.use_modelscope = misc.use_openmind = lambda: False
from llamafactory.data.parser import get_dataset_list
from llamafactory.data.converter import align_dataset
from llamafactory.data.formatter import FunctionFormatter, ToolFormatter
from llamafactory.extras.constants import FILEEXT2TYPE
from datasets import load_dataset
[attr] = get_dataset_list([name], out)
file = Path(out) / attr.dataset_name
data = load_dataset(FILEEXT2TYPE[file.suffix[1:]], data_files=[str(file)], split=attr.split, cache_dir=sys.argv[4])
how = types.SimpleNamespace(streaming=False, preprocessing_num_workers=1, overwrite_cache=True, media_dir=".")
rows = list(align_dataset(data, attr, how, types.SimpleNamespace(local_process_index=0)))
call, tools = FunctionFormatter(slots=["{{content}}"], tool_format="qwen"), ToolFormatter(tool_format="qwen")
words = {"thought_words": ("<think>\\n", "\\n</think>\\n\\n"), "tool_call_words": ("<tool_call>", "</tool_call>")}
for row in rows:
    said = [turn for turn in row["_prompt"] if turn["role"] == "function"]
    row["called"] = [call.apply(content=turn["content"], **words)[0] for turn in said]
    row["shown"] = tools.apply(content=row["_tools"])[0] if row["_tools"] else ""
print(json.dumps(rows))
"""
"""LLaMA-Factory's own way from `dataset_info.json` to aligned turns; what it imports for training is left out."""


@cache
def _wheel(requirement: str, folder: Path) -> Path:
    """The unpacked wheel of a trainer."""
    at = folder / requirement.split("==")[0]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "-q", "-d", str(at)]
    done = subprocess.run([*command, requirement], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no {requirement} to be had here: {done.stderr.strip()[-200:]}")
    [wheel] = at.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(at)
    return next(at.glob("*.data/purelib"), at)


@pytest.fixture(scope="session")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("trainers")
    return lambda requirement: _wheel(requirement, folder)


def function_of(file: Path, name: str) -> Any:
    """A function of a file that may import what is not here."""
    found = [
        node for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef) and node.name == name
    ]
    for node in found:
        node.returns = None
        for argument in node.args.args:
            argument.annotation = None
    space: dict[str, Any] = {"copy": __import__("copy"), "_str_to_content_list": lambda text: text}
    exec(compile(ast.Module(body=list(found), type_ignores=[]), str(file), "exec"), space)
    return space[name]


def keys_read(file: Path) -> set[str]:
    """Every text that a file indexes something with."""
    nodes = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Subscript)]
    return {
        node.slice.value for node in nodes if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str)
    }


def templated(turns: Sequence[Row], *, tokenize: bool, add_generation_prompt: bool = False) -> str:
    assert not tokenize
    text = "".join(f"<{said['role']}>{said['content']}" for said in turns)
    return text + "<assistant>" * add_generation_prompt


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_llama_factory_reads_sharegpt_and_alpaca(dataset: Path, tmp_path: Path, trainer: Any) -> None:
    root = trainer("llamafactory==0.9.5")

    def aligned(to: str) -> list[Row]:
        out = export(dataset, to, tmp_path / to)
        command = [sys.executable, "-c", ALIGN, str(root), str(out), "sums", str(tmp_path / "cache")]
        environment = {"PYTHONPATH": str(root), "PATH": "", "HOME": str(tmp_path)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        rows: list[Row] = json.loads(done.stdout.splitlines()[-1])
        return rows

    plain, several, calling = aligned("sharegpt")
    answer = [{"role": "assistant", "content": PLAIN[-1]["content"]}]
    assert (plain["_prompt"], plain["_response"], plain["_system"]) == ([PLAIN[1]], answer, "Be brief.")
    assert [said["role"] for said in several["_prompt"]] == ["user", "assistant", "user"]
    assert [said["role"] for said in calling["_prompt"]] == [
        "user",
        "function",
        "observation",
        "function",
        "observation",
    ]
    assert calling["_response"] == answer
    assert [text.count('"name": "add"') for text in calling["called"]] == [2, 1]
    assert calling["called"][0].startswith("<think>\nI call.\n</think>")
    assert calling["called"][1].startswith("Once more.")
    assert '"name": "add"' in calling["shown"]
    both = aligned("alpaca")
    for one, other in zip(both, (plain, several), strict=True):
        assert {name: one[name] for name in ("_prompt", "_response", "_system", "_tools")} == {
            name: other[name] for name in ("_prompt", "_response", "_system", "_tools")
        }


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_openrlhf_reads_conversations_and_prompts_with_labels(dataset: Path, tmp_path: Path, trainer: Any) -> None:
    folder = trainer("openrlhf==0.11.2") / "openrlhf" / "datasets"
    rows = loaded(export(dataset, "openrlhf", tmp_path / "sft"), tmp_path)
    read = function_of(folder / "sft_dataset.py", "preprocess_data")
    prompt, response = read(rows[0], None, "input", "output", templated)
    assert (prompt, response) == ("<system>Be brief.<user>6 + 7?<assistant>", PLAIN[-1]["content"])
    [row] = loaded(export(dataset, "openrlhf", tmp_path / "rl", form="rl"), tmp_path)
    read = function_of(folder / "prompts_dataset.py", "preprocess_data")
    assert read(row, None, "prompt", "label", templated) == ("<system>Be brief.<user>6 + 7?<assistant>", "7")
    assert '"datasource"' in (folder / "prompts_dataset.py").read_text()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_trl_takes_every_export_for_conversations_with_the_columns_that_it_reads(
    dataset: Path, tmp_path: Path, trainer: Any
) -> None:
    root = trainer("trl==1.16.0") / "trl"
    conversational = function_of(root / "data_utils.py", "is_conversational")
    for method, asked in {
        "sft": {"messages"},
        "dpo": {"prompt", "chosen", "rejected"},
        "kto": {"prompt", "completion", "label"},
        "grpo": {"prompt"},
    }.items():
        first = loaded(export(dataset, f"trl-{method}", tmp_path / method), tmp_path)[0]
        assert conversational(first)
        assert asked <= keys_read(root / "trainer" / f"{method}_trainer.py") & first.keys()
    tree = ast.parse((root / "rewards" / "accuracy_rewards.py").read_text())
    [reward] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "accuracy_reward"]
    assert "solution" in [argument.arg for argument in reward.args.args]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_verl_finds_what_it_reads(dataset: Path, tmp_path: Path, trainer: Any) -> None:
    root = trainer("verl==0.9.1") / "verl"
    [row] = loaded(export(dataset, "verl", tmp_path / "out"), tmp_path)
    source = (root / "utils" / "dataset" / "rl_dataset.py").read_text()
    assert 'config.get("prompt_key", "prompt")' in source
    assert '.get("extra_info", {}).get("index"' in source
    assert row["prompt"] == PLAIN[:2]
    assert row["extra_info"]["index"] == 0
    assert isinstance(row["reward_model"]["ground_truth"], str)
