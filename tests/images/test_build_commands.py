"""Build commands end to end: what they may leave, what they may not, and that they do not run twice."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from nebh.host.build_sandbox import Bounds, BuildSandbox, sandbox_folder
from nebh.images.cache import ImageCache
from nebh.images.declared.assembly import Tree
from nebh.images.declared.commands import run_commands
from nebh.images.declared.layer import LayerCache
from nebh.model.build import BuildStep, Output
from nebh.model.errors import BadInput, Conflict, Failed, NotFound
from nebh.model.image import EntryType, TreeEntry
from nebh.testing.container_rig import busybox


class Bench:
    """A tree that holds busybox as its shell."""

    def __init__(self, folder: Path) -> None:
        self.cache = ImageCache(folder)
        self.layers = LayerCache(self.cache)
        self.program = Path(busybox()).read_bytes()
        self.digest = hashlib.sha256(self.program).hexdigest()
        self.cache.objects.put(self.digest, len(self.program), [self.program])
        self.said: list[str] = []

    def run(self, *lines: str, outputs: dict[str, str] | None = None, **bounds: object) -> list:
        tree = Tree()
        tree.add_merged_links()
        names = ("sh", "busybox")
        tree.add(
            [
                TreeEntry(
                    path=f"bin/{name}", type=EntryType.FILE, mode=0o755, size=len(self.program), sha256=self.digest
                )
                for name in names
            ],
            origin="test",
        )
        pairs = tuple(Output(source=one, to=to) for one, to in (outputs or {"/out": "/made"}).items())
        step = BuildStep(run=lines, outputs=pairs, **{"memory": 256 << 20, "disk": 32 << 20, **bounds})
        return run_commands(step, tree, cache=self.cache, layers=self.layers, progress=self.said.append)


@pytest.fixture
def bench(tmp_path):
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    try:
        made = Bench(tmp_path)
    except NotFound as error:
        pytest.skip(error.message)
    with sandbox_folder() as folder:
        for name in ("dev", "proc", "bin"):
            (folder / name).mkdir()
        shutil.copy(busybox(), folder / "bin" / "busybox")
        bounds = Bounds(memory=256 << 20, disk=32 << 20, cpu=1000, seconds=30.0)
        end = BuildSandbox(root=folder, bounds=bounds).run(("/bin/busybox", "true"))
    if end.status:
        pytest.skip(f"this machine lets us make no sandbox: {end.tail.strip()[:200]}")
    return made


def test_declared_outputs_are_all_that_leaves(bench):
    ((layer, to),) = bench.run("echo one > /out/file; echo two > /elsewhere", "busybox mkdir /out/sub")
    assert to == "/made"
    assert [(one.path, one.type, one.mode) for one in layer.entries] == [
        ("_", EntryType.DIRECTORY, 0o755),
        ("_/file", EntryType.FILE, 0o644),
        ("_/sub", EntryType.DIRECTORY, 0o755),
    ]
    ((again, _),) = bench.run("echo one > /out/file; echo two > /elsewhere", "busybox mkdir /out/sub")
    assert again == layer
    assert sum(line.startswith("running echo one") for line in bench.said) == 1, "the same commands ran twice"


def test_a_command_that_fails_says_what_it_said(bench):
    with pytest.raises(Failed, match="ended with status 3\nthe compiler is unhappy"):
        bench.run("echo the compiler is unhappy; exit 3")
    with pytest.raises(Failed, match="ended with status"):
        bench.run("false; echo goes on > /out/x")
    with pytest.raises(Failed, match=r"it wrote more than|ended with status"):
        bench.run("busybox dd if=/dev/zero of=/out/x bs=1M count=200")
    with pytest.raises(Failed, match="longer than"):
        bench.run("busybox sleep 100", timeout=1000)
    assert not list(bench.cache.root.glob("manifests/*"))


@pytest.mark.parametrize(
    "trick",
    ["busybox ln -s /etc /out/x; exit 0", "busybox rmdir /out; busybox ln -s /etc /out", "busybox rm -r /out"],
    ids=["a link inside is a link", "the output is a link", "the output is missing"],
)
def test_an_output_leads_nowhere_else(bench, trick):
    if trick.endswith("exit 0"):
        ((layer, _),) = bench.run(trick)
        assert [one.target for one in layer.entries if one.type is EntryType.LINK] == ["/etc"]
        return
    with pytest.raises(BadInput, match="cannot take /out out of the sandbox"):
        bench.run(trick)


def test_a_pipe_as_output_is_refused(bench):
    with pytest.raises(BadInput, match="a device, a pipe or a socket"):
        bench.run("busybox mkfifo /out/x")


def test_a_node_that_serves_does_not_build(bench):
    with pytest.raises(Conflict, match="a node that serves"):
        run_commands(
            BuildStep(run=("true",), outputs=(Output(source="/out", to="/x"),)),
            Tree(),
            cache=bench.cache,
            layers=bench.layers,
            progress=print,
            may_run=False,
        )
