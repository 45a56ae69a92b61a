"""A version reaches the Hub whole or not at all, with the real client, whatever the Hub does; and a second run goes on."""

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import huggingface_hub
import huggingface_hub.constants
import pytest
from typer.testing import CliRunner

from tests import test_card
from tests.hub import TOKEN, Hub
from tests.test_fsck import flip
from tests.test_store import commit, edit_manifest, everything_in
from tracemill.pipelines import publish as publishing
from tracemill.pipelines.cli import app
from tracemill.pipelines.hub import publish_to_hub
from tracemill.pipelines.publish import Published, clean, publish_to
from tracemill.pipelines.store import Dataset, Store
from tracemill.pipelines.versions.fsck import fsck
from tracemill.schemas.errors import DiskFull, HubLost, LawBroken, RecipeError

# the client itself calls its HTTP library in a way that this has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
REPO = "org/sums"
Publish = Callable[..., Published]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A Hub, and a client that knows its token and uploads the plain way, without Xet."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Hub() as hub:
        yield hub


@pytest.fixture
def store(memory_folder: Path) -> Store:
    return Store(memory_folder / "store")


@pytest.fixture
def dataset(store: Store) -> Dataset:
    return commit(store, 300, manifest={"sources": [{"name": "s", "licence": "MIT", "rows": 1, "sha256": ""}]})


@pytest.fixture
def send(hub: Hub) -> Publish:
    def run(dataset: Dataset, repo: str = REPO, **options: Any) -> Published:
        return publish_to_hub(dataset, repo, endpoint=hub.url, **{"waits": (0.01, 0.01), "silence": 20.0, **options})

    return run


def content(dataset: Dataset) -> dict[str, bytes]:
    return {p.relative_to(dataset.path).as_posix(): p.read_bytes() for p in dataset.path.rglob("*") if p.is_file()}


def state(hub: Hub) -> tuple[int, list[str]]:
    """How many commits a repository has, and what readers find."""
    return len(hub.repos[REPO].commits), sorted(hub.files(REPO))


def test_one_commit_a_tag_and_private_unless_asked(hub: Hub, send: Publish, dataset: Dataset):
    done = send(dataset)
    assert hub.files(REPO) == hub.files(REPO, dataset.version) == content(dataset)
    repo = hub.repos[REPO]
    assert len(repo.commits) == 2
    assert repo.private
    assert repo.tags == {dataset.version: done.commit}
    assert repo.commits[str(done.commit)].title == str(dataset)
    assert len(hub.seen("/commit/")) == 1
    assert len(done.sent) == len(done.files) == 6
    other = send(dataset, "org/open", public=True)
    assert other.private is False
    assert not hub.repos["org/open"].private


def test_publishing_again_sends_nothing_and_makes_no_commit(hub: Hub, send: Publish, dataset: Dataset):
    first = send(dataset)
    before = len(hub.log)
    second = send(dataset)
    assert (second.commit, second.sent) == (first.commit, [])
    assert not [line for line in hub.log[before:] if line.startswith(("PUT", "POST"))]


def test_a_later_version_takes_the_place_of_an_earlier_one_and_the_tag_keeps_that(
    hub: Hub, send: Publish, store: Store, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
):
    from tracemill.pipelines.versions import cuts

    send(dataset)
    with monkeypatch.context() as patch:
        patch.setattr(cuts, "GROUP", 3_000)
        cut = commit(store, 301)
    assert len(cut.files()) > 2
    send(cut)
    assert hub.files(REPO) == content(cut)
    last = commit(store, 302)
    done = send(last)
    assert f"rows/{cut.files()[-1].name}" in done.removed
    assert hub.files(REPO) == content(last)  # no part of the version before is left for readers to find
    assert hub.files(REPO, dataset.version) == content(dataset)


def test_files_that_are_there_are_not_sent_again_wherever_they_stand(hub: Hub, send: Publish, store: Store):
    send(commit(store, 3))
    sent = len(hub.uploaded)
    done = send(commit(store, 3, identity={}))  # the same tables under another recipe
    assert len(hub.uploaded) == sent
    assert {file.path for file in done.sent} == {"README.md", "manifest.json"}


def test_a_dry_run_lists_everything_and_touches_nothing(hub: Hub, send: Publish, store: Store, dataset: Dataset):
    done = send(dataset, dry_run=True)
    assert hub.repos == {}
    assert {f.path: f.bytes for f in done.sent} == {path: len(data) for path, data in content(dataset).items()}
    send(dataset)
    before = state(hub)
    again = send(commit(store, 300, identity={}), dry_run=True)
    assert {file.path for file in again.sent} == {"README.md", "manifest.json"}
    assert state(hub) == before


# what is refused before anything is sent


def test_what_is_not_whole_or_not_complete_is_refused(hub: Hub, send: Publish, store: Store, dataset: Dataset):
    partial = commit(store, 2, complete=False)
    with pytest.raises(LawBroken, match="is partial"):
        send(partial)
    send(partial, "org/partial", partial=True)
    assert b"Partial version" in hub.files("org/partial")["README.md"]
    flip(dataset.files()[0])
    with pytest.raises(LawBroken, match=r"not whole: .*part-00000.parquet: its sha256"):
        send(dataset)
    newer = commit(store, 5)
    edit_manifest(newer, lambda m: m.update(schema_version=99, tracemill="9.0"))
    with pytest.raises((LawBroken, RecipeError), match=r"tracemill 9\.0"):
        send(newer)
    assert REPO not in hub.repos


@pytest.mark.parametrize(
    "repo",
    ["sums", "a/b/c", "../x", "org/..", "org/a b", "org/a--b", "örg/sums", "org/\uff53ums", "org/", "org/a\n", "/a"],
)
def test_a_name_that_is_no_repository_never_reaches_the_hub(hub: Hub, send: Publish, dataset: Dataset, repo: str):
    with pytest.raises(RecipeError, match="write ORG/NAME"):
        send(dataset, repo)
    assert hub.log == []


def test_without_a_token_it_says_where_one_comes_from(
    hub: Hub, send: Publish, dataset: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(RecipeError, match="set HF_TOKEN, or log in"):
        send(dataset)
    assert hub.log == []


def test_a_repository_of_others_or_of_another_visibility_is_left_alone(hub: Hub, send: Publish, dataset: Dataset):
    api = huggingface_hub.HfApi(endpoint=hub.url, token=TOKEN)
    api.create_repo("org/theirs", repo_type="dataset", private=True)
    api.upload_file(path_or_fileobj=b"x", path_in_repo="data.csv", repo_id="org/theirs", repo_type="dataset")
    with pytest.raises(LawBroken, match=r"did not publish, data\.csv"):
        send(dataset, "org/theirs")
    api.create_repo("org/open", repo_type="dataset", private=False)
    with pytest.raises(LawBroken, match="is public: say --public"):
        send(dataset, "org/open")
    api.create_repo("org/closed", repo_type="dataset", private=True)
    with pytest.raises(LawBroken, match="is private"):
        send(dataset, "org/closed", public=True)
    send(dataset, "org/closed")


def test_files_of_people_beside_ours_stay(hub: Hub, send: Publish, store: Store, dataset: Dataset):
    send(dataset)
    api = huggingface_hub.HfApi(endpoint=hub.url, token=TOKEN)
    api.upload_file(path_or_fileobj=b"MIT", path_in_repo="LICENSE", repo_id=REPO, repo_type="dataset")
    send(commit(store, 4))
    assert hub.files(REPO)["LICENSE"] == b"MIT"


# faults


@pytest.mark.parametrize(
    ("route", "fault", "kind", "says"),
    [
        ("GET .*", {"status": 401}, RecipeError, "the token is not one it knows"),
        ("POST /repos/create", {"status": 403}, RecipeError, "the token may not write there"),
        ("POST /commit/", {"status": 403}, RecipeError, "the token may not write there"),
        ("POST /commit/", {"status": 400, "message": "bad card"}, RecipeError, "400: .*bad card"),
        ("POST /commit/", {"status": 412}, LawBroken, "somebody else changed"),
        ("POST /commit/", {"status": 409}, LawBroken, "somebody else changed"),
        ("POST /commit/", {"status": 500}, HubLost, "run the same command again"),
        ("POST /commit/", {"status": 503}, HubLost, "failed at the commit"),
        ("POST /commit/", {"drop": True}, HubLost, "failed at the commit"),
        ("POST /commit/", {"half": True}, HubLost, "failed at the commit"),
        ("POST /commit/", {"status": 429, "headers": {"Retry-After": "0"}}, HubLost, "failed at the commit"),
        ("POST /commit/", {"status": 401}, RecipeError, "the token is not one it knows"),
        ("POST /repos/create", {"status": 500}, HubLost, "failed at making the repository"),
        ("GET /revision/", {"status": 500}, HubLost, "failed at looking at the repository"),
        ("POST /preupload/", {"status": 404}, RecipeError, "check ORG/NAME"),
        ("PUT /__lfs/", {"status": 403}, RecipeError, "403"),
    ],
)
def test_a_hub_that_fails_for_good_leaves_the_old_version_and_the_next_run_goes_on(
    hub: Hub, send: Publish, store: Store, dataset: Dataset, route: str, fault: dict[str, Any], kind: Any, says: str
):
    new_repository = route == "POST /repos/create"
    if not new_repository:
        send(dataset)
    before = None if new_repository else (state(hub), hub.files(REPO))
    new = commit(store, 299)
    hub.fault(*route.split(" "), times=1000, **fault)
    with pytest.raises(kind, match=says) as told:
        send(new)
    assert TOKEN not in str(told.value)
    assert "PresignedSecret" not in str(told.value)
    if before is not None:
        assert (state(hub), hub.files(REPO)) == before
        assert new.version not in hub.repos[REPO].tags
    hub.heal()
    send(new)
    assert hub.files(REPO) == hub.files(REPO, new.version) == content(new)


@pytest.mark.parametrize(
    ("route", "fault"),
    [
        ("POST /commit/", {"status": 500}),
        ("POST /commit/", {"status": 429, "headers": {"Retry-After": "0"}}),
        ("POST /commit/", {"drop": True}),
        ("POST /commit/", {"half": True}),
        ("POST /repos/create", {"status": 503}),
        ("POST /tag/", {"status": 500}),
        ("GET /refs", {"drop": True}),
        ("GET /tree/", {"half": True}),
        ("PUT /__lfs/", {"status": 429, "headers": {"Retry-After": "0"}}),
    ],
)
def test_a_hub_that_fails_once_is_asked_again(
    hub: Hub, send: Publish, dataset: Dataset, route: str, fault: dict[str, Any]
):
    hub.fault(*route.split(" "), **fault)
    done = send(dataset)
    assert hub.files(REPO) == content(dataset)
    assert hub.repos[REPO].tags == {dataset.version: done.commit}
    assert len(hub.repos[REPO].commits) == 2


@pytest.mark.parametrize("route", ["POST /commit/", "POST /tag/", "POST /repos/create"])
@pytest.mark.parametrize("fault", [{"status": 500}, {"drop": True}])
def test_an_answer_that_was_lost_is_found_out_and_nothing_is_done_twice(
    hub: Hub, send: Publish, dataset: Dataset, route: str, fault: dict[str, Any]
):
    hub.fault(*route.split(" "), done=True, **fault)
    done = send(dataset)
    assert len(hub.repos[REPO].commits) == 2
    assert hub.repos[REPO].tags == {dataset.version: done.commit}


def test_a_commit_of_somebody_else_in_between_is_a_conflict_and_theirs_stays(
    hub: Hub, send: Publish, store: Store, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
):
    send(dataset)
    repo = hub.repos[REPO]
    upload = huggingface_hub.HfApi.preupload_lfs_files

    def meanwhile(*args: Any, **options: Any) -> None:
        upload(*args, **options)
        repo.add({**repo.commits[repo.heads["main"]].files}, "theirs")

    monkeypatch.setattr(huggingface_hub.HfApi, "preupload_lfs_files", meanwhile)
    with pytest.raises(LawBroken, match="somebody else changed the repository"):
        send(commit(store, 5))
    assert repo.commits[repo.heads["main"]].title == "theirs"
    assert hub.files(REPO) == content(dataset)


def test_what_went_up_before_the_hub_was_lost_is_not_sent_again(hub: Hub, send: Publish, dataset: Dataset):
    hub.fault("POST", "/commit/", times=1000, status=503)
    with pytest.raises(HubLost):
        send(dataset)
    assert len(hub.uploaded) == 3
    hub.heal()
    send(dataset)
    assert len(hub.uploaded) == 3
    assert hub.files(REPO) == content(dataset)


def test_a_hub_that_says_nothing_is_given_up(hub: Hub, send: Publish, dataset: Dataset):
    hub.fault("POST", "/commit/", sleep=3, times=2)
    with pytest.raises(HubLost, match="failed at the commit"):
        send(dataset, silence=0.5, waits=(0.01,))
    hub.heal()


def test_a_tag_that_fails_leaves_the_commit_and_the_next_run_sets_it(hub: Hub, send: Publish, dataset: Dataset):
    hub.fault("POST", "/tag/", times=1000, status=500)
    with pytest.raises(HubLost, match=r"the tag .* the commit \w+ stands"):
        send(dataset)
    hub.heal()
    done = send(dataset)
    assert hub.repos[REPO].tags == {dataset.version: done.commit}
    assert len(hub.repos[REPO].commits) == 2


def test_neither_token_nor_signatures_reach_logs_or_files(
    hub: Hub, send: Publish, dataset: Dataset, capfd: pytest.CaptureFixture[str], tmp_path: Path
):
    hub.fault("PUT", "/__lfs/", status=500)
    hub.fault("POST", "/commit/", status=400, message=f"what is {TOKEN} and {hub.url}/x?signature=PresignedSecret")
    logging.getLogger("huggingface_hub").setLevel(logging.DEBUG)
    try:
        with pytest.raises(RecipeError) as told:
            send(dataset)
    finally:
        logging.getLogger("huggingface_hub").setLevel(logging.WARNING)
    said = "".join(capfd.readouterr()) + str(told.value)
    assert "***" in said
    for secret in (TOKEN, "PresignedSecret"):
        assert secret not in said
        assert all(secret.encode() not in data for data in content(dataset).values())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pw@host/a?X-Amz-Signature=abc&b=c is gone", "https://***@host/a?*** is gone"),
        ("token hf_abcdefghijkl here", "token *** here"),
        ("is it there? yes = no", "is it there? yes = no"),
    ],
)
def test_messages_are_cleaned(text: str, shown: str):
    assert clean(text) == shown


# what readers find

LOAD = """
import json, sys
from datasets import load_dataset
found = {}
for revision in (None, sys.argv[2]):
    rows = load_dataset(sys.argv[1], split="train", revision=revision)
    steps = load_dataset(sys.argv[1], "steps", split="train", revision=revision)
    found[str(revision)] = [rows.num_rows, rows["id"][:], steps["score"][:]]
print(json.dumps(found))
"""


def clients(hub: Hub, tmp_path: Path) -> dict[str, str]:
    """The environment of a process whose client talks to this Hub."""
    own = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "127.0.0.1"}
    quiet = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    return {**os.environ, **own, **quiet}


def test_a_published_version_loads_from_the_hub_as_it_does_from_its_folder(hub: Hub, send: Publish, tmp_path: Path):
    """With the command line, and `datasets`, each in a process of its own."""
    dataset = test_card.commit(tmp_path, rows=7)
    tracemill = [sys.executable, "-m", "tracemill.pipelines.cli", "publish", "arith", "--repo", REPO]
    told = subprocess.run(
        [*tracemill, "--store", str(tmp_path / "store")],
        env=clients(hub, tmp_path), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert f"went      {dataset} to {hub.url}/datasets/{REPO}, private" in told.stdout
    assert TOKEN not in told.stdout + told.stderr
    run = subprocess.run(
        [sys.executable, "-c", LOAD, REPO, dataset.version], env=clients(hub, tmp_path), capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    rows = dataset.scan().collect()
    expected = [7, rows["id"].to_list(), [0.5]]
    assert json.loads(run.stdout.splitlines()[-1]) == {"None": expected, dataset.version: expected}
    assert not [line for line in hub.log if line.startswith("!!")]


def test_with_xet_the_content_goes_up_in_chunks_and_the_commit_is_the_same(
    hub: Hub, send: Publish, dataset: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", False)
    send(dataset)
    head = hub.repos[REPO].commits[hub.repos[REPO].heads["main"]]
    assert set(head.files) - {".gitattributes"} == set(content(dataset))
    assert sum(hub.xorbs.values()) > 0
    assert hub.uploaded == []


# a folder, and whatever fsspec takes


def test_a_folder_receives_a_store_that_is_whole(store: Store, dataset: Dataset, tmp_path: Path):
    done = publish_to(dataset, str(tmp_path / "out"))
    other = Store(tmp_path / "out", read_only=True)
    assert str(other.open("arith")) == str(dataset)
    assert fsck(other.root, deep=True).faults == []
    assert len(done.sent) == 6
    assert publish_to(dataset, f"file://{tmp_path}/out").sent == ()
    new = commit(store, 300, identity={})
    publish_to(new, str(tmp_path / "out"))
    assert other.open("arith").version == new.version
    assert other.open(f"arith@{dataset.version}").files()[0].samefile(other.open("arith").files()[0])


def test_a_folder_whose_disk_is_full_or_that_is_none_is_left_without_a_half_version(
    store: Store, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    copy, left = shutil.copyfile, [3]

    def fill(source: Path, target: Path) -> Any:
        left[0] -= 1
        return copy(source, target if left[0] else Path("/dev/full"))  # which answers as a full disk does

    monkeypatch.setattr(publishing.shutil, "copyfile", fill)
    with pytest.raises(DiskFull, match=r"disk full while writing .*arith"):
        publish_to(dataset, str(tmp_path / "out"))
    assert list((tmp_path / "out/arith").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(RecipeError, match="cannot be written to"):
        publish_to(dataset, str(tmp_path / "file"))


def test_any_url_of_fsspec_receives_the_manifest_last_and_a_second_run_goes_on(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
):
    fs: Any = fsspec.filesystem("memory")
    fs.store.clear()
    put, puts, broken = type(fs).put_file, [], [True]

    def fail_late(self: Any, source: str, target: str, **options: Any) -> None:
        puts.append(target.rpartition(dataset.version)[2])
        if broken and len(puts) == 4:
            raise ConnectionResetError("gone")
        put(self, source, target, **options)

    monkeypatch.setattr(type(fs), "put_file", fail_late)
    with pytest.raises(HubLost, match="gone; what arrived stays: run again"):
        publish_to(dataset, "memory://bucket/data")
    base = f"/bucket/data/arith/{dataset.version}"
    assert not fs.exists(f"{base}/manifest.json")
    arrived = {name for name in puts[:3] if name.endswith(".parquet")}
    puts.clear()
    broken.clear()
    publish_to(dataset, "memory://bucket/data")
    assert not arrived.intersection(puts)
    assert puts[-1] == "/manifest.json"
    assert {p: fs.cat_file(f"{base}/{p}") for p in content(dataset)} == content(dataset)
    puts.clear()
    assert publish_to(dataset, "memory://bucket/data").sent == []
    assert puts == []


@pytest.mark.parametrize("url", ["nonsense://x/y", "s3://me:secretkey@bucket/x"])
def test_a_url_that_nothing_here_can_reach_is_explained_without_its_password(dataset: Dataset, url: str):
    with pytest.raises((RecipeError, HubLost), match=r"--to|stopped answering") as told:
        publish_to(dataset, url)
    assert "secretkey" not in str(told.value)


def test_the_command_asks_where_to_and_lists_what_would_go(store: Store, dataset: Dataset, tmp_path: Path):
    def run(*args: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, ["publish", "arith", *args, "--store", str(store.root)])
        assert done.exit_code == code, done.output
        return done.output

    assert "--repo ORG/NAME for the Hub, or --to" in run(code=2)
    assert "--repo ORG/NAME for the Hub, or --to" in run("--to", "x", "--repo", "a/b", code=2)
    said = run("--to", str(tmp_path / "out"), "--dry-run")
    assert not (tmp_path / "out").exists()
    for path, data in content(dataset).items():
        assert f"{len(data):,}  {path}" in said
    assert "would go" in said
    run("--to", str(tmp_path / "out"))
    assert everything_in(tmp_path / "out") == everything_in(store.root)
    assert json.loads(run("--to", str(tmp_path / "out"), "--json"))["sent"] == []
    partial = commit(store, 1, complete=False)
    done = CliRunner().invoke(app, ["publish", str(partial), "--to", str(tmp_path / "p"), "--store", str(store.root)])
    assert done.exit_code == 4
    unknown = commit(store, 2, manifest={"sources": [{"name": "s", "licence": "unknown", "rows": 1, "sha256": ""}]})
    assert unknown.path.is_dir()
    assert "the licence of a source is unknown" in run("--to", str(tmp_path / "u"))
