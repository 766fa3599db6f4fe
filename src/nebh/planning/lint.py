"""Is an image minimal? Decided from its manifest alone, by whoever asks: importer report and executor (N14).

A manifest cannot express device nodes, setuid bits or file capabilities: importers drop and report them, and the
schema of manifests refuses them. `setuid` is looked for all the same; `file-capability` can only come from importers.
"""

from __future__ import annotations

import fnmatch
import re

from nebh.model.image import EntryType, LintFinding, LintRule, TreeEntry, TreeManifest

_BIN = re.compile(r"(?:.+/)?s?bin/[^/]+\Z|[^/]+\Z")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SHELLS = _words("sh ash bash dash zsh ksh mksh fish csh tcsh busybox toybox rbash sash yash nu pwsh")
PACKAGE_MANAGERS = _words(
    "apt apt-get apt-cache aptitude dpkg dpkg-deb rpm dnf microdnf yum zypper apk pacman opkg emerge snap flatpak brew "
    "pip pip3 pipx uv poetry conda npm npx yarn pnpm gem bundle cargo composer cpan go luarocks"
)
COMPILERS = _words(
    "gcc g++ cc c++ cpp clang clang++ tcc rustc ld ld.bfd ld.gold ld.lld as nasm yasm make cmake ninja meson javac "
    "ghc ocamlopt tsc swiftc fpc gfortran"
)
DIAGNOSTICS = _words(
    "strace ltrace gdb gdbserver lldb perf tcpdump nc ncat netcat socat nmap telnet curl wget dig nslookup host ssh "
    "scp sftp ftp tftp rsync screen tmux nsenter unshare chroot capsh setpriv su sudo doas mount umount bpftool "
    "bpftrace"
)
_VERSIONED = re.compile(r"(?P<name>.+?)-?\d+(?:\.\d+)*\Z")
_TARGETED = re.compile(r"(?:[a-z0-9_]+-){2,4}(?P<name>gcc|g\+\+|cpp|ld|as)(?:-\d+)?\Z")
_BY_NAME = (
    (LintRule.SHELL, SHELLS, "a shell"),
    (LintRule.PACKAGE_MANAGER, PACKAGE_MANAGERS, "a package manager"),
    (LintRule.COMPILER, COMPILERS, "a compiler or build tool"),
    (LintRule.DIAGNOSTIC, DIAGNOSTICS, "a diagnostic or network tool"),
)


def lint_manifest(manifest: TreeManifest) -> tuple[LintFinding, ...]:
    """Return every finding, in the order of the manifest; paths are absolute as seen inside the container."""
    return tuple(finding for entry in manifest.entries for finding in lint_entry(entry))


def lint_entry(entry: TreeEntry) -> tuple[LintFinding, ...]:
    """Return the findings of one path."""
    found = []
    if entry.type is not EntryType.DIRECTORY and _BIN.match(entry.path):
        name = entry.path.rpartition("/")[2]
        runs = entry.type is EntryType.LINK or bool(entry.mode & 0o111)
        found += [_finding(rule, entry, text) for rule, names, text in _BY_NAME if runs and _is_one_of(name, names)]
    if entry.type is not EntryType.LINK:
        found += _lint_mode(entry)
    return tuple(found)


def find_unexcepted(findings: tuple[LintFinding, ...], exceptions: tuple[str, ...]) -> tuple[LintFinding, ...]:
    """Return the findings that no exception `rule:glob` covers. `*` in a glob also matches `/`."""
    return tuple(one for one in findings if not any(_covers(text, one) for text in exceptions))


def _covers(exception: str, finding: LintFinding) -> bool:
    rule, _, glob = exception.partition(":")
    return rule == finding.rule.value and fnmatch.fnmatchcase(finding.path, glob)


def _lint_mode(entry: TreeEntry) -> list[LintFinding]:
    found = []
    if entry.mode & 0o7000 and not (entry.type is EntryType.DIRECTORY and entry.mode & 0o7000 == 0o1000):
        found.append(_finding(LintRule.SETUID, entry, f"mode {entry.mode:04o} has setuid, setgid or sticky"))
    sticky = entry.type is EntryType.DIRECTORY and entry.path in {"tmp", "var/tmp", "dev/shm"}
    if entry.mode & 0o002 and not sticky:
        found.append(_finding(LintRule.WORLD_WRITABLE, entry, f"mode {entry.mode:03o} lets anybody write"))
    needed = 0o005 if entry.type is EntryType.DIRECTORY else 0o004
    if entry.mode & needed != needed:
        text = f"mode {entry.mode:03o}: the service's user cannot read it"
        found.append(_finding(LintRule.NOT_WORLD_READABLE, entry, text))
    return found


def _is_one_of(name: str, names: frozenset[str]) -> bool:
    versioned, targeted = _VERSIONED.match(name), _TARGETED.match(name)
    return (
        name in names
        or (versioned is not None and versioned["name"] in names)
        or (targeted is not None and targeted["name"] in names)
    )


def _finding(rule: LintRule, entry: TreeEntry, text: str) -> LintFinding:
    return LintFinding(rule=rule, path=f"/{entry.path}", message=text)
