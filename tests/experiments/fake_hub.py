"""A hub on this machine: as much of its protocol as huggingface_hub needs to send a model."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeHub:
    """What it was asked and what it holds.

    Attributes:
        files: name in the repository -> content.
        asked: (method, path) of each request.
        made: what was asked for when the repository was made; None while it is not.
        existing: what the hub says of the repository before; None where there is none.
        status: of the answer to a commit.
        tokens: that came with the requests, None of one without.
        large: checksum -> content of what was sent apart from the commit.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []
        self.made: dict[str, Any] | None = None
        self.existing: dict[str, Any] | None = None
        self.status = 200
        self.tokens: set[str | None] = set()
        self.large: dict[str, bytes] = {}
        self.url = ""

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Status and JSON."""
        path = path.partition("?")[0]
        if method == "GET" and path.startswith("/api/models/"):
            return (200, self.existing) if self.existing else (404, {"error": "not found"})
        if method == "PUT" and path.startswith("/large/"):
            self.large[path.rsplit("/", 1)[1]] = body
            return 200, {}
        if path == "/api/repos/create":
            self.made = json.loads(body)
            return 200, {"url": f"{self.url}/{self.made['organization']}/{self.made['name']}"}
        if path == "/api/validate-yaml":
            return 200, {"warnings": [], "errors": []}
        if "/preupload/" in path:
            files = json.loads(body)["files"]
            return 200, {"files": [{**_mode(file["path"]), "path": file["path"]} for file in files]}
        if path.endswith("/info/lfs/objects/batch"):
            return 200, {"objects": [self._object(one) for one in json.loads(body)["objects"]]}
        if "/commit/" in path:
            if self.status != 200:
                return self.status, {"error": "forbidden: no right to write"}
            for line in map(json.loads, body.decode().splitlines()):
                self._take(line["key"], line["value"])
            name = path.removeprefix("/api/models/").partition("/commit/")[0]
            done = {"commitUrl": f"{self.url}/{name}/commit/1", "commitOid": "1", "success": True}
            return 200, done
        return 404, {"error": f"not known: {method} {path}"}

    def _object(self, one: dict[str, Any]) -> dict[str, Any]:
        upload = {"href": f"{self.url}/large/{one['oid']}"}
        return {**one, "actions": {"upload": upload}}

    def _take(self, key: str, value: dict[str, Any]) -> None:
        if key == "file":
            self.files[value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile":
            self.files[value["path"]] = self.large[value["oid"]]


def _mode(path: str) -> dict[str, Any]:
    large = path.endswith(".safetensors")
    return {"uploadMode": "lfs" if large else "regular", "shouldIgnore": False}


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """A hub that answers until the end of the block."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(size) if size else self._chunks()
            hub.asked.append((self.command, self.path))
            if not self.path.startswith("/large/"):
                hub.tokens.add(self.headers.get("Authorization"))
            status, found = hub.answer(self.command, self.path, body)
            text = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            self.wfile.write(text)

        def _chunks(self) -> bytes:
            found = b""
            while "chunked" in self.headers.get("Transfer-Encoding", ""):
                size = int(self.rfile.readline(), 16)
                found += self.rfile.read(size)
                self.rfile.readline()
                if not size:
                    break
            return found

        do_GET = do_POST = do_PUT = _handle  # noqa: N815 (http.server's names)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
