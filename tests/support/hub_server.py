"""A local server that speaks as much of the Hub's API as huggingface_hub needs, with faults on demand."""

import base64
import contextlib
import hashlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import huggingface_hub.constants
import pytest

TOKEN = "hf_only_for_this_test"  # noqa: S105 - of the Hub below


@dataclass
class Repo:
    """Commits, oldest first: hash and files; branches by name."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)


@dataclass
class Hub:
    """The running Hub.

    Attributes:
        url: its address.
        repos: by name.
        requests: method and path of each, in order.
        corrupt: how many of the next downloads of weights are damaged.
        damage: damages them; by default it flips a bit of the last byte.
        break_at: requests whose path contains this lose their connection.
        forbid: whether the token lacks the right to write.
        fail: the answer to every request, if not None.

    """

    url: str
    repos: dict[str, Repo] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    uploads: dict[str, bytes] = field(default_factory=dict)
    corrupt: int = 0
    damage: Callable[[bytes], bytes] = lambda content: content[:-1] + bytes([content[-1] ^ 1])
    break_at: str = ""
    forbid: bool = False
    fail: "Reply | None" = None

    def add(self, name: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Commit files beside those that are there; return the commit's hash."""
        repo = self.repos.setdefault(name, Repo(private=False))
        content = {**repo.commits.get(repo.branches.get(branch, ""), {}), **files}
        text = f"{len(repo.commits)} {sorted(content)} {[hashlib.sha256(content[each]).digest() for each in content]}"
        commit = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        repo.commits[commit] = content
        repo.branches[branch] = commit
        return commit


class Reply(NamedTuple):
    """An answer of the Hub: bytes as they are, anything else as JSON."""

    status: int
    content: Any = None
    headers: Mapping[str, str] = MappingProxyType({})


@contextlib.contextmanager
def connected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Run a Hub, the only one that huggingface_hub knows, with a cache in `tmp_path` and the token TOKEN."""
    with serve_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        # huggingface_hub reads the environment when it is imported, so setting it now would be too late.
        for name, value in {
            "HF_HUB_CACHE": str(tmp_path / "hub"),
            "HF_TOKEN_PATH": str(tmp_path / "no-token"),
            "HF_STORED_TOKENS_PATH": str(tmp_path / "no-tokens"),
            "HF_HUB_DISABLE_XET": True,
        }.items():
            monkeypatch.setattr(huggingface_hub.constants, name, value)
        yield hub


@contextlib.contextmanager
def serve_hub() -> Iterator[Hub]:
    """Run a Hub on a free loopback port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            hub.requests.append(f"{self.command} {path}")
            self.close_connection = True
            if hub.break_at and hub.break_at in path:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                return
            parts = [part for part in path.split("/") if part]
            reply = hub.fail or _answer(hub, self.command, parts, self.headers.get("Authorization", ""), body)
            content = reply.content if isinstance(reply.content, bytes) else json.dumps(reply.content or {}).encode()
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(content)), "Connection": "close", **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # a client that has seen enough
                self.wfile.write(content if self.command != "HEAD" else b"")

        do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815 - the names the base class looks for

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as in the base class
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            pass  # connections that were closed on purpose

    server = Server(("127.0.0.1", 0), Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _answer(hub: Hub, method: str, parts: list[str], token: str, body: bytes) -> Reply:
    known = token == f"Bearer {TOKEN}"
    match parts:
        case ["api", "validate-yaml"]:
            return Reply(200, {"errors": [], "warnings": []})
        case ["upload", oid]:
            hub.uploads[oid] = body
            return Reply(200)
    if method == "POST":
        if not known or hub.forbid:
            return Reply(403 if known else 401, {"error": "no right to write"})
        return _write(hub, parts, body)
    match parts:
        case ["api", "models", org, name, *rest]:
            repo, file, revision = f"{org}/{name}", "", rest[1] if rest else "main"
        case [org, name, "resolve", revision, file]:
            repo = f"{org}/{name}"
        case _:
            return Reply(404)
    found = hub.repos.get(repo)
    if found is None or (found.private and not known):
        return Reply(404 if known else 401, headers={"X-Error-Code": "RepoNotFound"})
    commit = found.branches.get(revision, revision)
    if commit not in found.commits and file + revision != "main":
        return Reply(404, headers={"X-Error-Code": "RevisionNotFound"})
    files = found.commits.get(commit, {})
    if not file:
        return Reply(200, {"id": repo, "sha": commit, "siblings": [{"rfilename": each} for each in files]})
    if file not in files:
        return Reply(404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
    content = files[file]
    headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": commit}
    if method == "GET" and file.endswith(".safetensors") and hub.corrupt:
        hub.corrupt -= 1
        content = hub.damage(content)
    return Reply(200, content, headers)


def _write(hub: Hub, parts: list[str], body: bytes) -> Reply:
    match parts:
        case ["api", "repos", "create"]:
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            if repo in hub.repos:
                return Reply(409, {"error": "exists"})
            hub.repos[repo] = Repo(private=asked.get("private", asked.get("visibility") == "private"))
            return Reply(200, {"url": f"{hub.url}/{repo}"})
        case ["api", "models", org, name, "preupload", _]:
            paths = [each["path"] for each in json.loads(body)["files"]]
            modes = {path: "lfs" if path.endswith(".safetensors") else "regular" for path in paths}
            files = [{"path": path, "shouldIgnore": False, "uploadMode": mode} for path, mode in modes.items()]
            return Reply(200, {"files": files})
        case [_, name, "info", "lfs", "objects", "batch"] if name.endswith(".git"):
            objects = [
                {**each, "actions": {"upload": {"href": f"{hub.url}/upload/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            return Reply(200, {"transfer": "basic", "objects": objects})
        case ["api", "models", org, name, "branch", branch]:
            branches = hub.repos[f"{org}/{name}"].branches
            branches.setdefault(branch, branches.get("main", ""))
            return Reply(200, {})
        case ["api", "models", org, name, "commit", branch]:
            content = {}
            for line in body.splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    content[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    content[value["path"]] = hub.uploads[value["oid"]]
            commit = hub.add(f"{org}/{name}", content, branch)
            return Reply(200, {"commitUrl": f"{hub.url}/{org}/{name}/commit/{commit}", "commitOid": commit})
    return Reply(404)
