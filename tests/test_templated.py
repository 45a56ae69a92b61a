"""A version as a trainer's model reads it: its chat template, what the loss counts, and what is cut off."""

import json
import re
from pathlib import Path

import polars as pl
import pytest

from tests.conftest import solve
from tests.test_trainers import TOOLS
from tests.test_views import frame, problem, sample, turn, version
from tracemill.pipelines.asking import templated
from tracemill.pipelines.asking.templated import export_lines, preview_lines, texts
from tracemill.pipelines.build import build
from tracemill.pipelines.export import export, tables_of
from tracemill.pipelines.store import Store
from tracemill.pipelines.versions.dataset import Dataset
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.tables import PROBLEMS, ROWS, SAMPLES
from tracemill.synth.models import open_renderer
from tracemill.synth.render import Renderer

MODEL = Path(__file__).resolve().parent.parent / "data" / "models" / "tiny-reasoner"


@pytest.fixture
def tiny() -> Renderer:
    return open_renderer("here", str(MODEL))


@pytest.fixture
def dataset(recipe, store: Store) -> Dataset:
    """Sums, answered by a script, in the template of the small model."""
    made = recipe(model={"name": "tiny-reasoner", "max_tokens": 64}, select=[])
    return build(made, store, reply=solve).dataset


def long(tmp_path: Path) -> Dataset:
    """Rows of three sources: 20,000 tokens, 9,000 and a few."""
    rows = [
        {
            "id": f"t{i}",
            "problem_id": f"p{i}",
            "source": f"s{i}",
            "messages": [turn("user", "6 + 7?"), turn("assistant", text)],
        }
        for i, text in enumerate(["7 " * 20_000, "7 " * 9_000, "13"])
    ]
    made = {"recipe": {"models": {"solver": {"name": "tiny-reasoner"}}}, "schema_version": 1}
    made["models"] = {"solver": {"asked": {"model": {"template": "chat-9a42411428f6"}}}}
    path = version(tmp_path / "sums" / "0123456789abcdef", rows=frame(ROWS, rows))
    (path / "manifest.json").write_text(json.dumps(made))
    return Dataset("sums", path.name, path)


def test_prompt_and_answer_are_shown_apart_with_every_special_token(dataset: Dataset, tiny: Renderer):
    lines = list(preview_lines(dataset, "trl-sft", n=1, form="prompt-completion"))
    [row] = pl.read_parquet(dataset.path / "rows/*.parquet").sort("id").head(1).to_dicts()
    asked, answer = (said["content"] for said in row["messages"])
    assert lines[:2] == [f"template  of tiny-reasoner, {tiny.identity}", "loss      the answers, not the prompts"]
    assert re.fullmatch(r"--- row 1, before the answer: \d+ tokens, not in the loss", lines[2])
    assert lines[3] == f"<s>{asked}\n## Answer\n"
    assert lines[4] == f"--- row 1, the answer: {tiny.count(answer + '</s>')} tokens, in the loss"
    assert lines[5] == f"{answer}</s>"


def test_whole_conversations_are_in_the_loss_and_it_says_how_to_leave_prompts_out(dataset: Dataset):
    lines = list(preview_lines(dataset, "trl-sft", n=1))
    assert "prompts too; --set form=prompt-completion leaves them out" in lines[1]
    assert "the conversation" in lines[2]
    assert lines[3].startswith("<s>What is")
    assert lines[3].endswith("</s>")


def test_tokens_count_prompts_and_special_tokens(dataset: Dataset, tiny: Renderer):
    rows = pl.read_parquet(dataset.path / "rows/*.parquet")["messages"].to_list()
    sizes = sorted(tiny.count(tiny.text(talk, add_generation_prompt=False)) for talk in rows)
    lines = list(preview_lines(dataset, "trl-sft", n=0, form="prompt-completion"))
    assert lines[2] == f"rows      {len(rows)}"
    assert f"mean {sum(sizes) / len(sizes):,.0f}, " in lines[3]
    assert f"max {sizes[-1]};" in lines[3]
    prompts, answers = (int(found) for found in re.findall(r"(?:prompts|answers) mean (\d+)", lines[3]))
    assert abs(prompts + answers - sum(sizes) / len(sizes)) <= 1
    assert lines[4] == "cut off   at 8,192: 0 rows, 0.0%, at 16,384: 0 rows, 0.0%, at 32,768: 0 rows, 0.0%"


def test_what_is_cut_off_is_told_by_source(tmp_path: Path):
    lines = list(preview_lines(long(tmp_path), "trl-sft", n=0))
    assert lines[4:] == [
        "cut off   at 8,192: 2 rows, 66.7%, at 16,384: 1 rows, 33.3%, at 32,768: 0 rows, 0.0%",
        "  at 8,192 by source: s0 1 of 1, s1 1 of 1",
        "  at 16,384 by source: s0 1 of 1",
    ]


def test_of_a_long_view_rows_spread_evenly_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(templated, "COUNTED", 2)
    lines = list(preview_lines(long(tmp_path), "openrlhf", n=0))
    assert lines[2] == "rows      3, 2 of them counted"
    assert lines[5] == "  at 8,192 by source: s0 1 of 1"


def test_pairs_are_as_long_as_the_longer_one_and_prompts_have_no_answer(
    tmp_path: Path, dataset: Dataset, tiny: Renderer
):
    made = {
        "problems": frame(PROBLEMS, [problem("p")]),
        "samples": frame(SAMPLES, [sample("a", 1, text="7"), sample("b", 5, "different", text="8 " * 500)]),
    }
    path = version(tmp_path / "pairs" / "0123456789abcdef", rows=frame(ROWS, []), **made)
    lines = list(preview_lines(Dataset("pairs", path.name, path), "trl-dpo", n=1, tokenizer=str(MODEL)))
    assert [line.partition(":")[0] for line in lines if line.startswith("---")] == [
        f"--- row 1, {what}" for what in ("before chosen", "chosen", "before rejected", "rejected")
    ]
    assert "mean 513" in next(line for line in lines if line.startswith("tokens"))
    lines = list(preview_lines(dataset, "trl-grpo", n=1))
    assert [line for line in lines if line.startswith("---")] == [
        f"--- row 1, the prompt: {tiny.count(lines[3])} tokens, not in the loss"
    ]


def test_tools_reach_the_template(tiny: Renderer):
    shows = Renderer(
        tiny.name,
        tiny.tokenizer,
        "{% if tools %}{{ tools[0].function.name }}:{% endif %}" + str(tiny.template),
        tiny.special,
        tiny.generation,
    )
    row = {"prompt": [turn("user", "6 + 7?")], "completion": [turn("assistant", "13")], "tools": TOOLS}
    assert texts(row, shows)[0].prompt.startswith("add:<s>6 + 7?")


def test_a_template_that_writes_the_prompt_otherwise_before_an_answer_is_noted(tiny: Renderer):
    odd = Renderer(
        tiny.name,
        tiny.tokenizer,
        "{% for m in messages %}{{ m.content }};{% endfor %}{% if add_generation_prompt %}GO{% endif %}",
        tiny.special,
        tiny.generation,
    )
    [text] = texts({"prompt": [turn("user", "a")], "completion": [turn("assistant", "b")]}, odd)
    assert (text.prompt, text.learnt) == ("a;", "b;")
    assert "writes the prompt otherwise" in text.note


def test_a_model_that_is_not_at_hand_is_told_with_what_is_shown_instead(recipe, store: Store, tmp_path: Path):
    dataset = build(recipe(), store, reply=solve).dataset
    lines = list(preview_lines(dataset, "trl-sft", n=1))
    assert lines[0].startswith(
        "template  none: the version's model: 'scripted-solver' is neither a folder nor in the cache"
    )
    assert lines[0].endswith("name a folder or Hub id with --tokenizer")
    assert any(line.startswith("messages [user] What is") for line in lines)
    out = export(dataset.path, "trl-sft", tmp_path / "out")
    told = list(export_lines(dataset, "trl-sft", out))
    assert "answers alone" in told[-1]
    told = list(export_lines(dataset, "trl-sft", out, tokenizer=str(MODEL)))
    assert told[-1].startswith("cut off")


def test_formats_with_a_template_of_their_own_are_refused(dataset: Dataset):
    with pytest.raises(RecipeError, match="--as takes trl-sft, trl-dpo"):
        list(preview_lines(dataset, "sharegpt"))


def test_rows_that_the_template_refuses_are_counted(dataset: Dataset, tiny: Renderer):
    strict = Renderer(tiny.name, tiny.tokenizer, "{{ raise_exception('no') }}", tiny.special, tiny.generation)
    rows = pl.scan_parquet(dataset.path / "rows/*.parquet").sort("id").select("messages")
    found = templated.count(rows, 15, tables_of(dataset.path), "trl-sft", strict)
    assert (found.rows, found.refused) == ([], rows.collect().height)
