"""N0, N3-N9 and N13 on what a controller, or root on the node, chooses inside signed bounds."""

from __future__ import annotations

from dataclasses import dataclass, field

from nebh.model.node import NodeList, NodeRecord, NodeStatus, Settings
from nebh.model.policy import Policy, ServiceState
from nebh.model.release import Release
from nebh.model.rules import Finding, Rule
from nebh.model.secret import SecretList
from nebh.model.service import PlacementMode
from nebh.model.statement import Assignment, Phase
from nebh.model.trust import AcceptedRelease, AcceptedState, Delegation, TrustedSet
from nebh.planning.accept_metadata import clock_finding
from nebh.planning.accept_secret import find_missing, find_unnamed
from nebh.planning.bounds import find_bounds_problem
from nebh.planning.window import floor_of, is_in_window

_CHOOSES = (Phase.PREPARE, Phase.RUN)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Everything that decides about one assignment.

    signer: hex Ed25519 key whose signature on the assignment was verified. trusted: the set accepted just now, None =
    offline (metadata expired, or nobody answers): then nodes, settings, policy and release are those accepted before.
    release_digest: hex SHA-256 of the release's target bytes. running: counter of the release committed here in the
    policy's epoch, 0 = none. now: Unix ms. local: root on this node wishes it; nothing was signed by a controller.
    secrets: signed lists by `service/name`, the newest accepted.
    """

    assignment: Assignment
    signer: str
    accepted: AcceptedState
    trusted: TrustedSet | None
    nodes: NodeList | None
    settings: Settings | None
    policy: Policy | None
    release: Release | None
    release_digest: str
    now: int
    running: int = 0
    local: bool = False
    secrets: dict[str, SecretList] = field(default_factory=dict)

    @property
    def chooses(self) -> bool:
        """Whether a release is chosen here. Going on with the running one is no choice: it needs no list, no floor."""
        wish = self.assignment
        return wish.phase in _CHOOSES and (wish.counter != self.running or self._other_epoch)

    @property
    def _other_epoch(self) -> bool:
        return self.policy is not None and self.assignment.epoch != self.policy.epoch

    @property
    def title(self) -> str:
        """For people: `release 4 of web`."""
        return f"release {self.assignment.counter} of {self.assignment.service}"

    @property
    def record(self) -> NodeRecord | None:
        """This node's own signed record."""
        nodes = self.nodes.nodes if self.nodes else ()
        return next((one for one in nodes if one.node_id == self.accepted.node_id), None)

    @property
    def known(self) -> AcceptedRelease | None:
        """What this node accepted under the same service, epoch and counter."""
        wish = self.assignment
        key = (wish.service, wish.epoch, wish.counter)
        return next((one for one in self.accepted.releases if (one.service, one.epoch, one.counter) == key), None)

    @property
    def role(self) -> Delegation | None:
        """The role that signs the service's releases now."""
        path = (f"release/{self.assignment.service}/*",)
        roles = self.trusted.delegations if self.trusted else ()
        return next((one for one in roles if one.paths == path), None)


def _cluster(choice: Choice) -> Finding | None:
    bodies = (("the assignment", choice.assignment), ("the policy", choice.policy), ("the release", choice.release))
    for what, body in bodies:
        if body is not None and body.cluster_id != choice.accepted.cluster_id:
            reason = f"{what} is of cluster {body.cluster_id}, this node belongs to {choice.accepted.cluster_id}"
            return Finding(reason=reason, alarm=True)
    return None


def _signer(choice: Choice) -> Finding | None:
    keys = choice.settings.controller_keys if choice.settings else ()
    if choice.local or choice.signer in keys:
        return None
    return Finding(
        reason="the assignment is not signed by a controller key of the settings",
        hint="after a change of controller run `nebh key add` for its new key",
        alarm=True,
    )


def _addressee(choice: Choice) -> Finding | None:
    wish = choice.assignment.node_id
    if wish == choice.accepted.node_id:
        return None
    return Finding(reason=f"the assignment is for node {wish}, not for this one", alarm=True)


def _sequence(choice: Choice) -> Finding | None:
    given, floor = choice.assignment.seq, choice.accepted.seq
    if choice.local or given > floor:
        return None
    reason = f"assignment {given} is not newer than {floor}, the newest this node has seen"
    return Finding(reason=reason, hint="it was replayed or came out of order; send a new one")


def _clock(choice: Choice) -> Finding | None:
    if not choice.chooses or choice.known is not None:
        return None
    return clock_finding(now=choice.now // 1000, newest_signed_at=choice.accepted.newest_signed_at)


def _policy(choice: Choice) -> Finding | None:
    if choice.policy is not None and choice.policy.service == choice.assignment.service:
        return None
    service = choice.assignment.service
    return Finding(reason=f"there is no signed policy for {service}", hint=f"deploy {service} from its spec")


def _release(choice: Choice) -> Finding | None:
    wish, release = choice.assignment, choice.release
    if wish.phase is Phase.WITHDRAW or release is None:
        return None
    if (release.service, release.counter, release.epoch) == (wish.service, wish.counter, wish.epoch):
        return None
    named = f"release {release.counter} of {release.service}, epoch {release.epoch}"
    return Finding(reason=f"{choice.title}, epoch {wish.epoch}, is wanted; what is signed says {named}", alarm=True)


def _node(choice: Choice) -> Finding | None:
    record = choice.record
    if choice.assignment.phase is Phase.WITHDRAW:
        return None
    if record is None:
        return Finding(reason="this node is not in the signed list of nodes", hint="`nebh up` enrols a machine")
    if record.status is not NodeStatus.ACTIVE:
        return Finding(reason="this node has been revoked", alarm=True)
    return None


def _placement(choice: Choice) -> Finding | None:
    record, policy = choice.record, choice.policy
    if choice.assignment.phase is Phase.WITHDRAW or record is None or policy is None:
        return None
    place = policy.placement
    everywhere = not place.groups and not place.nodes
    if everywhere or record.name in place.nodes or set(record.groups) & set(place.groups):
        return None
    return Finding(
        reason=f"node {record.name} is not in the placement of {policy.service}",
        hint="add the node or one of its groups to policy.placement of its spec, and deploy",
    )


def _state(choice: Choice) -> Finding | None:
    policy = choice.policy
    if policy is None or policy.state is ServiceState.RUNNING or choice.assignment.phase is Phase.WITHDRAW:
        return None
    return Finding(reason=f"the policy of {policy.service} says stopped", hint=f"run `nebh start {policy.service}`")


def _withdraw(choice: Choice) -> Finding | None:
    policy = choice.policy
    if policy is None or choice.assignment.phase is not Phase.WITHDRAW:
        return None
    if policy.placement.mode is PlacementMode.SPREAD or policy.state is ServiceState.STOPPED:
        return None
    return Finding(
        reason=f"{policy.service} is pinned: a controller cannot withdraw it",
        hint=f"`nebh stop {policy.service}` signs a policy that stops it",
        alarm=True,
    )


def _epoch(choice: Choice) -> Finding | None:
    wish, policy = choice.assignment, choice.policy
    if policy is None or wish.phase is Phase.WITHDRAW or wish.epoch == policy.epoch:
        return None
    return Finding(reason=f"{choice.title} is of epoch {wish.epoch}, the policy of epoch {policy.epoch}")


def _floor(choice: Choice) -> Finding | None:
    policy, counter = choice.policy, choice.assignment.counter
    if policy is None or not choice.chooses:
        return None
    if is_in_window(counter, policy=policy, accepted=choice.accepted, now=choice.now):
        return None
    floor = floor_of(policy, choice.accepted, now=choice.now)
    why = "the policy's min_release" if floor == policy.min_release else "committed here, its rollback window is over"
    return Finding(
        reason=f"{choice.title} is below the floor {floor} ({why})",
        hint=f"deploy its contents again as a new release, or pin it: `nebh pin {policy.service} {counter}`",
    )


def _same_bytes(choice: Choice) -> Finding | None:
    known = choice.known
    if known is None or choice.release is None or known.digest == choice.release_digest:
        return None
    return Finding(
        reason=f"equivocation: {choice.title} has other bytes than this node has accepted under that number",
        hint="a release key signed one number twice: find out which computer did that",
        alarm=True,
    )


def _restart(choice: Choice) -> Finding | None:
    wish = choice.assignment
    if wish.phase is not Phase.RESTART or wish.counter == choice.running:
        return None
    return Finding(reason=f"{choice.title} cannot be restarted: release {choice.running} is the one that runs here")


def _listed(choice: Choice) -> Finding | None:
    if not choice.chooses:
        return None
    if choice.trusted is None:
        return _accepted_before(choice, "metadata is expired or cannot be had")
    role = choice.role
    if role is not None and choice.trusted.expires.get(role.role, 0) * 1000 <= choice.now:
        return _accepted_before(choice, f"the role {role.role} has expired")
    path = f"release/{choice.assignment.service}/{choice.assignment.counter}.json"
    listed = role is not None and path in role.listed and choice.release is not None
    if listed and choice.trusted.release_digests.get(path) == choice.release_digest:
        return None
    return Finding(reason=f"{choice.title} is not listed", hint="publish it, or choose one that `nebh releases` shows")


def _accepted_before(choice: Choice, why: str) -> Finding | None:
    if choice.known is not None and choice.release is not None:
        return None
    return Finding(
        reason=f"{why}, and {choice.title} was not accepted here before",
        hint="run `nebh trust renew` with an operator key; what runs now runs on",
    )


def _policy_version(choice: Choice) -> Finding | None:
    release, policy = choice.release, choice.policy
    if release is None or policy is None or release.policy_min_version <= policy.version:
        return None
    reason = f"{choice.title} needs policy version {release.policy_min_version}, this is version {policy.version}"
    return Finding(reason=reason, hint="publish the policy first")


def _replicas(choice: Choice) -> Finding | None:
    wish, policy = choice.assignment, choice.policy
    if policy is None or wish.phase is Phase.WITHDRAW:
        return None
    most = min(policy.placement.max_per_node, policy.replicas.max)
    if 1 <= wish.replicas <= most:
        return None
    limit = "max_per_node" if most == policy.placement.max_per_node else "replicas.max"
    reason = f"{wish.replicas} allocations of {policy.service} are wanted here, 1 to {most} are allowed ({limit})"
    return Finding(reason=reason, hint=f"raise {limit} in its spec and deploy")


def _bounds(choice: Choice) -> Finding | None:
    if choice.release is None or choice.policy is None or not choice.chooses:
        return None
    problem = find_bounds_problem(choice.release, choice.policy)
    return Finding(reason=f"{choice.title}: {problem}", hint="change the release, or its policy") if problem else None


def _named(choice: Choice) -> Finding | None:
    if choice.release is None or choice.policy is None or not choice.chooses:
        return None
    return find_unnamed(choice.release, choice.policy)


def _sealed(choice: Choice) -> Finding | None:
    if choice.release is None or not choice.chooses:
        return None
    return find_missing(choice.release, node_id=choice.accepted.node_id, listed=choice.secrets)


CHOICE_RULES: tuple[Rule[Choice], ...] = (
    Rule(id="N0.assignment", description="assignment, policy and release carry our cluster_id", check=_cluster),
    Rule(id="assignment.signer", description="a controller key of the settings signed it", check=_signer),
    Rule(id="N4.addressee", description="it is for this node", check=_addressee),
    Rule(id="assignment.seq", description="its number is higher than any before", check=_sequence),
    Rule(id="N13.assignment", description="nothing new while the clock is wrong", check=_clock),
    Rule(id="N3.policy", description="the service has a signed policy", check=_policy),
    Rule(id="N3.release", description="the release is the one that is named", check=_release),
    Rule(id="N4.node", description="this node is enrolled and not revoked", check=_node),
    Rule(id="N4.placement", description="the policy's placement admits this node", check=_placement),
    Rule(id="assignment.state", description="the policy says running", check=_state),
    Rule(id="assignment.withdraw", description="pinned services are not withdrawn", check=_withdraw),
    Rule(id="N5.epoch", description="the epoch is the policy's", check=_epoch),
    Rule(id="N5.equivocation", description="an accepted counter keeps its bytes", check=_same_bytes),
    Rule(id="N5.floor", description="the counter is not below the floor, or is pinned", check=_floor),
    Rule(id="assignment.restart", description="only the running release is restarted", check=_restart),
    Rule(id="N6.listed", description="the release is listed now, or offline: was accepted before", check=_listed),
    Rule(id="N7.policy", description="the policy is new enough for the release", check=_policy_version),
    Rule(id="N8.replicas", description="no more allocations here than the policy allows", check=_replicas),
    Rule(id="N9.bounds", description="the release stays within its policy and sane figures", check=_bounds),
    Rule(id="N11.named", description="the policy names every secret that the release uses", check=_named),
    Rule(id="N11.sealed", description="a signed list holds a box of each for this node", check=_sealed),
)
