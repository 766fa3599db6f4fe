"""What the closure follows, on trees of names and facts alone."""

from __future__ import annotations

import hashlib

import pytest

from nebh.images.declared.assembly import Tree
from nebh.images.declared.closure import Finder
from nebh.images.declared.facts import ElfFacts, FileFacts, read_facts
from nebh.images.declared.globs import Globs
from nebh.images.declared.slices import load_slices, read_slice
from nebh.model.errors import BadInput, Broken
from nebh.model.image import EntryType, TreeEntry

MACHINE = "EM_X86_64"
LIB = "usr/lib/x86_64-linux-gnu"


def file(path: str, content: str = "") -> TreeEntry:
    digest = hashlib.sha256((content or path).encode()).hexdigest()
    return TreeEntry(path=path, type=EntryType.FILE, mode=0o755, size=5, sha256=digest)


def link(path: str, target: str) -> TreeEntry:
    return TreeEntry(path=path, type=EntryType.LINK, mode=0o777, target=target)


def folder(path: str) -> TreeEntry:
    return TreeEntry(path=path, type=EntryType.DIRECTORY, mode=0o755)


def tree_of(*entries: TreeEntry, origin: str = "deb x") -> Tree:
    tree = Tree()
    tree.add_merged_links()
    tree.add(entries, origin=origin)
    return tree


def elf(**values: object) -> FileFacts:
    return FileFacts(elf=ElfFacts(machine=MACHINE, **values))


def kept(tree: Tree, facts: dict[str, FileFacts], *argv: str, **options: object) -> set[str]:
    finder = Finder(tree, {file(path).sha256: one for path, one in facts.items()}, slices=(), **options)
    finder.add_command(argv)
    found = finder.run().kept
    return {path for path in found if path in tree.entries and tree.entries[path].type is not EntryType.DIRECTORY}


def test_libraries_their_loader_and_the_links_on_the_way_are_kept() -> None:
    tree = tree_of(
        link("usr/bin/app", "app-1"),
        file("usr/bin/app-1"),
        file(f"{LIB}/ld-2.so"),
        link("lib64/ld.so", f"/{LIB}/ld-2.so"),
        link(f"{LIB}/liba.so.1", "liba.so.1.2"),
        file(f"{LIB}/liba.so.1.2"),
        file(f"{LIB}/libb.so.2"),
        file(f"{LIB}/libunused.so.3"),
    )
    facts = {
        "usr/bin/app-1": elf(interpreter="/lib64/ld.so", needed=("liba.so.1",)),
        f"{LIB}/liba.so.1.2": elf(needed=("libb.so.2", "libgone.so.1")),
        f"{LIB}/libb.so.2": elf(),
        f"{LIB}/ld-2.so": elf(),
    }
    assert kept(tree, facts, "/usr/bin/app") == {
        "usr/bin/app",
        "usr/bin/app-1",
        "lib64",
        "usr/lib64/ld.so",
        f"{LIB}/ld-2.so",
        f"{LIB}/liba.so.1",
        f"{LIB}/liba.so.1.2",
        f"{LIB}/libb.so.2",
        "lib",
    }


def test_rpath_is_inherited_and_runpath_is_not() -> None:
    tree = tree_of(
        file("opt/a/app"), file("opt/a/lib/libone.so"), file("opt/a/lib/libtwo.so"), file("opt/b/libthree.so")
    )
    facts = {
        "opt/a/app": elf(needed=("libone.so",), rpath=("$ORIGIN/lib",)),
        "opt/a/lib/libone.so": elf(needed=("libtwo.so",)),
        "opt/a/lib/libtwo.so": elf(needed=("libthree.so",), runpath=("${ORIGIN}/../../b",)),
        "opt/b/libthree.so": elf(),
    }
    assert {"opt/a/lib/libtwo.so", "opt/b/libthree.so"} <= kept(tree, facts, "/opt/a/app")
    facts["opt/a/lib/libone.so"] = elf(needed=("libtwo.so",), runpath=("/nowhere",))
    assert "opt/a/lib/libtwo.so" not in kept(tree, facts, "/opt/a/app")


def test_a_library_of_another_machine_is_no_answer_and_a_hint_that_is_not_there_is_no_lack() -> None:
    tree = tree_of(file("app"), file(f"{LIB}/liba.so"), file(f"{LIB}/libgcc_s.so.1"))
    facts = {
        "app": elf(needed=("liba.so",), hints=("libgcc_s.so.1", "libnever.so.1")),
        f"{LIB}/liba.so": FileFacts(elf=ElfFacts(machine="EM_386")),
        f"{LIB}/libgcc_s.so.1": elf(),
    }
    finder = Finder(tree, {file(path).sha256: one for path, one in facts.items()}, slices=())
    finder.add_command(("/app",))
    closure = finder.run()
    assert f"{LIB}/libgcc_s.so.1" in closure.kept
    assert list(closure.missing) == ["liba.so, wanted by /app"]


def test_python_modules_are_followed_by_their_imports() -> None:
    std = "usr/lib/python3.11"
    tree = tree_of(
        *(folder(one) for one in ("usr", "usr/lib", std, f"{std}/json", f"{std}/lib-dynload", "app", "app/part")),
        *(file(f"{std}/{name}") for name in ("json/__init__.py", "json/decoder.py", "json/tool.py", "heavy.py")),
        file(f"{std}/lib-dynload/_json.cpython-311-x86_64-linux-gnu.so"),
        *(file(f"app/{name}") for name in ("main.py", "part/__init__.py", "part/one.py", "part/two.py", "other.py")),
        file("usr/bin/python3"),
    )
    facts = {
        "app/main.py": FileFacts(imports=("part.one", "json")),
        "app/part/one.py": FileFacts(imports=(".", ".two")),
        f"{std}/json/__init__.py": FileFacts(imports=(".decoder", ".decoder.JSONDecoder")),
        f"{std}/json/decoder.py": FileFacts(imports=("_json",)),
    }
    found = kept(tree, facts, "/usr/bin/python3", "/app/main.py")
    assert {"app/part/__init__.py", "app/part/one.py", "app/part/two.py", f"{std}/json/decoder.py"} <= found
    assert f"{std}/lib-dynload/_json.cpython-311-x86_64-linux-gnu.so" in found
    assert not found & {f"{std}/heavy.py", f"{std}/json/tool.py", "app/other.py"}


def test_a_module_that_the_project_wants_and_nothing_brings_is_told() -> None:
    tree = tree_of(file("usr/bin/python3"))
    tree.add([file("app/main.py"), file("app/own.py")], origin="path app")
    facts = {file("app/main.py").sha256: FileFacts(imports=("flask", "flask.json", "sys", "own", "own.attribute"))}
    finder = Finder(tree, facts, slices=(), own=lambda origin: origin == "path app")
    finder.add_command(("/usr/bin/python3", "/app/main.py"))
    assert list(finder.run().missing) == ["the module flask, wanted by /app/main.py"]


def test_imports_and_scripts_are_read_from_source() -> None:
    found = read_facts("x.py", b"import a.b\nfrom ..c import d\nfrom . import e\n__import__('f')\n")
    assert {"a.b", "..c", "..c.d", ".", ".e", "f"} <= set(found.imports)
    assert read_facts("run", b"#!/usr/bin/env python3 -S\nimport q\n").script[0] == "/usr/bin/python3"
    assert read_facts("x.py", b"this is no python (") == FileFacts()
    assert read_facts("x.so", b"\x7fELF" + b"\0" * 100) == FileFacts()


def test_a_slice_holds_once_its_path_is_needed() -> None:
    rule = read_slice("{about: x, rules: [{when: /usr/sbin/app, keep: ['/etc/app/**']}]}", name="app")
    tree = tree_of(file("usr/sbin/app"), file("etc/app/types"), file("etc/other"))
    for argv, wanted in ((("/usr/sbin/app",), True), (("/etc/other",), False)):
        finder = Finder(tree, {}, slices=(rule,))
        finder.add_command(argv)
        assert ("etc/app/types" in finder.run().kept) is wanted


def test_a_slice_says_where_a_program_has_its_libraries_loaded_from() -> None:
    tree = tree_of(file("opt/app/bin/app"), file("opt/app/plug.so"), file("opt/app/server/libapp.so"))
    facts = {"opt/app/plug.so": elf(needed=("libapp.so",)), "opt/app/server/libapp.so": elf()}
    rule = "{when: /opt/app/bin/app, keep: [/opt/app/plug.so]%s}"
    for more, missing in (("", ["libapp.so, wanted by /opt/app/plug.so"]), (", libraries: [/opt/app/server]", [])):
        one = read_slice(f"{{about: x, rules: [{rule % more}]}}", name="app")
        finder = Finder(tree, {file(path).sha256: found for path, found in facts.items()}, slices=(one,))
        finder.add_command(("/opt/app/bin/app",))
        assert list(finder.run().missing) == missing
        assert ("opt/app/server/libapp.so" in finder.closure.kept) is (missing == [])


def test_slices_that_come_with_nebh_are_sound() -> None:
    assert {"python3", "nginx", "postgresql", "redis", "haproxy", "node", "openjdk"} <= {
        one.name for one in load_slices()
    }
    assert all(one.about.endswith(".") for one in load_slices())
    with pytest.raises(Broken, match="unknown wen"):
        read_slice("{about: x, rules: [{wen: /x}]}", name="x")


@pytest.mark.parametrize(
    ("glob", "path", "means"),
    [
        ("/usr/share/doc", "usr/share/doc/x/y", True),
        ("/usr/share/doc", "usr/share/docs", False),
        ("/usr/*/x", "usr/a/x", True),
        ("/usr/*/x", "usr/a/b/x", False),
        ("/usr/**/x", "usr/x", True),
        ("/usr/**/*.a", "usr/lib/q/z.a", True),
        ("/a?c", "abc/d", True),
        ("/a.c", "abc", False),
    ],
)
def test_globs(glob: str, path: str, means: bool) -> None:
    assert Globs((glob,)).match(path) is means


def test_layers_follow_links_to_folders_and_never_leave_the_tree() -> None:
    tree = tree_of(file("bin/app"), link("srv", "../../../opt/data"))
    tree.add([file("srv/x")], origin="deb y")
    assert {"usr/bin/app", "opt/data/x"} <= set(tree.entries)
    assert tree.walk("/../../bin/app").path == "usr/bin/app"
    with pytest.raises(BadInput, match="lies below /usr/bin/app, a file of deb x"):
        tree.add([file("bin/app/x")], origin="deb z")
    with pytest.raises(BadInput, match="is a folder of"):
        tree.add([file("usr/bin")], origin="deb z")
    with pytest.raises(BadInput, match="mount point"):
        tree.add([link("dev", "/etc")], origin="deb z")
    tree = tree_of(link("a", "b"), link("b", "a"))
    with pytest.raises(BadInput, match="leads nowhere"):
        tree.add([file("a/x")], origin="deb z")
