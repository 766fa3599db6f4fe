"""Slices: what a program reads that no analysis of its file shows. One YAML file per program, shipped with Nebh."""

from __future__ import annotations

import importlib.resources
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any

import yaml

from nebh.model.errors import Broken
from nebh.wire import codec


class JoinForm(StrEnum):
    """How files are joined. bytes: one after the other. java-truststore: certificates in PEM, as the keystore in which
    Java looks for its roots of trust."""

    BYTES = "bytes"
    JAVA_TRUSTSTORE = "java-truststore"


@dataclass(frozen=True, kw_only=True)
class Join:
    """A file made of others, in the order of their paths: what a maintainer script would have made."""

    files: str
    to: str
    form: JoinForm = JoinForm.BYTES


@dataclass(frozen=True, kw_only=True)
class SliceRule:
    """when: a glob; the rest holds once a path of the image that it means is needed. keep: globs. modules: of Python.
    directories: empty ones that the program wants. links: path -> target, where a maintainer script makes them.
    libraries: folders of libraries that the program has loaded before others ask for them."""

    when: str
    keep: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    directories: tuple[str, ...] = ()
    links: dict[str, str] | None = None
    joins: tuple[Join, ...] = ()
    libraries: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One file. about: a sentence for people; packages: what it was tested with."""

    name: str
    about: str
    packages: tuple[str, ...] = ()
    rules: tuple[SliceRule, ...] = ()


@cache
def load_slices() -> tuple[Slice, ...]:
    """Return every slice that Nebh carries, by name. Raises Broken for a file that is damaged."""
    folder = importlib.resources.files("nebh.images.declared").joinpath("slices")
    files = sorted((one for one in folder.iterdir() if one.name.endswith(".yaml")), key=lambda one: one.name)
    return tuple(read_slice(one.read_text(encoding="utf-8"), name=one.name.removesuffix(".yaml")) for one in files)


def read_slice(text: str, *, name: str) -> Slice:
    """Return the slice written in `text`. Raises Broken."""
    try:
        plain: dict[str, Any] = yaml.safe_load(text)
        known = set(Slice.__dataclass_fields__) - {"name"}
        if unknown := set(plain) - known:
            raise Broken(f"cannot read slice {name}: unknown {', '.join(sorted(unknown))}")
        rules = set(SliceRule.__dataclass_fields__)
        for rule in plain.get("rules", ()):
            if unknown := set(rule) - rules:
                raise Broken(f"cannot read slice {name}: unknown {', '.join(sorted(unknown))}")
        return codec.from_plain({**plain, "name": name}, Slice, what=f"slice {name}")
    except (yaml.YAMLError, TypeError) as error:
        raise Broken(f"cannot read slice {name}: {error}") from error
