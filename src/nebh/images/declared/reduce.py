"""What is left away of a tree: always documentation, locales, package database, shells and tools; with `closure`
everything of packages that nothing reached needs. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from nebh.images.declared.assembly import Tree
from nebh.images.declared.closure import Closure, Finder
from nebh.images.declared.facts import FileFacts
from nebh.images.declared.globs import Globs
from nebh.images.declared.slices import Slice
from nebh.model.build import ImageDeclaration, Reduction
from nebh.model.errors import BadInput
from nebh.model.image import EntryType, TreeEntry

STANDARD: Final = (
    *("/usr/share/doc", "/usr/share/doc-base", "/usr/share/man", "/usr/share/info", "/usr/share/lintian"),
    *("/usr/share/locale", "/usr/share/bug", "/usr/share/menu", "/usr/share/applications", "/usr/share/pixmaps"),
    *("/usr/share/bash-completion", "/usr/share/zsh", "/usr/share/fish", "/usr/share/gdb", "/usr/share/debconf"),
    *("/usr/share/perl5/Debconf", "/usr/share/perl5/Debian", "/usr/share/perl5/Dpkg", "/usr/share/dpkg"),
    *("/usr/lib/dpkg", "/var/lib/dpkg", "/var/lib/apt", "/var/cache", "/etc/apt", "/etc/dpkg", "/etc/alternatives"),
    *("/etc/init.d", "/etc/cron.*", "/etc/logrotate.d", "/etc/default", "/etc/bash_completion.d", "/etc/skel"),
    *("/usr/lib/systemd", "/usr/lib/udev", "/usr/lib/tmpfiles.d", "/usr/lib/sysusers.d", "/usr/lib/init", "/etc/ufw"),
    *("/usr/include", "/usr/lib/**/*.a", "/usr/lib/**/*.la", "/usr/lib/**/pkgconfig", "/usr/share/pkgconfig"),
    *("/usr/share/aclocal", "/usr/share/initramfs-tools", "/usr/share/apport", "/usr/share/lto-disabled-list"),
    *("/usr/lib/python3*/test", "/usr/lib/python3*/idlelib", "/usr/lib/python3*/ensurepip", "/**/__pycache__"),
)
Unwanted = Callable[[TreeEntry], bool]


@dataclass(frozen=True, kw_only=True)
class Reduced:
    """missing: what the closure looked for in vain. idle: globs of `keep` and `drop` that mean nothing here."""

    closure: Closure | None = None
    idle: tuple[str, ...] = ()


def reduce_tree(
    tree: Tree,
    facts: dict[str, FileFacts],
    declared: ImageDeclaration,
    *,
    slices: tuple[Slice, ...],
    own: Callable[[str], bool],
    whole: Callable[[str], bool],
    unwanted: Unwanted,
) -> Reduced:
    """Reduce `tree` in place as `declared` says. own: of an origin, whether it is the project's and not a package;
    unwanted: shells, tools and the like. Raises BadInput for an entrypoint that is not there."""
    check_command(tree, declared.entrypoint)
    keep, drop = Globs(declared.keep), Globs(declared.drop)
    dropped = {path for path in tree.entries if drop.match(path)}
    closure = None
    if declared.reduce is not Reduction.NONE:
        held = {one for one in tree.entries if keep.match(one)} | _started(tree, declared)
        plain = Globs(STANDARD)
        dropped |= {
            path
            for path, entry in tree.entries.items()
            if path not in held
            and not own(tree.origin[path])
            and (plain.match(path) or (entry.type is not EntryType.DIRECTORY and unwanted(entry)))
        }
        held_up = {up for path in held for up in _above(path)}
        tree.remove(path for path in dropped if path not in held_up)
    else:
        tree.remove(dropped)
    if declared.reduce is Reduction.CLOSURE:
        finder = Finder(tree, facts, slices=slices, python_path=declared.python.path, whole=whole, own=_is_code)
        finder.add_command(declared.entrypoint)
        finder.add_globs(declared.keep)
        for path in sorted(tree.entries):
            if own(tree.origin[path]):
                finder.need(path, by="the declaration")
        closure = finder.run()
        tree.keep_only(closure.kept)
    tree.prune()
    keep_idle = keep.unmatched() if declared.reduce is not Reduction.NONE else ()
    return Reduced(closure=closure, idle=(*keep_idle, *drop.unmatched()))


def check_command(tree: Tree, argv: tuple[str, ...]) -> None:
    """Raise BadInput when the program of `argv` is not in the tree."""
    if argv and not tree.walk(argv[0]).path:
        name = argv[0].rpartition("/")[2]
        like = sorted(f"/{path}" for path in tree.entries if path.rpartition("/")[2] == name)[:3]
        hint = f"did you mean {' or '.join(like)}?" if like else "add the package or file that brings it"
        raise BadInput(f"cannot build the image: its entrypoint {argv[0]} is in none of its sources", hint=hint)


def _started(tree: Tree, declared: ImageDeclaration) -> set[str]:
    if not declared.entrypoint:
        return set()
    found = tree.walk(declared.entrypoint[0])
    return {found.path, *found.links}


def _is_code(origin: str) -> bool:
    return origin.startswith(("path ", "tar ", "build "))


def _above(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:index]) for index in range(1, len(parts))]
