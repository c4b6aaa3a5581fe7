"""A small server with the part of the Hub's HTTP interface that huggingface_hub uses for models, on loopback."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_right"
_RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_API = re.compile(r"/api/models/([^/]+/[^/]+?)(?:/(revision|preupload|commit|branch|tree)/([^/]+))?(?:/.*)?")


class FakeHub:
    """Repositories in memory: every commit is a dict of files.

    ``private``: repositories that need the token. ``cut``: names of files whose connection breaks in the
    middle. ``damage``: names of files that are delivered with one byte changed. ``requests``: what was asked for.
    """

    def __init__(self):
        self.repos, self.private, self.cut, self.damage, self.requests = {}, set(), set(), set(), []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def add(self, repo, files, revision="main"):
        branches, commits = self.repos.setdefault(repo, ({}, {}))
        commit = hashlib.sha1(repr((sorted(files), len(commits))).encode()).hexdigest()
        branches[revision], commits[commit] = commit, dict(files)
        return commit

    def files(self, repo, revision="main"):
        branches, commits = self.repos[repo]
        commit = branches.get(revision, revision)
        return commit, commits.get(commit)

    def fetched(self):
        """Names of the files whose content was sent."""
        return {name for method, _, name in self.requests if method == "GET"}

    def _handler(hub):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def reply(self, status, body=b"", headers=()):
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for key, value in dict(headers).items():
                    self.send_header(key, value)
                self.send_header("Connection", "close")  # a kept connection would outlive the server
                if "Content-Length" not in dict(headers):
                    self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            def refused(self, repo, *, write=False):
                """Answer with an error if the token is wrong, missing, or there is no such repository."""
                token = self.headers.get("Authorization")
                if token not in (None, f"Bearer {TOKEN}"):
                    message = "Invalid credentials in Authorization header"
                    self.reply(401, {"error": message}, {"X-Error-Message": message})
                elif write and token is None:
                    self.reply(401, {"error": "unauthorized"}, {"X-Error-Message": "unauthorized"})
                elif repo not in hub.repos or (repo in hub.private and token is None):
                    self.reply(401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
                else:
                    return False
                return True

            def do_GET(self):
                path = unquote(urlsplit(self.path).path)
                file = _RESOLVE.fullmatch(path)
                if file:
                    return self.resolve(*file.groups())
                api = _API.fullmatch(path)
                if api is None or self.refused(api[1]):
                    return None if api else self.reply(404)
                commit, files = hub.files(api[1], api[3] or "main")
                if files is None:
                    return self.reply(404, {"error": "no revision"}, {"X-Error-Code": "RevisionNotFound"})
                if api[2] == "tree":
                    entries = [
                        {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                        for name, data in files.items()
                    ]
                    return self.reply(200, entries)
                siblings = [{"rfilename": name} for name in files]
                return self.reply(
                    200, {"id": api[1], "sha": commit, "siblings": siblings, "private": False, "tags": []}
                )

            do_HEAD = do_GET

            def resolve(self, repo, revision, name):
                if self.refused(repo):
                    return None
                commit, files = hub.files(repo, revision)
                if files is None:
                    return self.reply(404, b"", {"X-Error-Code": "RevisionNotFound"})
                if name not in files:
                    return self.reply(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
                hub.requests.append((self.command, revision, name))
                data = files[name]
                headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
                if name in hub.damage:
                    data = bytes([data[0] ^ 1]) + data[1:]
                headers["Content-Length"] = str(len(data))
                if name in hub.cut and self.command == "GET":
                    self.close_connection = True
                    data = data[: len(data) // 2]
                return self.reply(200, data, headers)

            def do_POST(self):
                body = self.body()
                path = unquote(urlsplit(self.path).path)
                if path == "/api/validate-yaml":
                    return self.reply(200, {"errors": [], "warnings": []})
                if path == "/api/repos/create":
                    request = json.loads(body)
                    repo = f"{request.get('organization') or 'me'}/{request['name']}"
                    if repo not in hub.repos:
                        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                            message = "Invalid credentials in Authorization header"
                            return self.reply(401, {"error": message}, {"X-Error-Message": message})
                        hub.add(repo, {".gitattributes": b"*.bin filter=lfs\n"})
                        if request.get("private") or request.get("visibility") == "private":
                            hub.private.add(repo)
                        return self.reply(200, {"url": f"{hub.url}/{repo}"})
                    return self.reply(409, {"error": "exists", "url": f"{hub.url}/{repo}"})
                repo, action, revision = _API.fullmatch(path).groups()
                if self.refused(repo, write=True):
                    return None
                if action == "branch":
                    branches, _ = hub.repos[repo]
                    exists = revision in branches
                    branches.setdefault(revision, branches["main"])
                    return self.reply(409 if exists else 200, {"error": "exists"} if exists else {})
                if action == "preupload":
                    files = [
                        {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                        for file in json.loads(body)["files"]
                    ]
                    return self.reply(200, {"files": files})
                return self.commit(repo, revision, [json.loads(line) for line in body.splitlines() if line.strip()])

            def commit(self, repo, revision, lines):
                _, files = hub.files(repo, revision)
                files = dict(files)
                for line in lines:
                    if line["key"] == "file":
                        files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                    elif line["key"] == "deletedFile":
                        del files[line["value"]["path"]]
                oid = hub.add(repo, files, revision)
                return self.reply(200, {"commitUrl": f"{hub.url}/{repo}/commit/{oid}", "commitOid": oid})

            def body(self):
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length") or 0))
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)

        return Handler


@contextmanager
def running_hub():
    """Yield a running server."""
    hub = FakeHub()
    thread = threading.Thread(target=hub.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.server.shutdown()
        hub.server.server_close()
        thread.join()
