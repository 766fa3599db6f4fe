"""Commands about keys and signatures."""

from __future__ import annotations

import argparse
from typing import Any

from nebh.cli.registry import Command, add_command, add_family


def register(subparsers: Any, common: argparse.ArgumentParser) -> None:
    """Add them."""
    _init(subparsers, common)
    _keys(subparsers, common)
    _trust(subparsers, common)


def _words_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--words-file", default="", metavar="FILE", help="read the recovery words there; - = stdin")


def _widen_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yes-widen", action="store_true", help="agree to changes that allow more than before")


def _passphrase_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--passphrase", action="store_true", help="protect the new key by a passphrase")


def _init(subparsers: Any, common: argparse.ArgumentParser) -> None:
    init = add_command(
        subparsers,
        common,
        "init",
        command=Command("trust", "init"),
        text="make the keys of a cloud whose controller was made by hand (`nebh up` does it all by itself)",
        details="Makes an operator key and twelve recovery words, signs the first metadata for a controller that "
        "`nebh-controller init` made, and publishes it there. `nebh up` does this by itself; this is for who sets a "
        "controller up by other means.",
        examples=("nebh init home --controller-key 9f…e1 --controller https://203.0.113.7:7443 --pin 77…0c",),
    )
    init.add_argument("cloud_name", metavar="NAME")
    init.add_argument(
        "--controller-key", required=True, metavar="HEX", help="the key that `nebh-controller init` printed"
    )
    init.add_argument(
        "--controller",
        default="unix:/run/nebh/controller/controller.sock",
        metavar="ADDRESS",
        help="unix:/path, https://host:port or ssh://root@host (default: this machine's)",
    )
    init.add_argument("--pin", default="", metavar="HEX", help="SHA-256 of its certificate, for https")
    init.add_argument(
        "--ssh-agent", nargs="?", const="", default=None, metavar="HEX", help="use the ssh-agent's key, not a new file"
    )
    init.add_argument("--words-file", default="", metavar="FILE", help="write the recovery words there instead")
    _passphrase_option(init)


def _keys(subparsers: Any, common: argparse.ArgumentParser) -> None:
    keys = add_family(
        subparsers,
        "key",
        text="list, add, revoke, rotate and recover keys",
        details="Operator, controller and recovery keys are changed with the recovery words; CI keys of one service without.",
    )
    add_command(
        keys,
        common,
        "list",
        command=Command("keys", "list_keys"),
        text="list every key and what it may sign; * is this computer's",
        examples=("nebh key list",),
    )
    _add_key(keys, common)
    _ci_keys(keys, common)
    _revoke_key(keys, common)
    _rotate_key(keys, common)
    _recover_key(keys, common)


def _add_key(keys: Any, common: argparse.ArgumentParser) -> None:
    add = add_command(
        keys,
        common,
        "add",
        command=Command("keys", "add"),
        text="let one more key sign",
        details="As operator or controller it needs the recovery words; as ci:SERVICE it may sign releases of that "
        "service and nothing else.",
        examples=(
            "nebh key add 9f…e1",
            "nebh key add --new colleague.key --passphrase",
            "nebh key add 9f…e1 --as ci:web",
        ),
    )
    add.add_argument("key", nargs="?", default="", metavar="HEX", help="public key, 64 hex digits")
    add.add_argument("--new", default="", metavar="FILE", help="make a new key, write it there, and add it")
    add.add_argument(
        "--as", dest="role", default="operator", type=_role, metavar="ROLE", help="operator, controller or ci:SERVICE"
    )
    _words_option(add)
    _widen_option(add)
    _passphrase_option(add)


def _ci_keys(keys: Any, common: argparse.ArgumentParser) -> None:
    mode = add_command(
        keys,
        common,
        "ci-mode",
        command=Command("ci", "mode"),
        text="let the controllers seal what a CI key signed, so that CI deploys by itself, or no longer",
        details="On: a release that a service's CI key signed takes effect without an operator, because the controllers may "
        "sign the snapshot. What they could then do if hacked: `nebh trust blast-radius controller`.",
        examples=("nebh key ci-mode on", "nebh key ci-mode off"),
    )
    mode.add_argument("state", choices=("on", "off"))
    _words_option(mode)
    _widen_option(mode)
    kit = add_command(
        keys,
        common,
        "ci-kit",
        command=Command("ci", "make_kit"),
        text="write what a CI system needs to deploy one service: its key, the pinned root, where the controller is",
        details="The kit is a secret: give it to the CI system as one, in a file or variable whose name NEBH_CI_KIT holds or "
        "is. It holds no operator key and reaches one service.",
        examples=("nebh key add --new ci.key --as ci:web", "nebh key ci-kit ci.key --out web.kit"),
    )
    kit.add_argument("key", metavar="FILE", help="the CI key's file, without a passphrase")
    kit.add_argument("--out", required=True, metavar="FILE", help="where to write the kit (mode 0600)")
    kit.add_argument("--controller", default="", metavar="ADDRESS", help="how CI reaches it (default: as from here)")
    kit.add_argument("--pin", default="", metavar="HEX", help="SHA-256 of its certificate, for https")


def _revoke_key(keys: Any, common: argparse.ArgumentParser) -> None:
    revoke = add_command(
        keys,
        common,
        "revoke",
        command=Command("keys", "revoke"),
        text="take a key's right to sign away",
        details="For a CI key its service's releases get a new role; with --since those it signed from then on are no "
        "longer listed, and the command names what then still runs and how to leave it.",
        examples=("nebh key revoke 1a2b3c4d", "nebh key revoke 9f00aa11 --since 1700000000"),
    )
    revoke.add_argument("key", metavar="KEY", help="its eight-digit name, or the beginning of the public key")
    revoke.add_argument(
        "--since", type=int, default=0, metavar="TIME", help="CI keys: delist releases signed since then (Unix seconds)"
    )
    _words_option(revoke)
    _widen_option(revoke)


def _rotate_key(keys: Any, common: argparse.ArgumentParser) -> None:
    rotate = add_command(
        keys,
        common,
        "rotate",
        command=Command("keys", "rotate"),
        text="put a new key in the place of this computer's",
        details="The old key can sign nothing afterwards; its file stays until you delete it. With --recovery: makes "
        "twelve new words and voids the old ones.",
        examples=("nebh key rotate", "nebh key rotate --recovery"),
    )
    rotate.add_argument("--recovery", action="store_true", help="replace the recovery words instead")
    rotate.add_argument("--new-words-file", default="", metavar="FILE", help="write the new words there")
    _words_option(rotate)
    _widen_option(rotate)
    _passphrase_option(rotate)


def _recover_key(keys: Any, common: argparse.ArgumentParser) -> None:
    recover = add_command(
        keys,
        common,
        "recover",
        command=Command("keys", "recover"),
        text="make a new operator key by the recovery words, when the old one is lost or stolen",
        details="The new key becomes the only operator key. Services run on untouched. On a computer that does not know "
        "the cloud, --name says how to call it here.",
        examples=(
            "nebh key recover",
            "nebh key recover --name home --controller ssh://root@203.0.113.7",
            "nebh key recover --name home --vault /media/usb/vault.json",
        ),
    )
    recover.add_argument("--name", default="", metavar="NAME", help="on a new computer: how to call the cloud here")
    recover.add_argument("--controller", default="", metavar="ADDRESS", help="with --name: where its controller is")
    recover.add_argument(
        "--vault", default="", metavar="FILE", help="a copy of the vault of secrets: the words open it"
    )
    recover.add_argument("--pin", default="", metavar="HEX", help="SHA-256 of its certificate, for https")
    _words_option(recover)
    _widen_option(recover)
    _passphrase_option(recover)


def _mirrors(trust: Any, common: argparse.ArgumentParser) -> None:
    mirrors = add_command(
        trust,
        common,
        "mirrors",
        command=Command("mirrors", "mirrors"),
        text="show or sign the mirrors that nodes fetch objects and metadata from",
        details="A mirror needs no trust: all that comes from it is hashed or signed. Nodes ask mirrors for objects before "
        "the controller, in this order. `nebh image push --to` fills one.",
        examples=("nebh trust mirrors", "nebh trust mirrors http://mirror.example/nebh s3://store.example/bucket"),
    )
    mirrors.add_argument("urls", nargs="*", metavar="URL", help="http://, https:// or s3://HOST/BUCKET, in order")
    mirrors.add_argument("--none", action="store_true", help="name no mirror any more")
    _widen_option(mirrors)


def _floors(trust: Any, common: argparse.ArgumentParser) -> None:
    floors = add_command(
        trust,
        common,
        "floors",
        command=Command("trust", "floors"),
        text="show the oldest versions this computer builds upon, or take them from another computer",
        examples=("nebh trust floors", "nebh trust floors --from floors.json"),
    )
    floors.add_argument(
        "--from", dest="source", default="", metavar="FILE", help="what `nebh trust show --json` printed elsewhere"
    )


def _trust(subparsers: Any, common: argparse.ArgumentParser) -> None:
    trust = add_family(
        subparsers,
        "trust",
        text="show and renew what is signed",
        details="Everything a node obeys is signed and expires. What runs, runs on after that; nothing new is accepted.",
    )
    add_command(
        trust,
        common,
        "show",
        command=Command("trust", "show"),
        text="show every signed role as verified here: version, expiry, keys",
        examples=("nebh trust show", "nebh trust show --json > floors.json   # for another computer"),
    )
    _mirrors(trust, common)
    radius = add_command(
        trust,
        common,
        "blast-radius",
        command=Command("blast_radius", "show"),
        text="show what a thief of each key and each place could do, could not do, and how to recover",
        details="Computed from the keys, roles and policies in force, verified here, and from where this computer keeps its "
        "key. Nothing is changed.",
        examples=(
            "nebh trust blast-radius",
            "nebh trust blast-radius laptop",
            "nebh trust blast-radius ci:web",
            "nebh trust blast-radius --json",
        ),
    )
    radius.add_argument(
        "what",
        nargs="?",
        default="",
        metavar="WHAT",
        help="words, operator, ci:SERVICE, controller, laptop, a node's name, agent, mirror, or a key (eight digits, or all "
        "64 for one that was revoked); default: everything",
    )
    renew = add_command(
        trust,
        common,
        "renew",
        command=Command("trust", "renew"),
        text="sign anew, unchanged, everything this key may sign",
        details="Works on expired metadata too. Every other signing command renews what is past half of its life along.",
        examples=("nebh trust renew", "nebh trust renew --root   # asks for the recovery words"),
    )
    renew.add_argument("--root", action="store_true", help="renew root too; needs the recovery words")
    _words_option(renew)
    _floors(trust, common)


def _role(text: str) -> str:
    if text in {"operator", "controller"} or (text.startswith("ci:") and len(text) > len("ci:")):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is not operator, controller or ci:SERVICE")
