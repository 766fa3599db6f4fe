"""Lint finds what a minimal image does not need, from names and modes alone."""

import pytest

from nebh.model.image import EntryType, LintFinding, LintRule, TreeEntry, TreeManifest
from nebh.planning.lint import find_unexcepted, lint_entry, lint_manifest


def entry(path: str, mode: int = 0o755, kind: EntryType = EntryType.FILE, target: str = "") -> TreeEntry:
    return TreeEntry(path=path, type=kind, mode=mode, target=target)


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("bin/sh", LintRule.SHELL),
        ("usr/bin/bash", LintRule.SHELL),
        ("bin/busybox", LintRule.SHELL),
        ("opt/tool/bin/dash", LintRule.SHELL),
        ("sh", LintRule.SHELL),
        ("usr/bin/apt-get", LintRule.PACKAGE_MANAGER),
        ("usr/local/bin/pip3.11", LintRule.PACKAGE_MANAGER),
        ("sbin/apk", LintRule.PACKAGE_MANAGER),
        ("usr/bin/gcc-12", LintRule.COMPILER),
        ("usr/bin/x86_64-linux-gnu-gcc-12", LintRule.COMPILER),
        ("usr/bin/make", LintRule.COMPILER),
        ("usr/bin/strace", LintRule.DIAGNOSTIC),
        ("usr/bin/curl", LintRule.DIAGNOSTIC),
    ],
)
def test_tools_are_found_as_files_and_as_links(path: str, rule: LintRule) -> None:
    assert [one.rule for one in lint_entry(entry(path))] == [rule]
    assert lint_entry(entry(path))[0].path == f"/{path}"
    link = entry(path, 0o777, EntryType.LINK, target="other")
    assert [one.rule for one in lint_entry(link)] == [rule]


@pytest.mark.parametrize(
    "path", ["usr/bin/python3.11", "usr/bin/app", "usr/share/doc/sh", "etc/sh", "usr/bin/gunicorn", "usr/lib/x/gcc"]
)
def test_what_is_fine(path: str) -> None:
    assert lint_entry(entry(path)) == ()


def test_a_file_that_cannot_be_run_is_no_tool() -> None:
    assert lint_entry(entry("bin/sh", 0o644)) == ()


@pytest.mark.parametrize(
    ("path", "kind", "mode", "rules"),
    [
        ("a", EntryType.FILE, 0o4755, [LintRule.SETUID]),
        ("a", EntryType.FILE, 0o666, [LintRule.WORLD_WRITABLE]),
        ("a", EntryType.FILE, 0o640, [LintRule.NOT_WORLD_READABLE]),
        ("d", EntryType.DIRECTORY, 0o777, [LintRule.WORLD_WRITABLE]),
        ("d", EntryType.DIRECTORY, 0o750, [LintRule.NOT_WORLD_READABLE]),
        ("d", EntryType.DIRECTORY, 0o754, [LintRule.NOT_WORLD_READABLE]),
        ("tmp", EntryType.DIRECTORY, 0o777, []),
        ("tmp", EntryType.FILE, 0o777, [LintRule.WORLD_WRITABLE]),
        ("l", EntryType.LINK, 0o777, []),
    ],
)
def test_modes(path: str, kind: EntryType, mode: int, rules: list[LintRule]) -> None:
    assert [one.rule for one in lint_entry(entry(path, mode, kind))] == rules


def test_exceptions_name_rule_and_glob() -> None:
    findings = lint_manifest(TreeManifest(format=1, entries=(entry("bin/bash"), entry("bin/sh"), entry("usr/bin/gdb"))))
    assert [one.path for one in find_unexcepted(findings, ("shell:/bin/*",))] == ["/usr/bin/gdb"]
    assert [one.path for one in find_unexcepted(findings, ("shell:/bin/sh", "diagnostic:/*"))] == ["/bin/bash"]
    assert find_unexcepted(findings, ("*:*", "/bin/sh", "shell")) == findings
    capability = LintFinding(rule=LintRule.FILE_CAPABILITY, path="/bin/ping", message="")
    assert find_unexcepted((capability,), ("file-capability:/bin/ping",)) == ()
