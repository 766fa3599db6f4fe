"""A TUF repository in memory, served over real HTTP, and our conformance client pointed at it."""

from __future__ import annotations

import copy
import http.server
import importlib.util
import json
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib import parse

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

CLIENT = Path(__file__).with_name("tuf_client")
_spec = importlib.util.spec_from_file_location("tuf_client", CLIENT.with_suffix(".py"))
tuf_client = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tuf_client)


class Repository:
    """A TUF repository in memory; tests change `bodies` and publish, or lie in `files`."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.signers: dict[str, list[CryptoSigner]] = {}
        soon = datetime.now(tz=UTC).replace(microsecond=0) + timedelta(days=30)
        self.bodies = {
            "root": Root(expires=soon),
            "targets": Targets(expires=soon),
            "snapshot": Snapshot(expires=soon),
            "timestamp": Timestamp(expires=soon),
        }
        for role in self.bodies:
            self.new_key(role)
        self.bodies["root"].version = 0
        for role in ("targets", "snapshot", "timestamp"):
            self.bodies[role].version = 0
        self.publish("root", "targets", "snapshot", "timestamp")

    def new_key(self, role: str) -> CryptoSigner:
        signer = CryptoSigner.generate_ed25519()
        self.bodies["root"].add_key(signer.public_key, role)
        self.signers.setdefault(role, []).append(signer)
        return signer

    def publish(self, *roles: str) -> None:
        for role in roles:
            body = self.bodies[role]
            body.version += 1
            data = self.sign(role, body)
            name = parse.quote(role, "")
            self.files[f"/metadata/{name}.json" if role == "timestamp" else f"/metadata/{body.version}.{name}.json"] = (
                data
            )
            meta = MetaFile.from_data(body.version, data, ["sha256"])
            if role == "snapshot":
                self.bodies["timestamp"].snapshot_meta = meta
            elif role not in {"root", "timestamp"}:
                self.bodies["snapshot"].meta[f"{role}.json"] = meta

    def sign(self, role: str, body) -> bytes:
        metadata = Metadata(copy.deepcopy(body))
        for signer in self.signers[role]:
            metadata.sign(signer, append=True)
        return metadata.to_bytes()

    def add(self, path: str, data: bytes, role: str = "targets") -> None:
        info = TargetFile.from_data(path, data, ["sha256"])
        self.bodies[role].targets[path] = info
        self.files["/targets/" + info.get_prefixed_paths()[0]] = data

    def delegate(self, role: str, paths: list[str]) -> None:
        signer = CryptoSigner.generate_ed25519()
        self.signers[role] = [signer]
        body = self.bodies["targets"]
        body.delegations = body.delegations or Delegations({}, {})
        body.delegations.roles[role] = DelegatedRole(role, [], 1, False, paths)
        body.add_key(signer.public_key, role)
        self.bodies[role] = Targets(version=1, expires=body.expires)
        self.bodies[role].version = 0

    def rewrite_signatures(self, name: str, change) -> None:
        """Serve the metadata file `name` with its list of signatures changed in place by `change`."""
        document = json.loads(self.files[f"/metadata/{name}"])
        change(document["signatures"])
        self.files[f"/metadata/{name}"] = json.dumps(document).encode()


@dataclass
class Client:
    folder: Path
    url: str
    repository: Repository
    asked: list[str] = field(default_factory=list)

    def run(self, *arguments: str) -> int:
        """In this process: 300 ms less each time. test_the_executable runs the real thing."""
        return tuf_client.main(["--metadata-dir", str(self.folder / "metadata"), *arguments])

    def init(self) -> int:
        (self.folder / "initial.json").write_bytes(self.repository.files["/metadata/1.root.json"])
        return self.run("init", str(self.folder / "initial.json"))

    def refresh(self) -> int:
        return self.run("--metadata-url", self.url + "/metadata", "refresh")

    def download(self, *names: str) -> int:
        wanted = [word for name in names for word in ("--target-name", name)]
        base = ["--target-base-url", self.url + "/targets", "--target-dir", str(self.folder / "targets")]
        return self.run("--metadata-url", self.url + "/metadata", *wanted, *base, "download")

    def versions(self) -> dict[str, int]:
        files = sorted((self.folder / "metadata").glob("*.json"))
        return {parse.unquote(path.stem): Metadata.from_file(str(path)).signed.version for path in files}

    def downloaded(self) -> list[bytes]:
        folder = self.folder / "targets"
        return sorted(path.read_bytes() for path in folder.iterdir()) if folder.exists() else []


@pytest.fixture
def client(tmp_path):
    repository = Repository()
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            data = repository.files.get(self.path)
            self.send_response(200 if data is not None else 404)
            self.end_headers()
            self.wfile.write(data or b"")

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    made = Client(tmp_path, f"http://127.0.0.1:{server.server_port}", repository, asked)
    assert made.init() == 0
    assert made.asked == []
    yield made
    server.shutdown()
    server.server_close()
    thread.join()
