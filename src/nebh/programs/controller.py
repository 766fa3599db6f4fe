"""Entry point of `nebh-controller`: serve, init, migrate, stdio; verify, timestamp and complete are for its own children."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from nebh import __version__
from nebh.host import faults
from nebh.model.errors import BadInput, NebhError

if TYPE_CHECKING:
    from nebh.signing.controller_tools import ControllerTools

STATE, RUN = Path("/var/lib/nebh/controller"), Path("/run/nebh")
CHILD_REFUSES = 3


def main() -> None:
    """Run the controller and end the process with its exit status."""
    sys.exit(run(sys.argv[1:]))


def run(words: list[str]) -> int:
    """Run one command; returns its exit status."""
    faults.arm(dict(os.environ))
    options = _parser().parse_args(words)
    commands = {
        "serve": _serve,
        "init": _init,
        "migrate": _migrate,
        "stdio": _stdio,
        "verify": _verify,
        "timestamp": _timestamp,
        "complete": _complete,
    }
    try:
        return commands[options.command](options)
    except NebhError as error:
        print(f"nebh-controller: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  hint: {error.hint}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nebh-controller", description="Stores, schedules and relays; see docs/api.md"
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("serve", "serve the API on RUN/controller.sock"),
        ("init", "make the controller's key and print what an operator signs in"),
        ("migrate", "bring the database to this program's version"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--state", type=Path, default=STATE, help="folder for database, metadata, objects, keys")
    serve = commands.choices["serve"]
    serve.add_argument("--run", type=Path, default=RUN, help="folder for the socket")
    serve.add_argument("--listen", default="", metavar="ADDR:PORT", help="also listen on TCP with TLS 1.3")
    init = commands.choices["init"]
    init.add_argument("--root", type=Path, help="pin this root.json: the first publication must follow from it")
    stdio = commands.add_parser("stdio", help="join standard input and output to the controller's socket")
    stdio.add_argument("--run", type=Path, default=RUN)
    verify = commands.add_parser("verify")
    verify.add_argument("--root", type=Path, required=True)
    verify.add_argument("folders", type=Path, nargs="+")
    timestamp = commands.add_parser("timestamp")
    timestamp.add_argument("--number", type=int, required=True)
    timestamp.add_argument("snapshot", type=Path)
    complete = commands.add_parser("complete")
    complete.add_argument("--root", type=Path, required=True)
    complete.add_argument("staging", type=Path)
    complete.add_argument("standing", type=Path)
    for command in (verify, timestamp, complete):
        command.add_argument("--key", type=Path, required=True)
        command.add_argument("--cluster", default="")
    return parser


def _serve(options: argparse.Namespace) -> int:
    from nebh.api.serve import Door, serve
    from nebh.controller.certificate import ensure_certificate
    from nebh.controller.core import Core
    from nebh.controller.keys import ensure_key, key_path
    from nebh.controller.trust_child import TrustChild, migrate_in_child
    from nebh.host.clock import SystemClock
    from nebh.state.database import needs_migration

    state: Path = options.state
    state.mkdir(mode=0o750, parents=True, exist_ok=True)
    options.run.mkdir(parents=True, exist_ok=True)
    signer = ensure_key(state)
    if needs_migration(state / "controller.db"):
        migrate_in_child(state)
    door = None
    if options.listen:
        address, port = _address(options.listen)
        certificate, key = ensure_certificate(state)
        door = Door(address=address, port=port, certificate=certificate, key=key)

    async def begin() -> None:
        core = Core(
            state=state,
            signer=signer,
            tools=TrustChild(key=key_path(state)),
            now=SystemClock().now_ms,
            version=__version__,
        )
        gc.collect()
        gc.freeze()
        await serve(core, socket=options.run / "controller.sock", door=door)

    asyncio.run(begin())
    return 0


def _address(text: str) -> tuple[str, int]:
    address, _, port = text.rpartition(":")
    if not address or not port.isdigit() or not 0 < int(port) < 65536:
        raise BadInput(f"cannot listen on {text!r}", hint="write ADDRESS:PORT, such as 0.0.0.0:7443 or [::]:7443")
    return address.strip("[]"), int(port)


def _init(options: argparse.Namespace) -> int:
    from nebh.controller.certificate import ensure_certificate, pin_of
    from nebh.controller.keys import ensure_key
    from nebh.host.files import read_bounded, write_atomic
    from nebh.wire import codec

    options.state.mkdir(mode=0o750, parents=True, exist_ok=True)
    key = ensure_key(options.state)
    pin = pin_of(ensure_certificate(options.state)[0])
    if options.root:
        write_atomic(options.state / "root.json", read_bounded(options.root, limit=8 << 20))
    if os.geteuid() == 0:
        _give_to_owner(options.state)
    print(codec.encode({"controller_key": key.public, "tls_pin": pin}).decode())
    return 0


def _give_to_owner(state: Path) -> None:
    """Let the user whose folder `state` is read what root just made in it."""
    owner = state.stat()
    for path in (state / "root.json", state / "keys", *(state / "keys").iterdir()):
        if path.exists():
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _migrate(options: argparse.Namespace) -> int:
    from nebh.state.migrate import migrate

    options.state.mkdir(mode=0o750, parents=True, exist_ok=True)
    migrate(options.state / "controller.db")
    return 0


def _stdio(options: argparse.Namespace) -> int:
    from nebh.host.channels import bridge_stdio, connect_unix

    with connect_unix(options.run / "controller.sock") as channel:
        bridge_stdio(channel)
    return 0


def _verify(options: argparse.Namespace) -> int:
    from nebh.host.files import read_bounded
    from nebh.wire import codec

    root = read_bounded(options.root, limit=8 << 20)
    tools = _tools(options)
    return _answer(lambda: codec.encode(tools.verify(tuple(options.folders), root=root)))


def _timestamp(options: argparse.Namespace) -> int:
    from nebh.host.files import read_bounded

    snapshot = read_bounded(options.snapshot, limit=8 << 20)
    tools = _tools(options)
    return _answer(lambda: tools.timestamp(snapshot=snapshot, version=options.number))


def _complete(options: argparse.Namespace) -> int:
    import base64

    from nebh.host.files import read_bounded
    from nebh.wire import codec

    root = read_bounded(options.root, limit=8 << 20)
    tools = _tools(options)

    def make() -> bytes:
        made = tools.complete(options.staging, options.standing, root=root)
        return codec.encode({name: base64.b64encode(data).decode() for name, data in made.items()})

    return _answer(make)


def _tools(options: argparse.Namespace) -> ControllerTools:
    from nebh.host.clock import SystemClock
    from nebh.signing.controller_tools import ControllerTools
    from nebh.signing.node_keys import load_seed

    clock = SystemClock()
    return ControllerTools(key=load_seed(options.key), cluster_id=options.cluster, now=lambda: clock.now_ms() // 1000)


def _answer(make: Callable[[], bytes]) -> int:
    """Write what a child was asked for, or why not, as its parent reads it."""
    from nebh.wire import codec, failures

    try:
        answer, status = make(), 0
    except NebhError as error:
        answer, status = codec.encode(failures.to_plain(error)), CHILD_REFUSES
    sys.stdout.buffer.write(answer)
    return status


if __name__ == "__main__":
    main()
