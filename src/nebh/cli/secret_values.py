"""Where a secret's value comes from: standard input, a file, an editor, a password manager. Never the command line."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
import tempfile
from pathlib import Path

from nebh.host import files
from nebh.host.run import Command, CommandFailed, run, start
from nebh.model.errors import BadInput, Failed
from nebh.model.names import check_name
from nebh.model.secret import MAX_VALUE
from nebh.signing.passwords import generate_value

_PASSED = ("HOME", "USER", "PATH", "TERM", "DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR", "GNUPGHOME", "GPG_TTY")
_MEMORY = Path("/dev/shm")
_KEPT = re.compile(
    r"[A-Z][A-Z0-9_]*_(?:ADDR|TOKEN|SESSION|DIR)|(?:SSH|DBUS)_[A-Z_]+|(?:BW|OP|VAULT|PASSWORD_STORE)_[A-Z_]+"
)
_PATIENCE = 120.0


def parse_key(text: str) -> tuple[str, str]:
    """Return (service, name) of `web/db-password`. Raises BadInput, above all for a value on the command line."""
    if "=" in text:
        raise BadInput(
            "cannot take a secret's value from the command line: every user of this computer can read it there",
            hint="give it on standard input, and take another value: this one was seen (shell history too)",
        )
    service, slash, name = text.partition("/")
    if not slash:
        raise BadInput(f"cannot tell which secret {text[:80]!r} is", hint="write SERVICE/NAME, such as web/db-password")
    return check_name(service, what="service"), check_name(name, what="secret")


def read_value(options: argparse.Namespace, *, what: str) -> tuple[bytes, str]:
    """Return (value, rule it was made by or ""). One newline at the end is taken off unless --raw; a file is taken as it
    is. Raises BadInput, NotFound, Failed."""
    if options.generate:
        return generate_value(options.generate), options.generate
    if options.file:
        return check_value(_read_file(options.file), what=what), ""
    if options.command_line:
        data = _run_manager(options.command_line)
    elif sys.stdin.isatty():
        data = _ask(what)
    else:
        data = sys.stdin.buffer.read(MAX_VALUE + 2)
    return check_value(data if options.raw else _without_newline(data), what=what), ""


def check_value(data: bytes, *, what: str) -> bytes:
    """Return a value of a size that can be sealed. Raises BadInput; the message never holds any of it."""
    if not data:
        raise BadInput(f"cannot set {what}: the value is empty")
    if len(data) > MAX_VALUE:
        raise BadInput(
            f"cannot set {what}: the value has more than {MAX_VALUE} bytes",
            hint="large things belong into an image or a volume, sealed by a key that is a secret",
        )
    return data


def _without_newline(data: bytes) -> bytes:
    return data[:-1] if data.endswith(b"\n") and data.count(b"\n") == 1 else data


def _read_file(path: str) -> bytes:
    try:
        return files.read_bounded(Path(path), limit=MAX_VALUE)
    except OSError as error:
        raise BadInput(f"cannot read a value from {path}: {error.strerror or error}") from error


def _ask(what: str) -> bytes:
    import getpass

    first = getpass.getpass(f"Value of {what}: ")
    if getpass.getpass("Once more: ") != first:
        raise BadInput(f"cannot set {what}: the two values differ", hint="try again")
    return first.encode()


def _environment() -> dict[str, str]:
    """What a password manager or an editor needs of this environment; the rest stays here."""
    return {name: text for name, text in os.environ.items() if name in _PASSED or _KEPT.fullmatch(name)}


def _run_manager(line: str) -> bytes:
    try:
        argv = tuple(shlex.split(line))
    except ValueError as error:
        raise BadInput(f"cannot run the command of --command: {error}") from error
    if not argv:
        raise BadInput("cannot run the command of --command: it is empty", hint='such as --command "pass show web/db"')
    try:
        return run(Command(argv=argv, env=_environment(), timeout=_PATIENCE)).stdout
    except CommandFailed as error:
        # What it printed may be the value: only its own complaint is shown, and that cut short.
        said = " ".join(error.stderr.split())[:200]
        raise Failed(f"cannot get the value from {argv[0]}: {said or 'it failed'}") from None


def edit_value(old: bytes, *, what: str) -> bytes:
    """Return a value as an editor left it: $VISUAL, $EDITOR or vi, on a file in memory that only its owner may read,
    gone afterwards. Raises BadInput without a terminal, Failed."""
    if not (sys.stdin.isatty() or os.environ.get("VISUAL") or os.environ.get("EDITOR")):
        raise BadInput(
            f"cannot edit {what}: there is no terminal", hint="`nebh secret set` takes it from standard input"
        )
    editor = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
    place = _MEMORY if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="nebh-", dir=place) as folder:
        path = Path(folder) / "value"
        files.write_atomic(path, old, mode=0o600, durable=False)
        command = Command(argv=(*editor, str(path)), env=_environment())
        status = start(command, stdin=None, stdout=None, stderr=None, new_session=False).wait()
        if status != 0:
            raise Failed(f"cannot edit {what}: {editor[0]} ended with status {status}; nothing was changed")
        data = _read_file(str(path))
    return check_value(_without_newline(data), what=what)


def parse_values(data: bytes, *, file: str) -> dict[str, bytes]:
    """Return values by the names they get here, of a .env file or a JSON object of strings: `DB_PASSWORD` becomes
    db-password. Raises BadInput with every line that is wrong; no message holds a value."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise BadInput(f"cannot import {file}: it is not UTF-8 text") from None
    pairs, problems = _from_json(text) if text.lstrip().startswith("{") else _from_env(text)
    found: dict[str, bytes] = {}
    for where, key, value in pairs:
        name = key.lower().replace("_", "-").strip("-")
        try:
            check_name(name, what="secret")
        except BadInput as error:
            problems.append(f"{where}: {key[:80]!r} makes no name of a secret: {error.hint}")
            continue
        if name in found:
            problems.append(f"{where}: {name} stands twice")
        elif not 0 < len(value.encode()) <= MAX_VALUE:
            problems.append(
                f"{where}: the value of {name} has {len(value.encode())} bytes, 1 to {MAX_VALUE} are allowed"
            )
        found[name] = value.encode()
    if problems or not found:
        lines = "\n".join(f"  {file}:{one}" for one in problems) or f"  {file}: no value stands in it"
        raise BadInput(f"cannot import secrets:\n{lines}", hint="nothing was changed")
    return found


def _from_json(text: str) -> tuple[list[tuple[str, str, str]], list[str]]:
    import json

    try:
        plain = json.loads(text)
    except (ValueError, RecursionError) as error:
        place = f"{error.lineno}: " if isinstance(error, json.JSONDecodeError) else ""
        return [], [f"{place}it is no JSON"]
    bad = [key for key, value in plain.items() if not isinstance(value, str)]
    pairs = [(str(key), str(key), value) for key, value in plain.items() if isinstance(value, str)]
    return pairs, [f"{key[:80]}: its value is no text" for key in bad]


def _from_env(text: str) -> tuple[list[tuple[str, str, str]], list[str]]:
    pairs, problems = [], []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip().removeprefix("export ").strip()
        if not line or line.startswith("#"):
            continue
        key, equals, value = line.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key.strip()):
            problems.append(f"{number}: NAME=VALUE is needed here")
            continue
        value = value.strip()
        if len(value) > 1 and value[0] in "'\"" and value[-1] == value[0]:
            value = value[1:-1]
        elif value[:1] in ("'", '"'):
            problems.append(f"{number}: the quote of {key.strip()} does not end in this line")
            continue
        pairs.append((str(number), key.strip(), value))
    return pairs, problems
