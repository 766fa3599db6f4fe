"""The peer of a service with data: what a person does with Docker so that an update can be taken back."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from nebh.testing.bench.polling import polling
from nebh.testing.container_rig import busybox
from nebh.testing.docker import Docker
from nebh.testing.row_service import HOST, SOURCE
from nebh.testing.static_program import compile_static

PORT = 8091
MIB = 1 << 20
OLD, NEW = "d0", "d1"
REST = 0.3
_RESTORE = "rm -rf /b/* && cp -a /a/. /b/"


class DockerRows:
    """The service in Docker: two images, a volume, and where a copy of it is kept. Raises NotFound without a compiler
    or a static busybox."""

    def __init__(self, docker: Docker, folder: Path, *, mib: int) -> None:
        self._docker, self._data, self._kept = docker, folder / "data", folder / "kept"
        for place in (self._data, self._kept):
            place.mkdir()
        program = folder / "rows"
        compile_static(SOURCE, program)
        for version in (OLD, NEW):
            tree = folder / version
            for part in ("bin", "etc", "data"):
                (tree / part).mkdir(parents=True)
            shutil.copy(program, tree / "bin" / "rows")
            for name in ("sh", "cp", "rm"):
                shutil.copy(busybox(), tree / "bin" / name)
            (tree / "etc" / "version").write_text(f"{version}\n")
            docker.add_image(f"rows:{version}", tree)
            shutil.rmtree(tree)
        with (self._data / "ballast").open("wb") as file:
            block = os.urandom(MIB)
            for _ in range(mib):
                file.write(block)
            os.fsync(file.fileno())
        self._run(OLD, "1", "1")

    def _run(self, version: str, reads: str, writes: str) -> None:
        words = ("run", "-d", "--network", "host", "--name", version, "-v", f"{self._data}:/data")
        command = ("/bin/rows", "serve", str(PORT), reads, writes)
        self._docker.docker(*words, "-e", f"CONFIG={version}", f"rows:{version}", *command)

    def _copy(self, source: Path, target: Path) -> None:
        mounts = ("-v", f"{source}:/a:ro", "-v", f"{target}:/b")
        words = ("run", "--rm", "--network", "none", *mounts, f"rows:{OLD}", "/bin/sh", "-c", _RESTORE)
        self._docker.docker(*words, timeout=600)
        os.sync()

    def there_and_back(self, took: dict[str, float]) -> None:
        """Update with a copy of the volume and a conversion; then back, and the volume with it."""
        with polling(self._docker.space, port=PORT, host=HOST) as poller:
            poller.wait_for(OLD, since=time.monotonic())
            time.sleep(REST)
            begin = time.monotonic()
            self._docker.docker("stop", OLD)
            self._copy(self._data, self._kept)
            convert = ("run", "--rm", "--network", "none", "-v", f"{self._data}:/data", f"rows:{NEW}")
            self._docker.docker(*convert, "/bin/rows", "convert", "2")
            self._run(NEW, "1,2", "2")
            poller.wait_for(NEW, since=begin)
            took["docker_stop"] = poller.longest_gap(since=begin)
            time.sleep(REST)
            self._docker.docker("rm", OLD)
            begin = time.monotonic()
            self._docker.docker("rm", "-f", NEW)
            self._copy(self._kept, self._data)
            self._run(OLD, "1", "1")
            took["docker_back"] = poller.wait_for(OLD, since=begin)
