"""CI systems: a kit with one service's key, and the mode in which the controllers seal what it signed."""

from __future__ import annotations

import argparse
import base64
import binascii
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nebh.cli.output import Output
from nebh.cli.session import Session, now_seconds
from nebh.cli.words import ask_words
from nebh.host.files import read_bounded, write_atomic
from nebh.model.api import Who
from nebh.model.errors import BadInput, NotFound
from nebh.model.names import check_name
from nebh.signing.floors import Floors
from nebh.signing.operator import CLUSTER, FLOORS, ROOT, Cluster, ClusterFolder, create_folder, load_cluster
from nebh.wire import codec

if TYPE_CHECKING:
    from nebh.signing.repository import State
    from nebh.signing.wish import Signed

KEY: Final = "ci.key"
_LIMIT: Final = 8 << 20


@dataclass(frozen=True, kw_only=True)
class Kit:
    """What a CI system deploys with. key: the text of the CI key's file; root: base64 of the pinned root.json; pins:
    hex SHA-256 of the controller's certificate, separated by spaces; floors: the versions it must not go below."""

    cluster_id: str
    name: str
    controller: str
    pins: str
    key: str
    root: str
    floors: Floors


def mode(options: argparse.Namespace, out: Output) -> int:
    """Let the controllers sign the snapshot, or no longer."""
    from nebh.signing import key_life

    session = Session(options, out)
    words = ask_words(options.words_file)
    on = options.state == "on"

    def sign(state: State) -> Signed:
        return key_life.set_controllers(
            state,
            recovery_words=words,
            publics=state.trusted.settings.controller_keys,
            key=session.key,
            now=now_seconds(),
            ci_mode=on,
        )

    session.publish_signed(sign)
    out.say(
        f"CI mode is {options.state}: " + ("CI keys deploy by themselves" if on else "an operator seals every release")
    )
    return 0


def make_kit(options: argparse.Namespace, out: Output) -> int:
    """Write a kit."""
    from nebh.signing.keys import open_key

    session = Session(options, out)
    public = open_key(options.key, ask=_no_passphrase).public
    session.state()  # floors as of now
    cluster = session.folder.cluster
    kit = Kit(
        cluster_id=cluster.cluster_id,
        name=cluster.name,
        controller=options.controller or cluster.controller,
        pins=options.pin or cluster.options.get("pins", ""),
        key=read_bounded(Path(options.key), limit=1 << 16).decode(),
        root=base64.b64encode(session.folder.root).decode(),
        floors=session.folder.floors(),
    )
    write_atomic(Path(options.out), codec.encode(kit), mode=0o600)
    if out.json_wanted:
        out.document({"kit": options.out, "key": public, "controller": kit.controller})
        return 0
    out.say(f"{options.out}: the key {public[:8]}, for {kit.controller}")
    out.note("it is a secret: hand it to the CI system as one (NEBH_CI_KIT)")
    return 0


def _no_passphrase() -> str:
    raise BadInput("cannot make a kit of a key with a passphrase", hint="`nebh key add --new FILE --as ci:SERVICE`")


def use_kit(given: str, *, base: Path) -> ClusterFolder:
    """Return the folder of a kit's cluster below `base`, made on the first use; floors that were seen since stay. given:
    a file's name, or the kit itself. Raises NotFound, BadInput."""
    kit = read_kit(given)
    check_name(kit.name, what="cloud")
    if not (base / kit.name / CLUSTER).exists():
        cluster = Cluster(
            cluster_id=kit.cluster_id,
            name=kit.name,
            controller=kit.controller,
            key=KEY,
            options={"kind": Who.CI.value, **({"pins": kit.pins} if kit.pins else {})},
        )
        made = create_folder(base, cluster=cluster, root=_root_of(kit), floors=kit.floors)
        write_atomic(made.path / KEY, kit.key.encode(), mode=0o600)
    folder = load_cluster(base, kit.name)
    if folder.cluster.cluster_id != kit.cluster_id or folder.cluster.options.get("kind") != Who.CI.value:
        raise BadInput(
            f"cannot use the kit of {kit.name}: another cloud of that name is known in {base}",
            hint=f"set NEBH_CONFIG to a folder of its own ({ROOT} and {FLOORS} of the kit go there)",
        )
    return folder


def read_kit(given: str) -> Kit:
    """Return a kit from a file, or from its own text. Raises NotFound, BadInput."""
    if given.lstrip().startswith("{"):
        data = given.encode()
    else:
        try:
            data = read_bounded(Path(given), limit=_LIMIT)
        except OSError as error:
            raise NotFound(f"cannot read the CI kit {given}: {error.strerror or error}") from error
    return codec.decode_loose(data, Kit, what="the CI kit", limit=_LIMIT)


def _root_of(kit: Kit) -> bytes:
    try:
        return base64.b64decode(kit.root, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadInput("cannot use the CI kit: its root is broken") from error
