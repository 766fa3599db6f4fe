"""The recovery words: asked for, never stored."""

from __future__ import annotations

import sys
from pathlib import Path

from nebh.model.errors import BadInput


def ask_words(file: str) -> str:
    """Return the twelve recovery words: from a file, `-` = standard input, "" = the terminal. Raises BadInput, naming
    the word that is wrong."""
    from nebh.signing.words import from_words

    text = _read(file) if file else _ask()
    from_words(text)
    return text


def _read(file: str) -> str:
    try:
        return sys.stdin.readline() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read the recovery words from {file}: {error}") from error


def _ask() -> str:
    import getpass

    if not sys.stdin.isatty():
        raise BadInput("cannot ask for the recovery words: there is no terminal", hint="--words-file FILE")
    return getpass.getpass("The twelve recovery words: ")
