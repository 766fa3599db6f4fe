"""`image.yaml` text -> ImageDeclaration, with all problems at once."""

from __future__ import annotations

import posixpath
from typing import Any

from nebh.model.build import (
    BuildStep,
    DebianSource,
    FileItem,
    FileKind,
    ImageDeclaration,
    NpmNeeds,
    Output,
    PythonNeeds,
    Reduction,
)
from nebh.model.errors import SpecErrors
from nebh.spec.document import parse_document
from nebh.spec.image_fields import DECLARATION
from nebh.spec.read import Reader, Value

_KINDS = {"from": FileKind.PATH} | {kind.value: kind for kind in FileKind if kind is not FileKind.PATH}
_IMAGES = frozenset((FileKind.OCI, FileKind.DOCKER_ARCHIVE, FileKind.REGISTRY, FileKind.IMAGE))
_NAMED = frozenset((FileKind.REGISTRY, FileKind.IMAGE))
_OPTIONS = ("-", "git+", "http:", "https:", "file:")


def parse_image(text: str, *, file: str, base: str = "/") -> ImageDeclaration:
    """Return the declaration written in `text`.

    file: its name in messages. base: absolute folder at which relative paths start. Raises SpecErrors with every
    problem, ordered by line, each with line, column and field path.
    """
    node, unreadable = parse_document(text, file=file)
    if node is None:
        raise SpecErrors(unreadable)
    reader = Reader(file=file, root=DECLARATION)
    root = reader.read(node, DECLARATION, "")
    found = _build(reader, root, base) if root is not None else None
    if reader.problems or found is None:
        raise SpecErrors(tuple(sorted(reader.problems, key=lambda one: (one.line, one.column, one.path))))
    return found


def _build(reader: Reader, root: Value, base: str) -> ImageDeclaration:
    plain: dict[str, Any] = {
        key: _words(root.get(key)) for key in ("packages", "keep", "drop", "directories", "entrypoint")
    }
    scalars: dict[str, Any] = {key: one.data for key in ("architecture", "user") if (one := root.get(key)) is not None}
    reduce = root.get("reduce")
    declared = ImageDeclaration(
        **plain,
        **scalars,
        debian=_debian(root, base),
        python=_python(reader, root),
        npm=_npm(root, base),
        files=_files(reader, root.get("files"), base),
        build=_step(reader, root, base),
        reduce=Reduction(reduce.data) if reduce is not None else Reduction.STANDARD,
    )
    _check(reader, root, declared)
    return declared


def _words(value: Value | None) -> tuple[Any, ...]:
    return tuple(one.data for one in value.data) if value is not None else ()


def _debian(root: Value, base: str) -> DebianSource:
    section = root.get("debian")
    if section is None:
        return DebianSource()
    values = {key: one.data for key, one in section.data.items() if key not in {"components", "keyring"}}
    keyring, components = section.get("keyring"), section.get("components")
    if components is not None:
        values["components"] = _words(components)
    if keyring is not None:
        values["keyring"] = posixpath.normpath(posixpath.join(base, keyring.data))
    return DebianSource(**values)


def _python(reader: Reader, root: Value) -> PythonNeeds:
    section = root.get("python")
    if section is None:
        return PythonNeeds()
    for one in (section.get("requirements") or Value(data=[], line=0, column=0, path="")).data:
        if "@" in one.data or one.data.startswith(_OPTIONS):
            hint = "name a package of the index; your own code goes under `files`"
            reader.complain(one, one.path, f"`{one.data}` names a place, which no hash can pin", hint)
    return PythonNeeds(requirements=_words(section.get("requirements")), path=_words(section.get("path")))


def _npm(root: Value, base: str) -> NpmNeeds | None:
    section = root.get("npm")
    lock, to = (section.get("lock"), section.get("to")) if section is not None else (None, None)
    if lock is None or to is None:
        return None
    place = posixpath.normpath(posixpath.join(base, lock.data))
    return NpmNeeds(lock=place, written=lock.data, to=posixpath.normpath(to.data))


def _files(reader: Reader, value: Value | None, base: str) -> tuple[FileItem, ...]:
    found = []
    for one in value.data if value is not None else ():
        for key, kind in _KINDS.items():
            place = one.get(key)
            if place is None:
                continue
            to, strip = one.get("to"), one.get("strip")
            if strip is not None and kind is not FileKind.TAR:
                reader.complain(strip, strip.path, "only a tar's names are stripped", "remove it")
            if kind not in {FileKind.PATH, FileKind.TAR} and to is not None:
                what = "an image" if kind in _IMAGES else "a package"
                reader.complain(to, to.path, f"{what} has its places itself", "remove it, or use `tar`")
            said = {problem.path for problem in reader.problems}
            if kind is FileKind.PATH and to is None and f"{one.path}.to" not in said:
                reader.complain(one, f"{one.path}.to", "it is missing", "say where it goes: `to: /app`")
            found.append(
                FileItem(
                    kind=kind,
                    source=place.data if kind in _NAMED else posixpath.normpath(posixpath.join(base, place.data)),
                    written=f"{kind.value}:{place.data}" if kind in _IMAGES else place.data,
                    to=posixpath.normpath(to.data) if to is not None else "/",
                    strip=strip.data if strip is not None else 0,
                )
            )
    return tuple(found)


def _step(reader: Reader, root: Value, base: str) -> BuildStep | None:
    section = root.get("build")
    if section is None:
        return None
    values = {key: one.data for key in ("memory", "disk", "cpu", "timeout") if (one := section.get(key)) is not None}
    env = section.get("env")
    outputs = section.get("outputs")
    pairs = [(one.get("from"), one.get("to")) for one in (outputs.data if outputs is not None else ())]
    return BuildStep(
        packages=_words(section.get("packages")),
        files=_files(reader, section.get("files"), base),
        run=_words(section.get("run")),
        outputs=tuple(Output(source=one.data, to=to.data) for one, to in pairs if one is not None and to is not None),
        env={key: one.data for key, one in env.data.items()} if env is not None else {},
        **values,
    )


def _check(reader: Reader, root: Value, declared: ImageDeclaration) -> None:
    entrypoint = root.get("entrypoint")
    if declared.reduce is Reduction.CLOSURE and not declared.entrypoint and not declared.keep and not reader.problems:
        place = root.get("reduce") or root
        reader.complain(
            place, "reduce", "closure needs an `entrypoint` or `keep` to begin at", "write `entrypoint: [/usr/bin/app]`"
        )
    if entrypoint is not None and declared.entrypoint and not declared.entrypoint[0].startswith("/"):
        first = entrypoint.data[0]
        reader.complain(
            first,
            first.path,
            f"`{first.data}` is not an absolute path",
            "no shell and no PATH look it up: write where it is inside the image, such as /usr/bin/app",
        )
    sources = declared.packages or declared.files or declared.python.requirements or declared.npm or declared.build
    if not sources and not reader.problems:
        reader.complain(root, "", "nothing is in this image", "write `packages`, `files`, `python`, `npm` or `build`")
