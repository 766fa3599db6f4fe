"""The executor's own judgement: refresh through a verifier child, then the acceptance rules."""

from __future__ import annotations

import base64
import dataclasses
import threading

from nebh.executor.context import Context
from nebh.host import marks
from nebh.images.manifest import refer_to
from nebh.model.errors import BadInput, Broken, NebhError, Refused, Unreachable
from nebh.model.event import Severity
from nebh.model.image import TreeManifest
from nebh.model.policy import Policy
from nebh.model.release import Release
from nebh.model.statement import Action, Assignment, Order, Phase
from nebh.model.trust import TrustedSet, Verdict
from nebh.model.work import TransactionRow
from nebh.planning import accept
from nebh.planning.accept_choice import Choice
from nebh.planning.lint import lint_manifest
from nebh.signing.statements import peek_statement, verify_statement
from nebh.signing.verify_child import Verification, Verifiers

CONTROLLER = "controller"
_LISTED = "N6"
_PHASES = {"restart": Phase.RESTART}


class Trust:
    """One verification at a time: each raises floors that the next one must see."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._verifiers = Verifiers()

    def refresh(self, wanted: tuple[str, ...] = (), *, another: bool = False) -> TrustedSet:
        """Return a set of metadata that was verified and accepted, floors raised; every source is tried in turn.
        another: a refresh for a release is likely to follow at once.

        Raises Refused (the rule that said no), Unreachable.
        """
        with self._lock:
            settings = self._context.accepted.settings()
            problem: NebhError = Unreachable("cannot refresh metadata: there is no source")
            for source in (CONTROLLER, *(f"mirror-{n}" for n, _ in enumerate(settings.mirrors if settings else ()))):
                try:
                    return self._refresh_from(source, wanted, another=another)
                except (Refused, Unreachable, BadInput, Broken) as error:
                    problem = error
                    self._say(source, error)
            raise problem

    def _refresh_from(self, source: str, wanted: tuple[str, ...], *, another: bool) -> TrustedSet:
        context = self._context
        directory = context.layout.trust(source)
        directory.mkdir(parents=True, exist_ok=True)
        request = Verification(
            directory=directory,
            root=context.layout.pinned_root,
            cluster_id=context.accepted.meta("cluster_id"),
            source=source,
            wanted=wanted,
        )
        marks.mark("verifier.begin")
        trusted = self._verifiers.verify(
            request,
            lambda name, limit: context.agent.metadata(source=source, name=name, limit=limit),
            another=another,
        )
        marks.mark("verifier.done")
        now = context.clock.now_ms() // 1000
        self._demand(accept.accept_metadata(trusted, context.accepted.state(), now=now))
        context.accepted.take(trusted)
        return trusted

    def _say(self, source: str, error: NebhError) -> None:
        """A source that lags or is away is a warning; one that lies is an alarm."""
        alarm = isinstance(error, Refused) and error.alarm
        self._context.event(
            "metadata.refused" if alarm else "metadata.unreachable",
            f"metadata of {source}: {error}",
            severity=Severity.ALARM if alarm else Severity.WARNING,
            hint=error.hint,
            facts={"source": source, "rule": error.rule if isinstance(error, Refused) else ""},
        )

    def _demand(self, verdict: Verdict) -> None:
        if not verdict.ok:
            raise Refused(verdict.reason, rule=verdict.rule, hint=verdict.hint, alarm=verdict.alarm)

    def accept(self, row: TransactionRow) -> None:
        """Judge what a transaction is to run; what passes is remembered. Raises Refused."""
        context = self._context
        path = f"release/{row.service}/{row.to_counter}.json"
        trusted, problem = self._try_refresh((path,))
        choice = self._choice(row, path, trusted)
        verdict = accept.accept_assignment(choice)
        if problem is not None and verdict.rule == _LISTED:
            # nothing new without metadata: say what is wrong with it, not only that there is none
            rule = problem.rule if isinstance(problem, Refused) else _LISTED
            raise Refused(
                f"{choice.title} was not accepted before, and {problem}", rule=rule, hint=problem.hint
            ) from problem
        self._demand(verdict)
        if choice.release is not None and choice.known is None:
            context.accepted.add_release(choice.release, digest=choice.release_digest, now=context.clock.now_ms())

    def _try_refresh(self, wanted: tuple[str, ...]) -> tuple[TrustedSet | None, NebhError | None]:
        """Expired, unreachable or refused metadata brings nothing new; what was accepted before goes on. Returns the
        set, or what is wrong."""
        try:
            return self.refresh(wanted), None
        except NebhError as error:
            return None, error

    def _choice(self, row: TransactionRow, path: str, trusted: TrustedSet | None) -> Choice:
        accepted = self._context.accepted
        state = accepted.state()
        assignment, signer = self._assignment(row)
        known = accepted.release_row(row.service, row.epoch, row.to_counter)
        release: Release | None = trusted.releases.get(path) if trusted else None
        digest = trusted.release_digests.get(path, "") if trusted else ""
        if release is None and known is not None:
            release, digest = accepted.release(row.service, row.epoch, row.to_counter), known.digest
        service = self._context.work.service(row.service)
        return Choice(
            assignment=assignment,
            signer=signer,
            # the intake has raised the floor to this very assignment already
            accepted=dataclasses.replace(state, seq=min(state.seq, assignment.seq - 1)),
            trusted=trusted,
            nodes=accepted.nodes(),
            settings=accepted.settings(),
            policy=accepted.policy(row.service),
            release=release,
            release_digest=digest,
            now=self._context.clock.now_ms(),
            running=service.counter if service is not None and service.epoch == row.epoch else 0,
            local=not signer,
            secrets=accepted.secrets.listed(),
        )

    def _assignment(self, row: TransactionRow) -> tuple[Assignment, str]:
        """Return the signed assignment behind a transaction and its signer, or the node's own wish and "": a restore is
        the wish of an operator, whose order is looked at again."""
        if row.kind == "restore":
            self._check_order(row)
        elif row.nonce:
            service = self._context.work.service(row.service)
            envelope = base64.b64decode(service.assignment if service is not None else "")
            found = peek_statement(envelope, "assignment", Assignment)
            if (found.nonce, found.counter, found.epoch) != (row.nonce, row.to_counter, row.epoch):
                raise Refused("a newer command took this one's place", rule="assignment.seq")
            return found, self.signer_of(envelope, "assignment", Assignment)
        wish = accept.local_wish(
            self._context.accepted.state(),
            service=row.service,
            epoch=row.epoch,
            counter=row.to_counter,
            replicas=row.replicas,
            phase=_PHASES.get(row.kind, Phase.RUN),
        )
        return wish, ""

    def _check_order(self, row: TransactionRow) -> None:
        envelope = base64.b64decode(self._context.accepted.meta(f"order/{row.service}"))
        order = peek_statement(envelope, "order", Order)
        if (order.nonce, order.action) != (row.nonce, Action.RESTORE):
            raise Refused("a newer order took this one's place", rule="order.nonce")
        if self.signer_of(envelope, "order", Order) not in self._context.accepted.meta("operator_keys").split():
            raise Refused("the order is not signed by an operator", rule="order.signer")

    def signer_of(self, envelope: bytes, kind: str, cls: type[object]) -> str:
        """Return the hex key that signed an envelope, of those that may. Raises Refused N1."""
        if kind == "assignment":
            settings = self._context.accepted.settings()
            keys = settings.controller_keys if settings else ()
        else:
            keys = tuple(self._context.accepted.meta("operator_keys").split())
        for key in keys:
            try:
                verify_statement(envelope, kind, cls, keys=(key,))
            except Refused:
                continue
            return key
        raise Refused(
            f"cannot accept the {kind}: no key that may sign it did",
            rule="N1",
            hint="was the controller's key replaced? run `nebh key list`",
        )

    def check_image(self, release: Release, manifest: TreeManifest) -> None:
        """Judge an image that arrived. Raises Refused N9 or N14."""
        self._demand(
            accept.accept_image(
                release=release,
                policy=self.policy(release.service),
                found=refer_to(manifest),
                manifest=manifest,
                findings=lint_manifest(manifest),
            )
        )

    def policy(self, service: str) -> Policy:
        """Return the accepted policy."""
        return self._context.policy(service)
