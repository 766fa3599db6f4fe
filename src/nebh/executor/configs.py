"""Files of a release: their bundle fetched and kept as the image is, rendered for this node in a caged child."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Collection, Iterator

from nebh.drivers.templates.child import RenderHead, render_in_child
from nebh.executor.agent_link import AgentLink
from nebh.host.files import read_bounded, write_atomic
from nebh.host.layout import Layout
from nebh.journal.accepted import Accepted
from nebh.model.config import MAX_BUNDLE, ConfigBundle
from nebh.model.config_layer import NodeFacts
from nebh.model.errors import BadInput, Broken, Failed, Refused, SpecErrors
from nebh.model.release import Release

Files = dict[str, bytes]
_KEPT = 16
Key = tuple[str, NodeFacts, tuple[tuple[str, str], ...]]


class Configs:
    """Bundles on this node's disk, and what they were rendered to."""

    def __init__(self, *, layout: Layout, agent: AgentLink, accepted: Accepted) -> None:
        self._folder, self._agent, self._accepted = layout.configs, agent, accepted
        self._rendered: dict[Key, Files] = {}

    def fetch(self, release: Release) -> None:
        """Have the bundle of a release here, whole and on the disk. Raises Refused N9, Failed, Unreachable."""
        ref = release.config
        if ref is not None and release.files and self._held(ref) is None:
            data = self._ask(ref)
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomic(self._folder / f"{ref.digest}.json", data, mode=0o600)

    def files(self, release: Release) -> Files:
        """Return the text of a release's files on this node by path. The bundle is fetched again where it was lost.
        Raises Failed with everything that is wrong."""
        if not release.files:
            return {}
        ref = release.config
        if ref is None:
            raise Failed(f"cannot render the files of {release.service}: the release names no bundle")
        wanted = tuple((one.path, one.template) for one in release.files)
        key = (ref.digest, self._facts(), wanted)
        found = self._rendered.get(key)
        if found is None:
            found = self._render(release, ref, key)
            while len(self._rendered) >= _KEPT:
                self._rendered.pop(next(iter(self._rendered)))
            self._rendered[key] = found
        return found

    def prune(self, keep: Collection[str]) -> None:
        """Remove bundles, by digest, that no retained release needs."""
        for path in self._folder.glob("*") if self._folder.is_dir() else ():
            if path.stem not in keep:
                path.unlink(missing_ok=True)

    def _render(self, release: Release, ref: ConfigBundle, key: Key) -> Files:
        data = self._held(ref)
        if data is None:
            self.fetch(release)
            data = self._held(ref)
        if data is None:
            raise Broken(f"cannot read back the config bundle of {release.service} that was just written")
        _, facts, wanted = key
        head = RenderHead(cluster_id=release.cluster_id, service=release.service, files=wanted, nodes=(facts,))
        what = f"cannot render the files of release {release.counter} of {release.service}"
        try:
            (rendering,) = render_in_child(head, data)
            if rendering.problems:
                raise SpecErrors(rendering.problems)
        except BadInput as error:
            raise Failed(f"{what}: {error.message}", hint=error.hint or "mend the layer or template") from error
        made = {one.path: one.text.encode() for one in rendering.files}
        if set(made) != {path for path, _ in wanted}:
            raise Broken(f"{what}: the renderer made other files")
        return made

    def _held(self, ref: ConfigBundle) -> bytes | None:
        with contextlib.suppress(OSError):
            data = read_bounded(self._folder / f"{ref.digest}.json", limit=MAX_BUNDLE)
            if hashlib.sha256(data).hexdigest() == ref.digest:
                return data
        return None

    def _ask(self, ref: ConfigBundle) -> bytes:
        if not 0 < ref.bytes <= MAX_BUNDLE:
            raise Refused(f"the config bundle of {ref.bytes} bytes is not between 1 and {MAX_BUNDLE}", rule="N9")
        found = bytearray()

        def take(_: str, size: int, chunks: Iterator[bytes]) -> None:
            for chunk in chunks:
                found.extend(chunk)
                if len(found) > size:
                    break

        try:
            self._agent.objects(((ref.digest, ref.bytes),), take)
        except BadInput as error:
            raise Refused(f"cannot accept the config's bytes: {error.message}", rule="N9") from error
        data = bytes(found)
        if len(data) != ref.bytes or hashlib.sha256(data).hexdigest() != ref.digest:
            raise Refused(
                "cannot accept the config's bytes: they are not those that were signed",
                rule="N9",
                hint="the controller holds other bytes than were signed: damaged or attacked; deploy again",
            )
        return data

    def _facts(self) -> NodeFacts:
        """Return what templates may know: this node's own signed record."""
        mine, nodes = self._accepted.meta("node_id"), self._accepted.nodes()
        for record in nodes.nodes if nodes else ():
            if record.node_id == mine:
                return NodeFacts(name=record.name, groups=record.groups)
        raise Broken("cannot find this node's own record", hint="`nebh up` enrols this machine")
