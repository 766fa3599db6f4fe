"""A python3 image from nothing, everything fetched: by our commands and by `docker build`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nebh.host.run import Command, CommandFailed, run
from nebh.images.declared.apt import render_sources, way_out
from nebh.model.build import DebianSource
from nebh.model.errors import NotFound
from nebh.testing.bench import machine
from nebh.testing.bench.images import declare
from nebh.testing.bench.record import Record
from nebh.testing.bench.stage import Rounds, Settings, in_turns, scratch
from nebh.testing.docker import Docker

REQUIREMENTS = ("flask==3.0.3", "waitress==3.0.2")
WHAT = "`docker build` of the same packages"
_KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
_CERTIFICATES = ("PIP_CERT", "SSL_CERT_FILE")
_INDEX = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST")
_DOCKERFILE = """FROM base
ARG {index}
COPY fetch /fetch
RUN apt-get update && apt-get install -y --no-install-recommends python3 && apt-get clean && rm -rf /var/lib/apt/lists/*
RUN python3 /fetch/{pip}/pip install --no-cache-dir --no-compile --break-system-packages --cert /fetch/ca.crt {wanted}
COPY app /app
CMD ["/usr/bin/python3", "/app/main.py"]
"""


def measure(settings: Settings, record: Record) -> None:
    """Add rows `fetched`: ms and MiB of both, where Docker can be had; of ours alone elsewhere. What Docker lacks is
    noted in `skipped`."""
    folder = settings.folder / "fetched"
    project = folder / "project"
    (project / "image.yaml").parent.mkdir(parents=True)
    (project / "image.yaml").write_text(declare(project, REQUIREMENTS) + "reduce: closure\n")
    with contextlib.ExitStack() as stack:
        theirs: _Theirs | None = None
        try:
            docker = stack.enter_context(Docker(scratch("d"), online=True))
            theirs = _Theirs(docker, _context(docker, folder, project))
            theirs.build({})  # before the rounds: whether it can fetch at all
            record.facts["docker"] = f"{docker.version()}: build --no-cache --network host"
        except (NotFound, CommandFailed) as error:
            theirs = None
            record.skipped[WHAT] = " ".join(str(error).split())[-300:]
        for number in Rounds(settings, usual=5, quick=1):
            row: dict[str, float] = {}
            ours = partial(_ours, folder / f"round{number}", project, row)
            if theirs is None:
                ours()
            else:
                in_turns(number, ours, partial(theirs.build, row))
            record.add("fetched", round=number, pressure=machine.pressure(), **row)
    shutil.rmtree(folder)


def _ours(home: Path, project: Path, row: dict[str, float]) -> None:
    """Lock and build with an empty cache, by the commands."""
    home.mkdir()
    env = {name: os.environ[name] for name in (*_CERTIFICATES, *_INDEX) if name in os.environ} | way_out()
    env |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONDONTWRITEBYTECODE": "1"}
    env |= {"HOME": str(home), "NEBH_CACHE": str(home / "cache"), "PIP_CONFIG_FILE": os.devnull}
    words = (sys.executable, "-P", "-m", "nebh.programs.nebh", "image")
    begin = time.monotonic()
    run(Command(argv=(*words, "lock", str(project / "image.yaml")), env=env, timeout=900))
    done = run(Command(argv=(*words, "build", "--json", str(project / "image.yaml")), env=env, timeout=900))
    row["nebh"] = (time.monotonic() - begin) * 1000
    row["nebh_mib"] = json.loads(done.stdout)["bytes"] / (1 << 20)
    shutil.rmtree(home)


@dataclass(frozen=True)
class _Theirs:
    docker: Docker
    context: Path

    def build(self, row: dict[str, float]) -> None:
        words = ["build", "--no-cache", "--network", "host", "--quiet", "--tag", "built"]
        given = way_out() | {name: os.environ[name] for name in _INDEX if name in os.environ}
        words += [word for name, value in given.items() for word in ("--build-arg", f"{name}={value}")]
        begin = time.monotonic()
        self.docker.docker(*words, str(self.context), timeout=900)
        row["docker"] = (time.monotonic() - begin) * 1000
        for name, column in (("built", "docker_mib"), ("base", "base_mib")):
            size = self.docker.docker("image", "inspect", "--format", "{{.Size}}", name).text
            row[column] = int(size) / (1 << 20)
        self.docker.docker("image", "rm", "--force", "built")
        self.docker.docker("image", "prune", "--force")


def _context(docker: Docker, folder: Path, project: Path) -> Path:
    """Make a minimal Debian of the same archive for `FROM base`, and the folder that is sent to the daemon. Raises
    NotFound, CommandFailed."""
    if shutil.which("mmdebstrap") is None or not Path(_KEYS).exists():
        raise NotFound("there is no mmdebstrap, or no keyring of Debian, to make an image of Debian with")
    source, sources, packed = DebianSource(), folder / "sources.list", folder / "base.tar"
    sources.write_text(render_sources(source, keys=_KEYS))
    make = ("mmdebstrap", "--quiet", "--variant=minbase", source.suite, str(packed), str(sources))
    run(Command(argv=make, env=way_out(), timeout=900))
    docker.docker("import", str(packed), "base", timeout=300)
    packed.unlink()
    context = folder / "context"
    (context / "fetch").mkdir(parents=True)
    shutil.copytree(project / "app", context / "app")
    found = [os.environ[name] for name in _CERTIFICATES if name in os.environ]
    shutil.copy((*found, "/etc/ssl/certs/ca-certificates.crt")[0], context / "fetch" / "ca.crt")
    env = {name: value for name, value in os.environ.items() if name.startswith("PIP_")} | way_out()
    fetch = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(context / "fetch"), "pip")
    run(Command(argv=fetch, env=env, timeout=300))
    pip = next((context / "fetch").glob("pip-*.whl")).name
    text = _DOCKERFILE.format(index=" ".join(_INDEX), pip=pip, wanted=" ".join(REQUIREMENTS))
    (context / "Dockerfile").write_text(text)
    return context


def add_figures(record: Record) -> None:
    """Compute the figures of what `measure` kept."""
    what = "a python3 image from nothing, all fetched"
    for way, text in (("nebh", "Nebh (lock and build)"), ("docker", "docker build")):
        record.figure(f"fetched_{way}", f"{what}: {text}", table="fetched", columns=(way,))
    more = {"table": "fetched", "statistic": "ratio", "unit": "x"}
    record.figure("fetched_ratio", f"{what}: Nebh / Docker", columns=("nebh", "docker"), **more)
    texts = {
        "nebh_mib": "size of that image: Nebh's",
        "docker_mib": "size of that image: Docker's",
        "base_mib": "of Docker's the minimal Debian",
    }
    for column, text in texts.items():
        record.figure(f"fetched_{column}", text, unit="MiB", table="fetched", columns=(column,))
    record.notes.append(
        """From nothing: python3 of Debian 12, flask, waitress and an application of 50 files, from the same archive and index in
the same rounds, nothing kept from before (`--no-cache`; a cache that is empty). Docker begins with a minimal Debian that is
there already (mmdebstrap, variant minbase), and gets pip as a file. Ours makes its lock in that time, too; lists of packages
are fetched by both, and removed again from Docker's image. Neither compiles the index's packages; Debian's own scripts compile theirs in Docker's image."""
    )
