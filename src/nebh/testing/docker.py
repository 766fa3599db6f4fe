"""A Docker daemon of one's own: Debian's packages, unpacked beside the machine where they are not installed; in a
network namespace that no other program uses, or in the machine's where something is to be fetched. It changes no address,
route or rule of either."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from nebh.host.run import Command, CommandFailed, Result, Started, run, start
from nebh.model.errors import NotFound

PACKAGES = ("docker.io", "containerd", "runc")
CACHE = Path("build") / "docker"
# Files of dockerd's own in place of the machine's, which it alone sees.
_IN_PLACE = 'mount --bind "$1" /etc/hosts && mount --bind "$2" /etc/docker && shift 2 && exec "$@"'


def _programs(*, fetch: bool) -> str:
    """Return the folders with dockerd and what it needs, as a PATH; fetched once. Raises NotFound."""
    if shutil.which("dockerd"):
        return os.environ["PATH"]
    root = CACHE.resolve() / "root"
    if not (root / "usr/sbin/dockerd").exists():
        if not fetch:
            raise NotFound("dockerd (Debian: docker.io) is not installed; tests with --long fetch it")
        root.mkdir(parents=True, exist_ok=True)
        try:
            run(Command(argv=("apt-get", "download", "-qq", *PACKAGES), cwd=CACHE.resolve(), timeout=300))
        except CommandFailed as error:
            raise NotFound(f"apt cannot fetch docker.io here: {error.stderr.strip()[-200:]}") from error
        for archive in sorted(CACHE.resolve().glob("*.deb")):
            run(Command(argv=("dpkg", "-x", str(archive), str(root))))
    return f"{root}/usr/sbin:{root}/usr/bin:{os.environ['PATH']}"


class Docker:
    """A running daemon; `with` it. Raises NotFound where it cannot be had or does not start."""

    def __init__(
        self,
        folder: Path,
        *,
        fetch: bool = True,
        online: bool = False,
        hosts: dict[str, str] | None = None,
        trusted: dict[str, Path] | None = None,
    ) -> None:
        """folder: a new one, short, on a disk. fetch: packages that are not installed come from Debian's archive.
        online: it is in the machine's network. hosts: names that it knows; its network gets their addresses.
        trusted: `name:port` of registries, with the certificate in PEM that each has to show."""
        self._folder, self._online = folder, online
        self._name = folder.name
        self._hosts, self._trusted = hosts or {}, trusted or {}
        self._env = {"PATH": _programs(fetch=fetch), "HOME": str(folder), "DOCKER_HOST": f"unix://{folder}/d.sock"}
        self.daemon: Started | None = None

    @property
    def space(self) -> str:
        """The name of the daemon's network namespace."""
        return self._name

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True)
        if not self._online:
            run(Command(argv=("ip", "netns", "add", self._name)))
            run(Command(argv=("ip", "-n", self._name, "link", "set", "lo", "up")))
            for address in sorted(set(self._hosts.values())):
                run(Command(argv=("ip", "-n", self._name, "address", "add", f"{address}/32", "dev", "lo")))
        argv = (*self._apart(), "dockerd", "--data-root", f"{self._folder}/data", "--exec-root", f"{self._folder}/exec")
        more = ("--host", f"unix://{self._folder}/d.sock", "--pidfile", f"{self._folder}/d.pid", "--iptables=false")
        last = ("--ip6tables=false", "--bridge=none", "--ip-forward=false", f"--cgroup-parent={self._name}")
        with (self._folder / "log").open("wb") as log:
            self.daemon = start(Command(argv=self.inside(*argv, *more, *last), env=self._env), stdout=log, stderr=log)
        end = time.monotonic() + 60
        while self.docker("version", accept=tuple(range(256))).status != 0:
            if time.monotonic() > end or self.daemon.poll() is not None:
                said = (self._folder / "log").read_text(errors="replace")[-300:]
                self.__exit__()
                raise NotFound(f"dockerd does not start here: {said}")
            time.sleep(0.2)
        return self

    def inside(self, *argv: str) -> tuple[str, ...]:
        """Return `argv` so that it runs in the daemon's network."""
        return argv if self._online else ("nsenter", f"--net=/run/netns/{self._name}", "--", *argv)

    def _apart(self) -> tuple[str, ...]:
        """Return the words before dockerd's that give it its names and certificates."""
        if not self._hosts:
            return ()
        hosts, settings = self._folder / "hosts", self._folder / "etc"
        hosts.write_text("".join(f"{address} {name}\n" for name, address in self._hosts.items()))
        for place, certificate in self._trusted.items():
            folder = settings / "certs.d" / place
            folder.mkdir(parents=True)
            shutil.copyfile(certificate, folder / "ca.crt")
        settings.mkdir(exist_ok=True)
        Path("/etc/docker").mkdir(exist_ok=True)
        head = ("unshare", "--mount", "--propagation", "private", "--", "sh", "-c", _IN_PLACE, "sh")
        return (*head, str(hosts), str(settings))

    def docker(
        self, *words: str, accept: tuple[int, ...] = (0,), stdin: bytes | None = None, timeout: float = 120
    ) -> Result:
        """Run the client."""
        return run(Command(argv=("docker", *words), env=self._env, accept=accept, timeout=timeout, stdin=stdin))

    def add_image(self, name: str, tree: Path, *changes: str) -> None:
        """Import a root file system. changes: such as `CMD ["/x"]`."""
        packed = run(Command(argv=("tar", "-C", str(tree), "-c", "."), timeout=120)).stdout
        words = [word for change in changes for word in ("--change", change)]
        self.docker("import", *words, "-", name, stdin=packed)

    def ask(self, port: int) -> str:
        """Return what answers on a port of the daemon's network, "" when nothing does."""
        url = f"http://127.0.0.1:{port}/"
        return run(Command(argv=self.inside("curl", "-s", "-m", "2", url), accept=tuple(range(256)))).text

    def version(self) -> str:
        """Return the server's version."""
        return self.docker("version", "--format", "{{.Server.Version}}").text.strip()

    def pids(self) -> tuple[int, ...]:
        """Return dockerd, its containerd, and what they started."""
        assert self.daemon is not None
        return tuple(family(self.daemon.pid))

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(CommandFailed):
            found = self.docker("ps", "-aq", accept=tuple(range(256))).text.split()
            if found:
                self.docker("rm", "-f", *found, accept=tuple(range(256)))
        if self.daemon is not None:
            self.daemon.terminate()
            with contextlib.suppress(Exception):
                self.daemon.wait(30)
            self.daemon.kill()
        if not self._online:
            run(Command(argv=("ip", "netns", "del", self._name), accept=tuple(range(256))))
        for _attempt in range(20):
            shutil.rmtree(self._folder, ignore_errors=True)
            if not self._folder.exists():
                return
            _unmount(self._folder)
            time.sleep(0.2)


def _unmount(folder: Path) -> None:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        place = line.split()[1]
        if place.startswith(f"{folder}/"):
            run(Command(argv=("umount", "-l", place), accept=tuple(range(256))))


def family(pid: int) -> Iterator[int]:
    """Yield a process and all its descendants."""
    yield pid
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in path.read_text().split():
                yield from family(int(child))
