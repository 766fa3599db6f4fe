"""A TUF client around `nebh.signing.trust_store`: refresh() and read() over HTTP. Exit status 0 or 1."""

from __future__ import annotations

import argparse
import sys
import urllib.error
import urllib.request
from pathlib import Path
from urllib import parse

from nebh.host.files import write_atomic
from nebh.model.errors import NebhError, Unreachable
from nebh.signing.trust_store import METADATA, TARGETS, Fetch, TrustStore

TARGET_LIMIT = 64 << 20


def over_http(metadata_url: str, targets_url: str) -> Fetch:
    """Return a Fetch from two base URLs; 403 and 404 mean that there is no such file."""
    bases = {METADATA: metadata_url, TARGETS: targets_url}

    def fetch(name: str, limit: int) -> bytes | None:
        prefix, path = (METADATA if name.startswith(METADATA) else TARGETS), name.partition("/")[2]
        url = bases[prefix].rstrip("/") + "/" + parse.quote(path, safe="/%!$&'()*+,;=:@~")
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                data: bytes = answer.read(limit + 1)
                return data
        except urllib.error.HTTPError as error:
            if error.code in {403, 404}:
                return None
            raise Unreachable(f"cannot fetch {url}: status {error.code}") from error
        except OSError as error:
            raise Unreachable(f"cannot fetch {url}: {error}") from error

    return fetch


def main(argv: list[str]) -> int:
    """Run one command; returns the exit status, says on standard error why it is 1."""
    try:
        run(argv)
    except (NebhError, OSError) as error:
        print(f"tuf_client: {error}", file=sys.stderr)
        return 1
    return 0


def run(argv: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--metadata-dir", type=Path, required=True)
    parser.add_argument("--metadata-url", default="")
    parser.add_argument("--target-name", action="append", default=[])
    parser.add_argument("--target-base-url", default="")
    parser.add_argument("--target-dir", type=Path)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init").add_argument("root", type=Path)
    commands.add_parser("refresh")
    commands.add_parser("download")
    arguments = parser.parse_args(argv)
    if arguments.command == "init":
        arguments.metadata_dir.mkdir(parents=True, exist_ok=True)
        write_atomic(arguments.metadata_dir / "root.json", arguments.root.read_bytes())
        return
    store = TrustStore(
        arguments.metadata_dir,
        over_http(arguments.metadata_url, arguments.target_base_url),
        (arguments.metadata_dir / "root.json").read_bytes(),
        None,
        targets_dir=arguments.target_dir,
    )
    store.refresh()
    for name in arguments.target_name if arguments.command == "download" else ():
        store.read(name, limit=TARGET_LIMIT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
