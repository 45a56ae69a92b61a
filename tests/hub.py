"""A Hub on the loopback: enough of its routes for the real client to create, upload, commit, tag and load a dataset.

Content is in memory. Every request is logged; faults are asked for by route, and happen so many times:

    with Hub() as hub:
        hub.fault("POST", "/commit/", status=500, times=1)                  # answered with an error
        hub.fault("POST", "/commit/", status=500, times=1, done=True)       # done all the same: a lost answer
        hub.fault("PUT", "/__lfs/", drop=True)                              # the connection is closed, half an answer sent
"""

import base64
import hashlib
import json
import re
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

TOKEN = "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0"
LFS = (".parquet", ".arrow", ".bin")


@dataclass
class Fault:
    method: str
    route: str
    status: int = 500
    times: int = 1
    headers: Mapping[str, str] = field(default_factory=dict)
    sleep: float = 0
    drop: bool = False
    half: bool = False
    done: bool = False
    message: str = "injected"


@dataclass
class File:
    sha: str
    oid: str
    size: int
    lfs: bool

    def plain(self, path: str) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": path, "oid": self.oid, "size": self.size}
        return {**entry, "lfs": {"oid": self.sha, "size": self.size, "pointerSize": 130}} if self.lfs else entry


@dataclass
class Commit:
    files: dict[str, File]
    parent: str | None
    title: str


@dataclass
class Repo:
    private: bool
    commits: dict[str, Commit]
    heads: dict[str, str]
    tags: dict[str, str] = field(default_factory=dict)

    def commit_of(self, revision: str) -> str | None:
        return self.heads.get(revision) or self.tags.get(revision) or (revision if revision in self.commits else None)

    def add(self, files: dict[str, File], title: str) -> str:
        parent = self.heads.get("main")
        oid = hashlib.sha1(f"{parent}{title}{sorted(files)}{time.time_ns()}".encode()).hexdigest()
        self.commits[oid] = Commit(files, parent, title)
        self.heads["main"] = oid
        return oid


class Hub:
    """The server, in a thread of its own while the `with` lasts."""

    def __init__(self, *, may_write: bool = True) -> None:
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.xorbs: dict[str, int] = {}
        self.log: list[str] = []
        self.uploaded: list[str] = []
        self.may_write = may_write
        self.lock = threading.RLock()
        self._faults: list[Fault] = []

    def __enter__(self) -> Self:
        handler = type("Bound", (Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def fault(self, method: str, route: str, **what: Any) -> None:
        self._faults.append(Fault(method, route, **what))

    def heal(self) -> None:
        self._faults.clear()

    def due(self, method: str, path: str) -> Fault | None:
        for fault in self._faults:
            if fault.times > 0 and fault.method == method and re.search(fault.route, path):
                fault.times -= 1
                return fault
        return None

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """Everything a reader finds at a revision."""
        found = self.repos[repo]
        commit = found.commits[str(found.commit_of(revision))]
        return {path: self.blobs[file.sha] for path, file in commit.files.items() if path != ".gitattributes"}

    def seen(self, route: str) -> list[str]:
        return [line for line in self.log if re.search(route, line)]


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args: object) -> None:
        pass

    def handle_all(self) -> None:
        body = self._body()
        split = urllib.parse.urlsplit(self.path)
        path, query = urllib.parse.unquote(split.path), dict(urllib.parse.parse_qsl(split.query))
        with self.hub.lock:
            self.hub.log.append(f"{self.command} {path}")
            fault = self.hub.due(self.command, path)
        if fault and fault.sleep:
            time.sleep(fault.sleep)
        if fault and not (fault.done or fault.sleep):
            return self._fail(fault)
        with self.hub.lock:
            try:
                answer = self._route(path, query, body)
            except Answer as early:
                answer = early
        return self._fail(fault) if fault and fault.done else self._send(answer)

    do_GET = do_POST = do_PUT = do_HEAD = handle_all  # noqa: N815 - the server looks for these names

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _fail(self, fault: Fault) -> None:
        if fault.drop:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        answer = error(fault.status, fault.message)
        answer.headers.update(fault.headers)
        if fault.half:
            raw = answer.raw or b""
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw) * 4))
            self.end_headers()
            self.wfile.write(raw)
            self.close_connection = True
            return
        self._send(answer)

    def _send(self, answer: "Answer") -> None:
        raw = answer.raw if answer.raw is not None else b""
        self.send_response(answer.status)
        headers = {"Content-Type": answer.kind, "Content-Length": str(len(raw)), **answer.headers}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            if self.command != "HEAD":
                self.wfile.write(raw)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client has gone away, as some tests have it

    def _route(self, path: str, query: Mapping[str, str], body: bytes) -> "Answer":
        if path.startswith(("/api/", "/datasets/")) and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return error(401, "Invalid username or password.")
        for pattern, answer in ROUTES:
            if match := re.fullmatch(pattern, path):
                return answer(self, match, query, body)
        return error(404, f"no such route: {self.command} {path}")

    def repo(self, name: str) -> Repo:
        if name not in self.hub.repos:
            raise error(404, "Repository not found", code="RepoNotFound")
        return self.hub.repos[name]

    def commit(self, name: str, revision: str) -> tuple[str, Commit]:
        repo = self.repo(name)
        if (oid := repo.commit_of(revision)) is None:
            raise error(404, f"Invalid rev id: {revision}", code="RevisionNotFound")
        return oid, repo.commits[oid]

    # a function for each route: match of the path, query, body

    def whoami(self, match: Any, query: Any, body: bytes) -> "Answer":
        return ok({"type": "user", "name": "me", "orgs": [], "auth": {"type": "access_token"}})

    def nothing(self, match: Any, query: Any, body: bytes) -> "Answer":
        return ok({"errors": [], "warnings": [], "harnesses": []})

    def create(self, match: Any, query: Any, body: bytes) -> "Answer":
        asked = json.loads(body)
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if not self.hub.may_write:
            return error(403, "You don't have the rights to create a dataset under this namespace")
        if name in self.hub.repos:
            return error(409, "You already created this dataset repo", url=f"{self.hub.url}/datasets/{name}")
        repo = self.hub.repos[name] = Repo(asked.get("visibility") == "private" or asked.get("private") is True, {}, {})
        self.hub.blobs[(sha := hashlib.sha256(b"*.parquet lfs\n").hexdigest())] = b"*.parquet lfs\n"
        repo.add({".gitattributes": File(sha, git_oid(b"*.parquet lfs\n"), 14, False)}, "initial commit")
        return ok({"url": f"{self.hub.url}/datasets/{name}", "name": name, "id": "0"})

    def preupload(self, match: Any, query: Any, body: bytes) -> "Answer":
        _, commit = self.commit(match[1], match[2])
        files = []
        for file in json.loads(body)["files"]:
            have = commit.files.get(file["path"])
            lfs = file["path"].endswith(LFS)
            oid = None if have is None else have.sha if have.lfs else have.oid
            files.append(
                {"path": file["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False, "oid": oid}
            )
        return ok({"files": files})

    def lfs_batch(self, match: Any, query: Any, body: bytes) -> "Answer":
        objects = []
        for wanted in json.loads(body)["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.blobs:
                upload = {"href": f"{self.hub.url}/__lfs/{wanted['oid']}?signature=PresignedSecret"}
                entry["actions"] = {"upload": upload, "verify": {"href": f"{self.hub.url}/__verify"}}
            objects.append(entry)
        return ok({"transfer": "basic", "objects": objects}, kind="application/vnd.git-lfs+json")

    def lfs_put(self, match: Any, query: Any, body: bytes) -> "Answer":
        if hashlib.sha256(body).hexdigest() != match[1]:
            return error(400, "the body is not what its hash says")
        self.hub.blobs[match[1]] = body
        self.hub.uploaded.append(match[1])
        return ok({})

    def lfs_verify(self, match: Any, query: Any, body: bytes) -> "Answer":
        return ok({}) if json.loads(body)["oid"] in self.hub.blobs else error(404, "not there")

    def post_commit(self, match: Any, query: Any, body: bytes) -> "Answer":
        head, old = self.commit(match[1], match[2])
        header, *items = [json.loads(line) for line in body.splitlines() if line.strip()]
        parent = header["value"].get("parentCommit")
        if parent and not head.startswith(parent):
            return error(412, "A commit has happened since. Please refresh and try again.")
        files = dict(old.files)
        for item in items:
            self._apply(files, item["key"], item["value"])
        oid = self.repo(match[1]).add(files, header["value"]["summary"])
        url = f"{self.hub.url}/datasets/{match[1]}/commit/{oid}"
        return ok({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})

    def _apply(self, files: dict[str, File], key: str, value: Mapping[str, Any]) -> None:
        if key == "file":
            data = base64.b64decode(value["content"])
            sha = hashlib.sha256(data).hexdigest()
            self.hub.blobs[sha] = data
            files[value["path"]] = File(sha, git_oid(data), len(data), lfs=False)
        elif key == "lfsFile":
            if value["oid"] not in self.hub.blobs and not self.hub.xorbs:
                raise error(400, f"LFS pointer pointed to a file that does not exist: {value['path']}")
            size = value.get("size") or len(self.hub.blobs.get(value["oid"], b""))
            files[value["path"]] = File(value["oid"], git_oid(value["oid"].encode()), size, lfs=True)
        elif key == "deletedFile":
            del files[value["path"]]
        else:
            raise error(400, f"no such operation: {key}")

    def tag(self, match: Any, query: Any, body: bytes) -> "Answer":
        oid, _ = self.commit(match[1], match[2])
        name, repo = json.loads(body)["tag"], self.repo(match[1])
        if name in repo.tags:
            return error(409, "Tag reference exists already")
        repo.tags[name] = oid
        return ok({}, status=201)

    def refs(self, match: Any, query: Any, body: bytes) -> "Answer":
        repo = self.repo(match[1])
        heads = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": c} for n, c in repo.heads.items()]
        tags = [{"name": n, "ref": f"refs/tags/{n}", "targetCommit": c} for n, c in repo.tags.items()]
        return ok({"branches": heads, "converts": [], "tags": tags})

    def info(self, match: Any, query: Any, body: bytes) -> "Answer":
        oid, commit = self.commit(match[1], match[2] or "main")
        private = self.repo(match[1]).private
        about = {"_id": "0", "id": match[1], "author": "me", "sha": oid, "private": private, "gated": False}
        dates = {"lastModified": "2026-01-01T00:00:00.000Z", "createdAt": "2026-01-01T00:00:00.000Z"}
        siblings = [{"rfilename": path} for path in commit.files]
        more = {"disabled": False, "tags": [], "downloads": 0, "likes": 0, "siblings": siblings}
        return ok({**about, **dates, **more})

    def tree(self, match: Any, query: Any, body: bytes) -> "Answer":
        _, commit = self.commit(match[1], match[2])
        below = f"{match[3].strip('/')}/" if match[3] else ""
        deep = query.get("recursive", "").lower() in ("true", "1")
        entries, folders = [], set()
        for path, file in commit.files.items():
            if not path.startswith(below):
                continue
            rest = path[len(below) :].split("/")
            folders |= {below + "/".join(rest[:i]) for i in range(1, len(rest)) if deep or i == 1}
            if deep or len(rest) == 1:
                entries.append(file.plain(path))
        if below and not entries and not folders:
            return error(404, f"{below} does not exist", code="EntryNotFound")
        return ok(
            [*entries, *({"type": "directory", "path": f, "oid": git_oid(f.encode()), "size": 0} for f in folders)]
        )

    def paths_info(self, match: Any, query: Any, body: bytes) -> "Answer":
        _, commit = self.commit(match[1], match[2])
        asked = (
            json.loads(body)["paths"]
            if body.startswith(b"{")
            else urllib.parse.parse_qs(body.decode()).get("paths", [])
        )
        return ok([commit.files[path].plain(path) for path in asked if path in commit.files])

    def resolve(self, match: Any, query: Any, body: bytes) -> "Answer":
        oid, commit = self.commit(match[1], match[2])
        if (file := commit.files.get(match[3])) is None:
            return error(404, "Entry not found", code="EntryNotFound")
        data = self.hub.blobs[file.sha]
        headers = {"X-Repo-Commit": oid, "ETag": f'"{file.sha if file.lfs else file.oid}"', "Accept-Ranges": "bytes"}
        if file.lfs:
            headers |= {"X-Linked-Size": str(file.size), "X-Linked-Etag": f'"{file.sha}"'}
        wanted = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted and self.command == "GET":
            last = min(int(wanted[2] or len(data)), len(data) - 1)
            headers["Content-Range"] = f"bytes {wanted[1]}-{last}/{len(data)}"
            return Answer(206, data[int(wanted[1]) : last + 1], headers, "application/octet-stream")
        return Answer(200, data, headers, "application/octet-stream")

    # Xet: content goes in by chunks that this Hub does not put together again

    def xet_token(self, match: Any, query: Any, body: bytes) -> "Answer":
        expires = int(time.time()) + 3600
        facts = {"casUrl": f"{self.hub.url}/__cas", "exp": expires, "accessToken": "xet"}
        headers = {
            "X-Xet-Cas-Url": facts["casUrl"],
            "X-Xet-Access-Token": "xet",
            "X-Xet-Token-Expiration": str(expires),
        }
        return ok(facts, headers=headers)

    def cas(self, match: Any, query: Any, body: bytes) -> "Answer":
        if "/xorbs/" in match[0] and self.command == "POST":
            self.hub.xorbs[match[0].rpartition("/")[2]] = len(body)
            return ok({"was_inserted": True})
        if match[0].endswith("/v2/shards"):
            return Answer(200, b'{"type":"result","result":1}\n', {}, "application/x-ndjson")
        if match[0].endswith("/shards"):
            return ok({"result": 1})
        return error(404, "not found")


class Answer(Exception):
    def __init__(self, status: int, raw: bytes | None, headers: dict[str, str], kind: str = "application/json") -> None:
        super().__init__(status)
        self.status, self.raw, self.headers, self.kind = status, raw, headers, kind


def ok(
    value: Any, *, status: int = 200, kind: str = "application/json", headers: Mapping[str, str] | None = None
) -> Answer:
    return Answer(status, json.dumps(value).encode(), dict(headers or {}), kind)


def error(status: int, message: str, *, code: str = "", **more: Any) -> Answer:
    headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
    return Answer(status, json.dumps({"error": message, **more}).encode(), headers)


Route = Callable[[Handler, Any, Any, bytes], Answer]
ROUTES: list[tuple[str, Route]] = [
    (r"/api/whoami-v2", Handler.whoami),
    (r"/api/(?:validate-yaml|agent-harnesses)", Handler.nothing),
    (r"/api/repos/create", Handler.create),
    (r"/api/datasets/([^/]+/[^/]+)/preupload/([^/]+)", Handler.preupload),
    (r"/datasets/([^/]+/[^/]+)\.git/info/lfs/objects/batch", Handler.lfs_batch),
    (r"/__lfs/([0-9a-f]{64})", Handler.lfs_put),
    (r"/__verify", Handler.lfs_verify),
    (r"/api/datasets/([^/]+/[^/]+)/commit/([^/]+)", Handler.post_commit),
    (r"/api/datasets/([^/]+/[^/]+)/tag/([^/]+)", Handler.tag),
    (r"/api/datasets/([^/]+/[^/]+)/refs", Handler.refs),
    (r"/api/datasets/([^/]+/[^/]+)/tree/([^/]+)(/.*)?", Handler.tree),
    (r"/api/datasets/([^/]+/[^/]+)/paths-info/([^/]+)", Handler.paths_info),
    (r"/api/datasets/([^/]+/[^/]+)/xet-(?:write|read)-token/([^/]+)", Handler.xet_token),
    (r"/api/datasets/([^/]+/[^/]+)(?:/revision/([^/]+))?", Handler.info),
    (r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", Handler.resolve),
    (r"/__cas.*", Handler.cas),
]
