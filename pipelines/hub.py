"""A version on the Hugging Face Hub: one commit on `main`, guarded by the state it was made for, and a tag of its name.

The client repeats uploads that fail on its own; making a repository, the commit and the tag it does not, so that is done
here, with `Retry-After` kept to. An answer that was lost does not matter: before anything is repeated, the Hub is asked what
stands there. The token is the client's affair (HF_TOKEN, or its own login), and is cut out of every message.
"""

import hashlib
import json
import logging
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar

from tracemill.pipelines.publish import Published, clean, facts_to_publish
from tracemill.pipelines.versions.dataset import Dataset
from tracemill.pipelines.versions.parquet import FileFacts
from tracemill.schemas.errors import HubLost, LawBroken, RecipeError, TracemillError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}", re.ASCII)
WAITS = (1.0, 4.0, 15.0, 60.0)
"""Seconds before each repetition, where the Hub does not say."""
LONGEST_WAIT = 600.0
"""Of those that a Hub may ask for."""
SILENCE = 300.0
"""Seconds without a byte after which a connection is given up; the client itself would wait for ever."""
BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
OURS = ("README.md", ".gitattributes")
"""What a new repository may hold already."""

HINTS = {
    401: "the token is not one it knows: set HF_TOKEN, or log in with `hf auth login`",
    403: "the token may not write there: make one that may, or name an ORG of yours",
    404: "check ORG/NAME, and whether the token may see it",
}

Result = TypeVar("Result")


def publish_to_hub(
    dataset: Dataset,
    repo: str,
    *,
    public: bool = False,
    partial: bool = False,
    uncalibrated: bool = False,
    dry_run: bool = False,
    endpoint: str | None = None,
    silence: float = SILENCE,
    waits: Sequence[float] = WAITS,
) -> Published:
    """Make `repo` (ORG/NAME) hold this version and nothing else of ours; `endpoint` is the client's own unless given.

    RecipeError: no token, no right, no such place. LawBroken: the version is not whole or is partial, the repository is not
    ours, is public though that was not asked for, or somebody else committed meanwhile. HubLost: run again to go on.
    """
    if not REPO.fullmatch(repo) or ".." in repo or "--" in repo:
        raise RecipeError(
            f"--repo {repo!r}: write ORG/NAME, each of A-Z a-z 0-9 . _ - beginning with a letter or digit"
        )
    _, files, notes = facts_to_publish(dataset, partial=partial, uncalibrated=uncalibrated)
    with _Client(endpoint, silence, waits) as client:
        place = _Place(client, repo, dataset)
        done = Published(str(dataset), place.url, files, dry_run=dry_run, private=not public, notes=notes)
        if place.look() is None and not dry_run:
            client.tried("making the repository", lambda: place.make(private=not public))
            place.look()
        place.refuse_if_not_ours(public=public)
        done.sent, done.removed = place.lacking(files), place.stale(files)
        if not dry_run:
            done.commit = _committed(client, place, dataset, done)
            _tag(client, place, dataset.version, done.commit)
    return done


def _committed(client: "_Client", place: "_Place", dataset: Dataset, done: Published) -> str:
    """The commit that holds just these files: a new one, or the head where it does already."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    parent = str(place.head)

    def commit() -> str:
        if place.look() != parent:  # a commit of ours whose answer was lost, or one of somebody else
            if not place.differing(done.files) and not place.stale(done.files):
                return str(place.head)
            raise LawBroken(
                f"{place.repo} has changed since it was looked at ({parent[:12]} to {str(place.head)[:12]}); nothing was committed: "
                "see what happened there, then run again"
            )
        if not place.differing(done.files) and not done.removed:
            return parent
        operations: list[Any] = [CommitOperationDelete(path_in_repo=path) for path in done.removed]
        operations += [CommitOperationAdd(f.path, str(dataset.path / f.path)) for f in done.files]
        made = client.api.create_commit(
            place.repo,
            operations,
            commit_message=str(dataset),
            repo_type="dataset",
            revision="main",
            parent_commit=parent,
        )
        return str(made.oid)

    return client.tried("the commit", commit)


def _tag(client: "_Client", place: "_Place", version: str, commit: str) -> None:
    def tag() -> None:
        refs = client.api.list_repo_refs(place.repo, repo_type="dataset")
        there = {ref.name: ref.target_commit for ref in refs.tags}
        if version not in there:
            client.api.create_tag(place.repo, tag=version, revision=commit, repo_type="dataset")
        # a tag that is there already has this version's content, or was set by hand: it is not moved

    client.tried(f"the tag {version}; the commit {commit[:12]} stands", tag)


class _Place:
    """A repository, as it was when it was last looked at."""

    def __init__(self, client: "_Client", repo: str, dataset: Dataset) -> None:
        self._client, self.repo, self._dataset = client, repo, dataset
        self.head: str | None = None
        self.private = True
        self._tree: Mapping[str, Any] = {}

    @property
    def url(self) -> str:
        return f"{self._client.api.endpoint}/datasets/{self.repo}"

    def make(self, *, private: bool) -> None:
        self._client.api.create_repo(self.repo, repo_type="dataset", private=private, exist_ok=True)

    def look(self) -> str | None:
        """The commit that `main` stands at, and into the fields what it holds; None where there is no such repository."""
        from huggingface_hub.errors import RepositoryNotFoundError

        def read() -> str | None:
            try:
                info = self._client.api.dataset_info(self.repo, revision="main")
            except RepositoryNotFoundError as error:
                if error.response.status_code == 401:
                    raise  # the token is wrong; whether the repository is there nobody will tell it
                return None
            self.private = bool(info.private)
            tree = self._client.api.list_repo_tree(self.repo, repo_type="dataset", revision=info.sha, recursive=True)
            self._tree = {entry.path: entry for entry in tree if hasattr(entry, "blob_id")}
            return str(info.sha)

        self.head = self._client.tried("looking at the repository", read)
        return self.head

    def refuse_if_not_ours(self, *, public: bool) -> None:
        if self.head is None:
            return
        if not public and not self.private:
            raise LawBroken(f"{self.repo} is public: say --public to publish there, or name another repository")
        if public and self.private:
            raise LawBroken(
                f"{self.repo} is private: publish with --private, and make it public on the Hub once you want to"
            )
        strange = sorted(self._tree.keys() - set(OURS))
        if strange and "manifest.json" not in self._tree:
            raise LawBroken(
                f"{self.repo} holds files that tracemill did not publish, {strange[0]} first; name another repository"
            )

    def differing(self, files: Sequence[FileFacts]) -> list[FileFacts]:
        """Those that are not at their place in the repository."""
        return [file for file in files if not self._has(file)]

    def _has(self, file: FileFacts) -> bool:
        entry = self._tree.get(file.path)
        if entry is None or entry.size != file.bytes:
            return False
        if entry.lfs:
            return bool(entry.lfs.sha256 == file.sha256)
        data = (self._dataset.path / file.path).read_bytes()  # small, or it would be in LFS
        return bool(entry.blob_id == hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest())

    def lacking(self, files: Sequence[FileFacts]) -> list[FileFacts]:
        """Those whose bytes the repository holds nowhere at its head: what has to be sent."""
        known = {entry.lfs.sha256 for entry in self._tree.values() if entry.lfs}
        return [file for file in self.differing(files) if file.sha256 not in known]

    def stale(self, files: Sequence[FileFacts]) -> list[str]:
        """Tables and views of an earlier version that this one does not have: readers would take them for part of it."""
        keep = {file.path for file in files}
        return sorted(p for p in self._tree if p not in keep and (p.endswith(".parquet") or p.startswith("views/")))


class _Client:
    """The Hub's client with an end to its patience, and its errors in our words."""

    def __init__(self, endpoint: str | None, silence: float, waits: Sequence[float]) -> None:
        self._endpoint, self._silence, self._waits = endpoint, silence, waits
        self._token: str | None = None
        self.api: HfApi

    def __enter__(self) -> Self:
        import huggingface_hub
        from huggingface_hub.utils import _http
        from huggingface_hub.utils.tqdm import disable_progress_bars

        self._token = huggingface_hub.get_token()
        if self._token is None:
            raise RecipeError(
                "no token of the Hub: set HF_TOKEN, or log in with `hf auth login`; it needs the right to write"
            )
        if not sys.stderr.isatty():
            disable_progress_bars()

        def impatient() -> Any:
            client = _http.default_client_factory()
            client.timeout = self._silence
            return client

        huggingface_hub.set_client_factory(impatient)
        self._filter = _Discreet(self._token)
        for handler in logging.getLogger("huggingface_hub").handlers:
            handler.addFilter(self._filter)
        self.api = huggingface_hub.HfApi(endpoint=self._endpoint, token=self._token, library_name="tracemill")
        return self

    def __exit__(self, *error: object) -> None:
        import huggingface_hub
        from huggingface_hub.utils import _http

        huggingface_hub.set_client_factory(_http.default_client_factory)
        for handler in logging.getLogger("huggingface_hub").handlers:
            handler.removeFilter(self._filter)

    def tried(self, what: str, call: Callable[[], Result]) -> Result:
        """The result of a call, repeated while the Hub is busy or away; the other errors are told apart and raised."""
        from huggingface_hub.errors import HfHubHTTPError

        http_error: Any = HfHubHTTPError.__bases__[0]  # of the library that this release of the client talks through
        said = ""
        for wait in (*self._waits, None):
            try:
                return call()
            except TracemillError:
                raise
            except (http_error, OSError, ValueError, RuntimeError) as error:
                fault = _at_the_root(error)
                asked = self._refusal(what, fault)
                said = clean(str(fault).strip().partition("\n\n")[0] or type(fault).__name__, self._token)
            if wait is None:
                break
            time.sleep(min(asked or wait, LONGEST_WAIT))
        raise HubLost(
            f"the Hub failed at {what}: {said}; what went up stays there and is not sent again: run the same command again"
        )

    def _refusal(self, what: str, error: Exception) -> float | None:
        """Raise what no repetition would mend; else the seconds that the Hub asks to wait, where it does."""
        response = getattr(error, "response", None)
        status = getattr(response, "status_code", None)
        said = clean(getattr(error, "server_message", None) or str(error).strip().replace("\n", " "), self._token)
        if status is None and not isinstance(error, json.JSONDecodeError):
            if type(error).__name__ == "OfflineModeIsEnabled":
                raise RecipeError("HF_HUB_OFFLINE is set, so nothing can be published: unset it") from None
            if isinstance(error, ValueError):
                raise RecipeError(f"the Hub's client refuses {what}: {said}") from None
            return None
        if status in (409, 412):
            raise LawBroken(
                f"somebody else changed the repository during {what} ({status}: {said}); see what it is, then run again"
            ) from None
        if status is not None and status not in BUSY and status < 500:
            raise RecipeError(
                f"the Hub refuses {what} ({status}: {said}); {HINTS.get(status, 'mend that and run again')}"
            ) from None
        after = response.headers.get("Retry-After", "") if response is not None else ""
        return float(after) if after.isdigit() else None


def _at_the_root(error: Exception) -> Exception:
    """What made an upload fail: the client wraps that, status and all, in a RuntimeError that names the file."""
    return error.__cause__ if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception) else error


class _Discreet(logging.Filter):
    """Cuts tokens and signed URLs out of what the client logs."""

    def __init__(self, token: str) -> None:
        super().__init__()
        self._token = token

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = clean(record.getMessage(), self._token), ()
        return True
