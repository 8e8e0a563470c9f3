"""A hub of models on this machine that responds as the public one does, and fails on demand.

``with hub_server() as hub:`` runs it; ``hub.add("owner/name", files)`` publishes a commit of a
model (``files``: bytes by path, or a folder) and returns the commit. ``hub.variables(folder)`` are
the environment variables under which lookalike and huggingface_hub use it, with caches in the
folder::

    with hub_server() as hub:
        commit = hub.add("owner/name", {"config.json": b"{}", "onnx/model.onnx": data})
        for name, value in hub.variables(tmp_path).items():
            monkeypatch.setenv(name, value)
        model = open_model("owner/name")

As on the public hub, ``/OWNER/NAME/resolve/REVISION/PATH`` redirects large files (``.onnx``,
``.onnx_data``, ``.bin``, ``.safetensors``, or 1 MB) to a second host (another port), with their
SHA-256 in X-Linked-Etag, and small ones to an address of the same host, which responds with git's
SHA-1 as ETag. ``hub.requests`` has every request with its headers; ``hub.faults`` says what goes
wrong.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.server
import re
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote, unquote, urlsplit

LARGE_SUFFIXES = (".onnx", ".onnx_data", ".bin", ".safetensors")
LARGE_BYTES = 1_000_000
PATIENCE_S = 30.0
"""Seconds that a held response waits at most."""


@dataclass(frozen=True)
class Request:
    """A request: ``host`` is "hub" or "storage", the names of ``headers`` are in lower case."""

    host: str
    method: str
    path: str
    headers: Mapping[str, str]


@dataclass
class Faults:
    """What goes wrong; as it is, nothing does.

    Attributes:
        cut_after: bytes of a body after which the connection is closed.
        cuts: how many bodies are cut.
        statuses: with headers, of the next responses to GET or HEAD of ``host``.
        status_host: the host that responds with them.
        wrong_sum: one byte of each body of a large file is another one.
        longer: bodies have more bytes than they should, without a length.
        other_length: bodies of large files are a byte short, and say so.
        ignores_range: Range is ignored.
        ignores_if_range: parts are sent although the file has changed.
        no_tags: without ETag and X-Linked-Etag; of responses to GET only: ``no_body_tags``.
        no_commit: without X-Repo-Commit.
        no_size: without Content-Length and X-Linked-Size.
        no_codes: without X-Error-Code.
        compressed: bodies are compressed though nobody asked for that.
        commit: another commit than that of the request is responded with.
        location: where large files are redirected to.
        hold: bodies of the storage wait for this event after ``cut_after`` bytes or none.
        gated: models that need ``token``, with the license to be accepted.
        private: models that nobody sees without ``token``.
        token: the only valid one.
        may_read: whether the owner of the token has access to gated models.
    """

    cut_after: int | None = None
    cuts: int = 0
    statuses: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    status_host: str = "hub"
    wrong_sum: bool = False
    longer: bool = False
    other_length: bool = False
    ignores_range: bool = False
    ignores_if_range: bool = False
    no_tags: bool = False
    no_body_tags: bool = False
    no_commit: bool = False
    no_size: bool = False
    no_codes: bool = False
    compressed: bool = False
    commit: str = ""
    location: str = ""
    hold: threading.Event | None = None
    gated: set[str] = field(default_factory=set)
    private: set[str] = field(default_factory=set)
    token: str = "hf_valid"
    may_read: bool = True


@dataclass
class _Model:
    revisions: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)


@dataclass
class HubServer:
    """A hub that runs; see the module."""

    endpoint: str = ""
    storage: str = ""
    models: dict[str, _Model] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    faults: Faults = field(default_factory=Faults)
    versions: dict[str, int] = field(default_factory=dict)
    """Of the bytes in the storage by path: those of a later version have another ETag."""
    arrived: threading.Event = field(default_factory=threading.Event)
    """Set once the storage was asked for a body."""

    def add(self, repo: str, files: Mapping[str, bytes] | Path, *, revision: str = "main") -> str:
        """Publish a commit of a model as a revision, and return the commit."""
        if isinstance(files, Path):
            files = {
                path.relative_to(files).as_posix(): path.read_bytes()
                for path in sorted(files.rglob("*"))
                if path.is_file()
            }
        model = self.models.setdefault(repo, _Model())
        listing = "".join(f"{path} {hashlib.sha1(files[path]).hexdigest()}\n" for path in files)
        commit = hashlib.sha1(f"{repo}\n{listing}".encode()).hexdigest()
        model.commits[commit] = dict(files)
        model.revisions[revision] = commit
        return commit

    def variables(self, folder: Path) -> dict[str, str]:
        """Return the environment variables under which the hub is used, with caches in a folder."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(folder / "huggingface"),
            "HF_HUB_CACHE": str(folder / "huggingface" / "hub"),
            "HF_TOKEN": "",
            "HUGGING_FACE_HUB_TOKEN": "",
            "HF_TOKEN_PATH": str(folder / "huggingface" / "token"),
            "HF_HUB_OFFLINE": "",
            "TRANSFORMERS_OFFLINE": "",
            "HF_HUB_DISABLE_IMPLICIT_TOKEN": "",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "LOOKALIKE_DATA": str(folder / "lookalike"),
            "LOOKALIKE_OFFLINE": "",
            "no_proxy": "127.0.0.1",
        }

    def count(self, method: str, host: str = "") -> int:
        """Return how many requests of a method there were, to one of the hosts or both."""
        return sum(each.method == method and host in ("", each.host) for each in self.requests)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: ClassVar[HubServer]
    host: ClassVar[str]

    def do_GET(self) -> None:
        self._respond()

    def do_HEAD(self) -> None:
        self._respond()

    def _respond(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.requests.append(Request(self.host, self.command, self.path, headers))
        faults = self.hub.faults
        with contextlib.suppress(ConnectionError):
            if faults.statuses and faults.status_host == self.host:
                status, extra = faults.statuses.pop(0)
                self._send(status, extra)
            elif self.host == "storage":
                self._send_stored(unquote(urlsplit(self.path).path))
            else:
                self._resolve()

    def _resolve(self) -> None:
        cached = re.fullmatch(
            r"/api/resolve-cache/models/([^/]+/[^/]+)/([0-9a-f]{40})/(.+)", urlsplit(self.path).path
        )
        match = cached or re.fullmatch(
            r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", urlsplit(self.path).path
        )
        if match is None:
            self._send(404, {})
            return
        repo, revision, path = map(unquote, match.groups())
        model = self.hub.models.get(repo)
        if self._refuses(repo, model):
            return
        assert model is not None
        commit = model.revisions.get(revision, revision)
        if commit not in model.commits:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        faults = self.hub.faults
        said = {} if faults.no_commit else {"X-Repo-Commit": faults.commit or commit}
        data = model.commits[commit].get(path)
        if data is None:
            self._refuse(404, "EntryNotFound", "Entry not found", said)
        elif cached:
            self._send_file(data, said | self._tag("ETag", git_sha1(data)))
        elif is_large(path, data):
            location = faults.location or f"{self.hub.storage}/{repo}/{commit}/{quote(path)}?key=1"
            size = {} if faults.no_size else {"X-Linked-Size": str(len(data))}
            sha256 = hashlib.sha256(data).hexdigest()
            tag = self._tag("X-Linked-Etag", sha256)
            self._send(302, said | size | tag | {"Location": location, "ETag": '"of the redirect"'})
        else:
            location = f"/api/resolve-cache/models/{repo}/{commit}/{quote(path)}?etag=1"
            self._send(307, said | {"Location": location})

    def _refuses(self, repo: str, model: _Model | None) -> bool:
        faults = self.hub.faults
        authorization = self.headers.get("Authorization")
        is_valid = authorization == f"Bearer {faults.token}"
        if authorization is not None and not is_valid:
            self._refuse(401, "", "Invalid credentials in Authorization header")
        elif model is None or (repo in faults.private and not is_valid):
            code = 404 if is_valid else 401
            self._refuse(code, "RepoNotFound", "Repository not found")
        elif repo in faults.gated and not is_valid:
            self._refuse(401, "GatedRepo", f"Access to model {repo} is restricted.")
        elif repo in faults.gated and not faults.may_read:
            self._refuse(403, "GatedRepo", f"Access to model {repo} is restricted.")
        else:
            return False
        return True

    def _refuse(
        self, status: int, code: str, message: str, extra: Mapping[str, str] | None = None
    ) -> None:
        codes = {"X-Error-Code": code} if code and not self.hub.faults.no_codes else {}
        self._send(status, {**(extra or {}), **codes, "X-Error-Message": message})

    def _tag(self, name: str, tag: str) -> dict[str, str]:
        faults = self.hub.faults
        left_out = faults.no_tags or (faults.no_body_tags and self.command == "GET")
        return {} if left_out else {name: f'"{tag}"'}

    def _send_stored(self, path: str) -> None:
        """Send a large file from the second host."""
        _, owner, name, commit, file = path.split("/", 4)
        data = self.hub.models[f"{owner}/{name}"].commits[commit][file]
        faults, version = self.hub.faults, self.hub.versions.get(file, 0)
        if faults.wrong_sum:
            data = bytes([data[0] ^ 1]) + data[1:]
        if version:
            data = bytes([version]) * len(data) if faults.ignores_if_range else data
        if faults.other_length:
            data = data[:-1]
        tag = f"{hashlib.md5(file.encode()).hexdigest()}-{version}"
        self._send_file(data, self._tag("ETag", tag))

    def _send_file(self, data: bytes, headers: dict[str, str]) -> None:
        faults = self.hub.faults
        start = self._start_of_range(headers.get("ETag", ""))
        status = 200
        if start is not None and start >= len(data):
            self._send(416, {"Content-Range": f"bytes */{len(data)}"})
            return
        if start is not None:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            data, status = data[start:], 206
        if faults.compressed:
            data = gzip.compress(data)
            headers["Content-Encoding"] = "gzip"
        if faults.longer:
            data += b"more"
        self._send(status, headers, data)

    def _start_of_range(self, tag: str) -> int | None:
        faults = self.hub.faults
        match = re.fullmatch(r"bytes=([0-9]+)-", self.headers.get("Range", ""))
        condition = self.headers.get("If-Range", tag)
        if match is None or faults.ignores_range:
            return None
        return int(match[1]) if condition == tag or faults.ignores_if_range else None

    def _send(self, status: int, headers: Mapping[str, str], data: bytes = b"") -> None:
        faults = self.hub.faults
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if not (faults.longer or faults.no_size):
            self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        if self.command == "HEAD":
            return
        first = len(data)
        if faults.cut_after is not None and (faults.cuts > 0 or faults.hold is not None):
            first = faults.cut_after
        self.wfile.write(data[:first])
        self.wfile.flush()
        if self.host == "storage":
            self.hub.arrived.set()
            if faults.hold is not None:
                faults.hold.wait(PATIENCE_S)
        if first < len(data) and faults.cuts > 0:
            faults.cuts -= 1
            return
        self.wfile.write(data[first:])

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def is_large(path: str, data: bytes) -> bool:
    """Return whether a file is kept in the storage."""
    return path.endswith(LARGE_SUFFIXES) or len(data) >= LARGE_BYTES


def git_sha1(data: bytes) -> str:
    """Return the name of the blob that git makes of some bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextlib.contextmanager
def hub_server(certificate: tuple[Path, Path] | None = None) -> Iterator[HubServer]:
    """Run a hub, and the storage that it redirects to, in threads.

    Args:
        certificate: files of the certificate and the key with which the hub, not the storage,
            speaks HTTPS.
    """
    hub = HubServer()
    with contextlib.ExitStack() as running:
        for host in ("hub", "storage"):
            handler = type("Handler", (_Handler,), {"hub": hub, "host": host})
            server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
            server.daemon_threads = True
            running.enter_context(server)
            scheme = "http"
            if certificate is not None and host == "hub":
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(*certificate)
                server.socket = context.wrap_socket(server.socket, server_side=True)
                scheme = "https"
            thread = threading.Thread(target=server.serve_forever, args=(0.02,))
            thread.start()
            running.callback(thread.join)
            running.callback(server.shutdown)
            address = f"{scheme}://127.0.0.1:{server.server_address[1]}"
            setattr(hub, "endpoint" if host == "hub" else "storage", address)
        yield hub
