"""N9 and N14 on the image that arrived for a release."""

from __future__ import annotations

from dataclasses import dataclass

from nebh.images.entrypoint import check_entrypoint
from nebh.images.places import find_obstacle
from nebh.model.config import MAX_BUNDLE, MOST_FILES, find_place_problem
from nebh.model.image import ImageRef, LintFinding, TreeManifest
from nebh.model.names import is_digest
from nebh.model.policy import Policy
from nebh.model.release import Release
from nebh.model.rules import Finding, Rule
from nebh.model.service import CheckKind
from nebh.planning.bounds_secrets import find_folder_problem
from nebh.planning.lint import find_unexcepted


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """found: what the manifest that arrived says of itself. findings: of lint on that manifest."""

    release: Release
    policy: Policy
    found: ImageRef
    manifest: TreeManifest
    findings: tuple[LintFinding, ...]


def _same(facts: ImageFacts) -> Finding | None:
    signed, found = facts.release.images.get("main"), facts.found
    if signed is not None and (signed.manifest, signed.bytes, signed.entries) == (
        found.manifest,
        found.bytes,
        found.entries,
    ):
        return None
    return Finding(
        reason=f"the image that arrived ({found.manifest[:12]}, {found.bytes} bytes, {found.entries} entries) is not "
        "the one that was signed",
        hint="a mirror is broken or lies; the release is untouched",
        alarm=True,
    )


def _limits(facts: ImageFacts) -> Finding | None:
    limits, found = facts.policy.limits, facts.found
    if found.bytes > limits.image_bytes:
        reason = f"the image has {found.bytes} bytes, the policy allows {limits.image_bytes}"
        return Finding(reason=reason, hint="make it smaller, or raise limits.image_bytes")
    if found.entries > limits.image_entries:
        reason = f"the image has {found.entries} entries, the policy allows {limits.image_entries}"
        return Finding(reason=reason, hint="make it smaller, or raise limits.image_entries")
    return None


def _program(facts: ImageFacts) -> Finding | None:
    release, health = facts.release, facts.release.health
    checks = (health.startup, health.readiness, health.liveness, *release.update.checks)
    reloads = [one.argv[:1] for one in release.files if one.argv]
    programs = [
        release.argv[:1],
        *reloads,
        *(one.argv[:1] for one in checks if one is not None and one.kind is CheckKind.EXEC),
    ]
    for words in programs:
        problem = check_entrypoint(facts.manifest, words[0] if words else "")
        if problem is not None:
            return Finding(reason=problem.message, hint=problem.hint)
    return None


def _files(facts: ImageFacts) -> Finding | None:
    release, bundle = facts.release, facts.release.config
    if not release.files:
        return None
    paths = [one.path for one in release.files]
    if bundle is None or not 0 < bundle.bytes <= MAX_BUNDLE or not is_digest(bundle.digest):
        return Finding(reason="it has files, and no bundle within bounds that they are rendered from")
    if len(set(paths)) < len(paths) or len(paths) > MOST_FILES:
        return Finding(reason=f"{len(paths)} files: over {MOST_FILES}, or two with one path")
    held = {entry.path: entry for entry in facts.manifest.entries}
    for one in release.files:
        problem = find_place_problem(one.path) or find_obstacle(held, one.path)
        if not problem and one.path.strip("/") not in held:
            problem = "the image has no place for it"
        if problem:
            hint = "`nebh deploy` adds an empty file to the image where one is needed"
            return Finding(reason=f"the file {one.path}: {problem}", hint=hint)
    return None


def _lint(facts: ImageFacts) -> Finding | None:
    left = find_unexcepted(facts.findings, facts.policy.lint_exceptions)
    if not left:
        return None
    more = f", and {len(left) - 1} more" if len(left) > 1 else ""
    first = left[0]
    return Finding(
        reason=f"lint: {first.path}: {first.message}{more}",
        hint=f'take it out of the image, or allow it: policy.lint_exceptions: ["{first.rule.value}:{first.path}"]',
    )


def _folders(facts: ImageFacts) -> Finding | None:
    problem = find_folder_problem(facts.release, facts.manifest)
    return (
        Finding(reason=problem, hint="give the secret a folder of its own, such as /run/secrets") if problem else None
    )


IMAGE_RULES: tuple[Rule[ImageFacts], ...] = (
    Rule(id="N9.image", description="digest, bytes and entries are as signed", check=_same),
    Rule(id="N9.limits", description="the image is within the policy's limits", check=_limits),
    Rule(id="image.program", description="the image holds the programs that argv and checks name", check=_program),
    Rule(id="image.files", description="the image has a place for each of the release's files", check=_files),
    Rule(id="N14.lint", description="lint is clean or excepted in the policy", check=_lint),
    Rule(id="image.secrets", description="secrets lie in folders that the image leaves empty", check=_folders),
)
