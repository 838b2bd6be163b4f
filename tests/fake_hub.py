"""A small Hugging Face Hub on loopback: real HTTP, as far as a push, and fetching a model, need it."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_right_token_0123456789"
READER = "hf_reading_only_0123456789"


class FakeHub(ThreadingHTTPServer):
    """``repos`` maps names to {"private", "files"}, ``public`` those that anyone may read to their files; ``seen`` holds every request's path and authorization."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos = {}
        self.public = {}
        self.objects = {}
        self.seen = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def close(self):
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self._serve()

    do_POST = do_PUT = do_HEAD = do_GET

    def log_message(self, *_):
        pass

    def _serve(self):
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.split("?")[0]
        given = self.headers.get("Authorization", "")
        self.server.seen.append((self.command, path, given))
        if path.startswith("/upload/"):  # as S3: no authorization of the Hub's
            self.server.objects[path.rsplit("/", 1)[1]] = content
            return self._answer(200, {})
        if path == "/":
            return self._answer(200, {})
        if public := next((name for name in self.server.public if f"/{name}/" in f"{path}/"), None):
            return self._given(public, path)
        if given == f"Bearer {READER}":
            return self._answer(403, {"error": f"You may not write with {READER}"})
        if given != f"Bearer {TOKEN}":
            return self._answer(401, {"error": f"Invalid credentials: {given}"})
        return self._authorized(path, content)

    def _given(self, name, path):
        """A public repository's list of files, or one of them."""
        files, commit = self.server.public[name], "a" * 40
        if "/tree/" in path:
            entries = [
                {"type": "file", "path": file, "size": len(files[file]), "oid": "b" * 40} for file in files
            ]
            return self._answer(200, entries)
        if path.startswith("/api/models/"):
            listed = [{"rfilename": file} for file in files]
            return self._answer(
                200, {"_id": "1", "id": name, "modelId": name, "sha": commit, "private": False, "tags": [],
                      "downloads": 0, "likes": 0, "siblings": listed},
            )  # fmt: skip
        return self._file(files[path.split(f"/resolve/{commit}/", 1)[1]], commit)

    def _file(self, content, commit):
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _authorized(self, path, content):
        repos = self.server.repos
        if path == "/api/repos/create":
            asked = json.loads(content)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            if name in repos:
                return self._answer(
                    409, {"error": "You already created this repo", "url": f"{self.server.url}/{name}"}
                )
            private = asked.get("private") or asked.get("visibility") == "private"
            repos[name] = {"private": bool(private), "files": {}}
            return self._answer(200, {"url": f"{self.server.url}/{name}", "name": name})
        if path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        name = next((name for name in repos if f"/{name}" in path), None)
        if name is None:
            return self._answer(404, {"error": "Repository not found"})
        if path.endswith("/preupload/main"):
            files = json.loads(content)["files"]
            kinds = {True: "lfs", False: "regular"}
            modes = [
                {"path": f["path"], "uploadMode": kinds[f["path"].endswith((".safetensors", ".gguf"))]}
                for f in files
            ]
            return self._answer(200, {"files": [mode | {"shouldIgnore": False} for mode in modes]})
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                thing | {"actions": {"upload": {"href": f"{self.server.url}/upload/{thing['oid']}"}}}
                for thing in json.loads(content)["objects"]
            ]
            return self._answer(200, {"transfer": "basic", "objects": objects})
        if path.endswith("/commit/main"):
            self._commit(repos[name], content)
            return self._answer(
                200, {"commitUrl": f"{self.server.url}/{name}/commit/{'0' * 40}", "commitOid": "0" * 40}
            )
        if path == f"/api/models/{name}" or path == f"/api/models/{name}/revision/main":
            return self._answer(
                200, {"_id": "1", "id": name, "modelId": name, "private": repos[name]["private"], "tags": [],
                      "downloads": 0, "likes": 0, "siblings": []},
            )  # fmt: skip
        return self._answer(404, {"error": f"no such place: {path}"})

    def _commit(self, repo, content):
        for line in content.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                repo["files"][value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                stored = self.server.objects[value["oid"]]
                assert hashlib.sha256(stored).hexdigest() == value["oid"]
                repo["files"][value["path"]] = stored

    def _answer(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
