"""Bringing signed lists of secrets in line with policies, nodes and the operator's vault, whatever is being signed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nebh.cli.session import Session, now_seconds
from nebh.images.pack import encode_pack
from nebh.model.errors import BadInput, NebhError
from nebh.model.names import check_name
from nebh.model.node import NodeRecord
from nebh.model.secret import Box, SealedFor, SecretList, SecretWish
from nebh.planning.sealing import Sealing, plan_sealing
from nebh.signing.passwords import generate_value
from nebh.signing.seal import box_of, seal
from nebh.signing.vault import Vault, VaultKey, recipients_of, vault_key

if TYPE_CHECKING:
    from nebh.signing.repository import State
    from nebh.signing.wish import Wish


@dataclass(frozen=True, kw_only=True)
class Gap:
    """A value that nodes lack and this computer cannot give them."""

    sealing: Sealing
    why: str

    def __str__(self) -> str:
        nodes = ", ".join(one.name for one in self.sealing.lacking) or "no node"
        return f"{self.sealing.key} for {nodes}: {self.why}"


class Sealer:
    """Seals for one command. Boxes are uploaded before the list that names them is signed."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._vault: Vault | None = None
        self._key: VaultKey | None = None
        self.gaps: list[Gap] = []

    @property
    def vault(self) -> Vault:
        """The vault on this computer. Raises Broken."""
        if self._vault is None:
            folder = self._session.folder
            self._vault = Vault(folder.path, folder.cluster.cluster_id)
        return self._vault

    @property
    def key(self) -> VaultKey:
        """What opens it."""
        if self._key is None:
            self._key = vault_key(self._session.key, self._session.folder.cluster.cluster_id)
        return self._key

    def keep(self, state: State, *, service: str, name: str, value: bytes, generate: str = "") -> int:
        """Put a new value into the vault, as the version after all earlier ones; return that. Raises BadInput."""
        key = f"{check_name(service, what='service')}/{check_name(name, what='secret')}"
        signed, known = state.trusted.secrets.get(key), self.vault.entry(key)
        version = max(signed.version if signed else 0, known.version if known else 0) + 1
        self.vault.put(
            service=service,
            name=name,
            value=value,
            version=version,
            now=now_seconds(),
            recipients=recipients_of(state, self.key),
            generate=generate,
        )
        return version

    def generate(self, state: State, service: str, wishes: tuple[SecretWish, ...]) -> None:
        """Make the values that a spec wants made, where there is none yet."""
        for wish in wishes:
            key = f"{service}/{wish.use.name}"
            if wish.generate and key not in state.trusted.secrets and self.vault.entry(key) is None:
                value = generate_value(wish.generate)
                self.keep(state, service=service, name=wish.use.name, value=value, generate=wish.generate)
                self._session.out.note(f"made a value for the secret {key} ({wish.generate})")

    def complete(self, state: State, wish: Wish) -> Wish:
        """Return `wish` with the lists that its policies and nodes make necessary. What is lacking and cannot be sealed
        here is left in `gaps`; nodes that may not read a value any more lose their box, and it is said."""
        self.gaps = []
        policies = {**state.trusted.policies, **{one.service: one for one in wish.policies}}
        for service in wish.remove:
            policies.pop(service, None)
        records = {one.node_id: one for one in (*state.trusted.nodes.nodes, *wish.nodes)}
        plan = plan_sealing(policies.values(), records.values(), state.trusted.secrets)
        if not plan:
            return wish
        boxes: dict[str, bytes] = {}
        lists = []
        names = {one.node_id: one.name for one in records.values()}
        for one in plan:
            made = self._list(state, one, boxes)
            if made is not None:
                lists.append(made)
                self._say(one, made, names, state.trusted.secrets.get(one.key))
        if boxes:
            self._upload(boxes)
        return replace(wish, secrets=tuple(lists)) if lists else wish

    def _list(self, state: State, one: Sealing, boxes: dict[str, bytes]) -> SecretList | None:
        """Return the list to sign, None when the signed one is right already or nothing can be done."""
        signed, known = state.trusted.secrets.get(one.key), self.vault.entry(one.key)
        newer = known is not None and known.version > one.version
        lacking = one.readers if newer else one.lacking
        kept: dict[str, Box] = {}
        if signed is not None and not newer:
            kept = {node: box for node, box in signed.boxes.items() if node not in one.surplus}
        value = self._value(one, newer=newer) if lacking else None
        if value is not None:
            for node in lacking:
                kept[node.node_id] = self._box(state, one, node, value, boxes)
        if value is None and (signed is None or kept == signed.boxes):
            return None
        return SecretList(
            cluster_id=state.cluster_id,
            service=one.service,
            name=one.name,
            version=known.version if newer and known is not None else one.version,
            signed_at=now_seconds(),
            boxes=kept,
        )

    def _value(self, one: Sealing, *, newer: bool) -> bytes | None:
        known = self.vault.entry(one.key)
        if known is None:
            self.gaps.append(Gap(sealing=one, why="its value is not in the vault of this computer"))
            return None
        if known.version < one.version:
            why = f"the vault here holds version {known.version}, signed is {one.version}"
            self.gaps.append(Gap(sealing=one, why=why))
            return None
        try:
            return self.vault.open(one.service, one.name, self.key)
        except NebhError as error:
            if newer:
                raise
            self.gaps.append(Gap(sealing=one, why=error.message))
            return None

    def _box(self, state: State, one: Sealing, node: NodeRecord, value: bytes, boxes: dict[str, bytes]) -> Box:
        known = self.vault.entry(one.key)
        assert known is not None  # its value was read a moment ago
        to = SealedFor(
            cluster_id=state.cluster_id,
            recipient=node.node_id,
            service=one.service,
            name=one.name,
            version=known.version,
        )
        data = seal(value, public=node.seal_pk, to=to)
        box = box_of(data)
        boxes[box.digest] = data
        return box

    def _say(self, one: Sealing, made: SecretList, names: dict[str, str], signed: SecretList | None) -> None:
        out = self._session.out
        before = signed.boxes if signed is not None else {}
        fresh = sorted(names[node] for node, box in made.boxes.items() if before.get(node) != box)
        if fresh:
            out.note(f"sealed the secret {one.key}, version {made.version}, to {', '.join(fresh)}")
        gone = sorted(names.get(node, node[:12]) for node in one.surplus)
        if gone and made.version == one.version:
            out.note(
                out.paint(
                    f"  {', '.join(gone)} may not read {one.key} any more but knows it: nebh secret rotate {one.key}",
                    "yellow",
                )
            )

    def _upload(self, boxes: dict[str, bytes]) -> None:
        client = self._session.client
        missing = client.missing_objects(tuple(boxes))
        items = [(digest, len(boxes[digest])) for digest in missing]
        if items:
            client.upload_objects(lambda: encode_pack(items, lambda digest: (boxes[digest],)))


def complete_wish(session: Session, state: State, wish: Wish) -> Wish:
    """Return `wish` with the lists of secrets that belong to it: every signing command comes through here, so a node
    that is approved gets what its groups may read. Raises BadInput when a policy being signed names a secret that has
    no value."""
    if session.is_ci or not (wish.policies or wish.nodes or wish.remove or session.sealer is not None):
        return wish
    if not any(one.secrets for one in (*state.trusted.policies.values(), *wish.policies)):
        return wish
    sealer = session.sealer or Sealer(session)
    made = sealer.complete(state, wish)
    wanted = {one.service for one in wish.policies}
    never = [gap for gap in sealer.gaps if gap.sealing.version == 0 and gap.sealing.service in wanted]
    if never:
        lines = "".join(f"\n  {gap}" for gap in never)
        first = never[0].sealing.key
        raise BadInput(
            f"cannot sign: {len(never)} secrets have no value yet:{lines}",
            hint=f"`nebh secret set {first}`, or `generate: 32 alnum` in the spec",
        )
    for gap in sealer.gaps:
        session.out.note(session.out.paint(f"  not sealed: {gap}", "yellow"))
    return made
