"""A hub on loopback: as much of its API as fetching a model's snapshot, or uploading a data set, asks for."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Hub(ThreadingHTTPServer):
    """Serves the files of `folder` as the repository `owner/name` at `commit`.

    Attributes:
        fetched: names of the files whose bytes were asked for.
    """

    def __init__(self, folder: Path, commit: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.commit = folder, commit
        self.fetched: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        folder, commit = self.server.folder, self.server.commit
        path = self.path.split("?")[0]
        file = folder / path.removeprefix(f"/owner/name/resolve/{commit}/")
        names = [each.relative_to(folder).as_posix() for each in sorted(folder.rglob("*")) if each.is_file()]
        if path == f"/api/models/owner/name/revision/{commit}":
            body = json.dumps(
                {"id": "owner/name", "sha": commit, "siblings": [{"rfilename": n} for n in names]}
            ).encode()
        elif path.startswith(f"/api/models/owner/name/tree/{commit}"):
            sizes = [{"type": "file", "path": n, "size": (folder / n).stat().st_size, "oid": n} for n in names]
            body = json.dumps(sizes).encode()
        elif file.is_file():
            body = file.read_bytes()
            if with_body:
                self.server.fetched.append(file.relative_to(folder).as_posix())
        else:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


class DataSets(ThreadingHTTPServer):
    """Takes uploads of data sets while its block lasts.

    Attributes:
        private: name of each data set → whether it is private.
        committed: the paths of the files that were uploaded.
    """

    def __init__(self, private: dict[str, bool]) -> None:
        super().__init__(("127.0.0.1", 0), _Uploads)
        self.private, self.committed = private, list[str]()
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Uploads(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: DataSets

    def do_GET(self) -> None:
        name = self.path.partition("?")[0].removeprefix("/api/datasets/")
        if name not in self.server.private:
            self.send_error(404)
            return
        self._answer({"id": name, "sha": "0" * 40, "private": self.server.private[name], "siblings": [], "tags": []})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            exists = name in self.server.private
            self.server.private.setdefault(name, wanted["visibility"] == "private")
            self._answer({"url": f"{self.server.url}/datasets/{name}"}, 409 if exists else 200)
        elif "/preupload/" in self.path:
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in files]
            self._answer({"files": modes})
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        else:
            entries = [json.loads(line) for line in body.splitlines()]
            self.server.committed += [entry["value"]["path"] for entry in entries if entry["key"] == "file"]
            url = f"{self.server.url}/datasets/me/shop/commit/{'1' * 40}"
            self._answer({"commitUrl": url, "commitOid": "1" * 40, "commitTitle": "upload"})

    def _answer(self, document: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass
