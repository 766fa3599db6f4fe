"""What a service's files are rendered from: bundles made of signed layers, sent, fetched, rendered and compared."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nebh.drivers.templates.child import RenderHead, render_in_child
from nebh.images.manifest import encode_manifest, refer_to
from nebh.images.pack import decode_pack, encode_pack
from nebh.images.places import add_places
from nebh.model.config import MAX_BUNDLE, ConfigBundle, OnChange
from nebh.model.config_layer import Bundle, ConfigLayer, ConfigSpec, NodeFacts
from nebh.model.errors import BadInput, Broken, NotFound, Problem, SpecErrors
from nebh.model.node import NodeStatus
from nebh.model.policy import Policy
from nebh.model.release import Release
from nebh.model.rendering import NodeRendering
from nebh.model.service import ServiceSpec
from nebh.planning.config_bundle import check_template_text, encode_bundle, make_bundle, read_bundle
from nebh.planning.live import differs_in_texts_alone
from nebh.planning.schedule import is_placed_on

if TYPE_CHECKING:
    from nebh.cli.session import Session
    from nebh.images.cache import ImageCache
    from nebh.images.report import ImportReport
    from nebh.signing.repository import State


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A bundle ready to be sent. files: (path, template)."""

    bundle: Bundle
    data: bytes
    ref: ConfigBundle
    files: tuple[tuple[str, str], ...]


def read_templates(spec: ServiceSpec, *, base: Path) -> dict[str, str]:
    """Return the text of every template that a spec's files need, those they include or extend too, by name. base:
    the spec file's folder. Raises NotFound, BadInput."""
    found = {one.file.template: one.text for one in spec.files if not one.source}
    waiting = [(one.file.template, Path(one.source)) for one in spec.files if one.source]
    waiting += [(name, base / name) for text in list(found.values()) for name in _referenced(text)]
    while waiting:
        name, path = waiting.pop()
        if name not in found:
            found[name] = _read(path)
            waiting += [(other, base / other) for other in _referenced(found[name])]
    for name, text in found.items():
        check_template_text(name, text)
    return found


def _referenced(text: str) -> list[str]:
    """Return the templates that a template names. What cannot be parsed is said when it is rendered."""
    import jinja2
    from jinja2 import meta

    try:
        parsed = jinja2.Environment(autoescape=False).parse(text)  # noqa: S701 - nothing is rendered
    except jinja2.TemplateSyntaxError:
        return []
    return [name for name in meta.find_referenced_templates(parsed) if name]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise NotFound(f"cannot read the template {path}: {error.strerror}", hint="is `files` right?") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"cannot read the template {path}: it is not UTF-8 text") from error


def prepare_bundle(
    spec: ServiceSpec, templates: dict[str, str], *, cluster_id: str, layers: Iterable[ConfigLayer]
) -> Prepared | None:
    """Return the bundle of a spec's files, None when it has none. Raises SpecErrors."""
    if not spec.files:
        return None
    bundle = make_bundle(spec.config, cluster_id=cluster_id, service=spec.name, layers=layers, templates=templates)
    return _prepared(bundle, tuple((one.file.path, one.file.template) for one in spec.files))


def renew_bundle(old: Bundle, release: Release, layers: Iterable[ConfigLayer]) -> Prepared:
    """Return the bundle of a release with today's layers: its own values, schema and templates stay."""
    own = next((one for one in old.parts if one.layer == "spec"), None)
    spec = ConfigSpec(
        values=own.values if own else {},
        merge=own.merge if own else {},
        extends=own.extends if own else (),
        schema=old.schema,
    )
    bundle = make_bundle(spec, cluster_id=old.cluster_id, service=old.service, layers=layers, templates=old.templates)
    return _prepared(bundle, files_of(release))


def _prepared(bundle: Bundle, files: tuple[tuple[str, str], ...]) -> Prepared:
    data, ref = encode_bundle(bundle)
    return Prepared(bundle=bundle, data=data, ref=ref, files=files)


def files_of(release: Release) -> tuple[tuple[str, str], ...]:
    """Return (path, template) of a release's files."""
    return tuple((one.path, one.template) for one in release.files)


def nodes_of(state: State, policy: Policy) -> tuple[NodeFacts, ...]:
    """Return the active nodes that a policy admits, by name."""
    records = [one for one in state.trusted.nodes.nodes if one.status is NodeStatus.ACTIVE]
    admitted = [one for one in records if is_placed_on(policy, one)]
    return tuple(NodeFacts(name=one.name, groups=one.groups) for one in sorted(admitted, key=lambda one: one.name))


def render_all(prepared: Prepared, nodes: tuple[NodeFacts, ...], *, origins: bool = False) -> tuple[NodeRendering, ...]:
    """Return the files on each node. Raises SpecErrors with every problem, each once however many nodes have it."""
    found = render_loosely(prepared, nodes, origins=origins)
    problems: dict[Problem, list[str]] = {}
    for one in found:
        for problem in one.problems:
            # the same cause on many nodes is one thing to mend
            general = replace(problem, file=problem.file.replace(f" on {one.node}", " on its nodes"))
            problems.setdefault(general, []).append(one.node)
    if problems:
        raise SpecErrors(tuple(_on_nodes(one, names, len(nodes)) for one, names in problems.items()))
    return found


def render_loosely(
    prepared: Prepared, nodes: tuple[NodeFacts, ...], *, origins: bool = False
) -> tuple[NodeRendering, ...]:
    """Return the files on each node, or what is wrong there. Raises BadInput when nothing can be rendered at all."""
    if not nodes:
        return ()
    head = RenderHead(
        cluster_id=prepared.bundle.cluster_id,
        service=prepared.bundle.service,
        files=prepared.files,
        nodes=nodes,
        origins=origins,
    )
    return render_in_child(head, prepared.data)


def _on_nodes(problem: Problem, names: list[str], count: int) -> Problem:
    if len(names) == count:
        return problem
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return replace(problem, message=f"{problem.message} [on {shown}]")


def send_bundle(session: Session, prepared: Prepared) -> None:
    """Have the controller hold a bundle."""
    digest = prepared.ref.digest
    if session.client.missing_objects((digest,)):
        session.client.upload_objects(lambda: encode_pack([(digest, prepared.ref.bytes)], lambda _: (prepared.data,)))


def fetch_bundle(session: Session, release: Release) -> Prepared:
    """Return a release's bundle from the controller, its bytes hashed. Raises NotFound, BadInput."""
    ref = release.config
    if ref is None:
        raise NotFound(f"release {release.counter} of {release.service} has no files")
    if ref.bytes > MAX_BUNDLE:
        raise BadInput(f"cannot read the config of {release.service}: it says {ref.bytes} bytes")
    data = b""
    for one in decode_pack(session.client.download_objects((ref.digest,))):
        if one.size != ref.bytes:
            raise Broken(f"cannot read the config of {release.service}: the controller sent other bytes")
        data = b"".join(one.chunks)
    if hashlib.sha256(data).hexdigest() != ref.digest:
        raise Broken(f"cannot read the config of {release.service}: the controller sent other bytes")
    bundle = read_bundle(data, cluster_id=release.cluster_id, service=release.service)
    return Prepared(bundle=bundle, data=data, ref=ref, files=files_of(release))


def put_places(report: ImportReport, spec: ServiceSpec, cache: ImageCache) -> ImportReport:
    """Return an imported image with a place for each of the spec's files. Raises BadInput."""
    manifest = add_places(report.manifest, [one.file.path for one in spec.files])
    if manifest is report.manifest:
        return report
    data = encode_manifest(manifest)
    ref = refer_to(manifest, data=data)
    cache.add_manifest(data)
    return replace(report, manifest=manifest, ref=ref, digest=ref.manifest)


@dataclass(frozen=True, kw_only=True)
class FileChange:
    """A file whose text changes on some nodes. added, removed: lines, on the first of them; lines: a unified diff of
    that; follows: what becomes of instances that run for it, None where none does."""

    path: str
    nodes: tuple[str, ...]
    added: int
    removed: int
    lines: tuple[str, ...]
    follows: OnChange | None = None

    def __str__(self) -> str:
        shown = ", ".join(self.nodes[:3]) + (f" and {len(self.nodes) - 3} more" if len(self.nodes) > 3 else "")
        then = f"; then: {self.follows.value}" if self.follows is not None else ""
        return f"{self.path}: +{self.added} -{self.removed} lines on {shown}{then}"

    def plain(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "path": self.path,
            "nodes": list(self.nodes),
            "added": self.added,
            "removed": self.removed,
            "on_change": self.follows.value if self.follows is not None else "",
            "diff": list(self.lines),
        }


def say_what_follows(
    changes: Iterable[FileChange], old: Release | None, new: Release, *, same_policy: bool = True
) -> tuple[FileChange, ...]:
    """Return the changes with what each asks of the instances that run: what it declares, or restart where more than
    texts differs."""
    if old is None:
        return tuple(changes)
    asked = {one.path: one.on_change for one in new.files}
    alone = same_policy and differs_in_texts_alone(old, new)
    return tuple(
        replace(one, follows=asked.get(one.path, OnChange.RESTART) if alone else OnChange.RESTART) for one in changes
    )


def compare_files(old: Iterable[NodeRendering], new: Iterable[NodeRendering]) -> tuple[FileChange, ...]:
    """Return what differs, by path. A file that is on one side alone differs in all its lines."""
    before, after = _texts(old), _texts(new)
    changed: dict[str, list[str]] = {}
    for node, path in sorted({*before, *after}):
        if before.get((node, path)) != after.get((node, path)):
            changed.setdefault(path, []).append(node)
    found = []
    for path, nodes in sorted(changed.items()):
        first = (nodes[0], path)
        was, now = before.get(first, "").splitlines(), after.get(first, "").splitlines()
        lines = list(difflib.unified_diff(was, now, fromfile=path, tofile=path, lineterm="", n=2))
        body = lines[2:]
        found.append(
            FileChange(
                path=path,
                nodes=tuple(nodes),
                added=sum(1 for line in body if line.startswith("+")),
                removed=sum(1 for line in body if line.startswith("-")),
                lines=tuple(lines),
            )
        )
    return tuple(found)


def _texts(renderings: Iterable[NodeRendering]) -> Mapping[tuple[str, str], str]:
    return {(one.node, file.path): file.text for one in renderings for file in one.files}
