"""A whole Debian 12 in QEMU: its own kernel, systemd, pure cgroup v2, a disk that survives when the plug is pulled.

    with Guest(folder, image=find_image(Path("build/guest"))) as guest:
        guest.boot(); guest.sh("uname -r"); guest.pull_plug(); guest.boot()

The guest reaches nothing but this machine, and this machine reaches its ports 22 and 80 through forwarded ones. KVM is
used where a stock kernel boots on it; elsewhere QEMU emulates the processor and everything takes about 15 times longer.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import tarfile
import time
from pathlib import Path
from socketserver import BaseRequestHandler, TCPServer
from typing import Self

from nebh.host.run import Command, CommandFailed, Result, Started, TimeoutExpired, run, start
from nebh.model.errors import Failed

QEMU = "qemu-system-x86_64"
RECIPE = (
    *("tests/guest/image.sh", "tests/fresh/archives.sh"),
    *("packaging/packages.sh", "packaging/tree.sh", "requirements/runtime.txt"),
)
SOURCES = ("Makefile", "README.md", "packaging", "requirements", "src")
PATIENCE = 600.0
_ANY = tuple(range(256))
_EARLY = b"Linux version"


def image_key(house: Path) -> str:
    """Return a name for the disk image, made of all it is made from. house: the checkout."""
    parts = b"".join((house / name).read_bytes() for name in RECIPE)
    return hashlib.sha256(parts).hexdigest()[:16]


def find_image(cache: Path, *, house: Path) -> Path:
    """Return the folder of the guest's image, making it the first time and after a change of its recipe (about three
    minutes). Raises CommandFailed."""
    folder = cache / image_key(house)
    if not (folder / "disk.ext4").exists():
        shutil.rmtree(cache, ignore_errors=True)
        run(Command(argv=(str(house / "tests/guest/image.sh"), str(folder)), env=_reach(), timeout=900.0))
    return folder


def _reach() -> dict[str, str]:
    """Return what says how this machine reaches its archives."""
    words = ("PIP_", "SSL_CERT_", "CURL_CA_", "REQUESTS_CA_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")
    return {name: value for name, value in os.environ.items() if name == "HOME" or name.upper().startswith(words)}


def choose_acceleration(image: Path) -> tuple[str, str]:
    """Return (accelerator, why): kvm where a stock kernel says its first words on it, else tcg."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg", "there is no /dev/kvm for us"
    if Path("/sys/module/kvm_pvm").exists():
        return "tcg", "KVM here is PVM, on which no stock kernel boots"
    argv = (
        *(QEMU, "-accel", "kvm", "-cpu", "host", "-m", "512", "-nodefaults", "-display", "none", "-no-reboot"),
        *(
            "-serial",
            "stdio",
            "-kernel",
            str(image / "vmlinuz"),
            "-append",
            "earlyprintk=serial console=ttyS0 panic=-1",
        ),
    )
    probe = start(Command(argv=argv), stdout=-1, stderr=-2)
    assert probe.stdout is not None
    os.set_blocking(probe.stdout.fileno(), False)
    said, end = b"", time.monotonic() + 20.0
    while _EARLY not in said and time.monotonic() < end and probe.poll() is None:
        said += probe.stdout.read() or b""
        time.sleep(0.1)
    probe.kill()
    said += probe.stdout.read() or b""
    probe.wait(10)
    return (
        ("kvm", "a stock kernel boots on it") if _EARLY in said else ("tcg", "no stock kernel boots on this /dev/kvm")
    )


class Guest:
    """One virtual machine. disk: in `folder`, a copy of the image's. ports: 22 and 80 of the guest on 127.0.0.1."""

    def __init__(self, folder: Path, *, image: Path, acceleration: str = "tcg", memory: int = 2048) -> None:
        self.folder = folder
        self.image = image
        self.acceleration = acceleration
        self.memory = memory
        self.console = folder / "console.log"
        self.ssh_port, self.http_port = _free_ports(2)
        self._qemu: Started | None = None
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        if not (folder / "disk.ext4").exists():
            run(Command(argv=("cp", "--sparse=always", str(image / "disk.ext4"), str(folder / "disk.ext4"))))

    # power

    def boot(self) -> None:
        """Switch on and wait until ssh answers. Raises Failed."""
        kernel = "root=/dev/vda rw console=ttyS0 net.ifnames=0 mitigations=off panic=-1 systemd.show_status=1"
        forwards = f"hostfwd=tcp:127.0.0.1:{self.ssh_port}-:22,hostfwd=tcp:127.0.0.1:{self.http_port}-:80"
        accel = ("-accel", "kvm", "-cpu", "host") if self.acceleration == "kvm" else _EMULATED
        argv = (
            *(QEMU, *accel, "-smp", "2", "-m", str(self.memory), "-nodefaults", "-display", "none", "-no-reboot"),
            *("-kernel", str(self.image / "vmlinuz"), "-initrd", str(self.image / "initrd.img"), "-append", kernel),
            *("-drive", f"file={self.folder / 'disk.ext4'},format=raw,if=virtio,cache=writeback"),
            *(
                "-nic",
                f"user,model=virtio-net-pci,restrict=on,{forwards}",
                "-object",
                "rng-random,id=r,filename=/dev/urandom",
            ),
            *("-device", "virtio-rng-pci,rng=r", "-serial", "stdio"),
        )
        with self.console.open("ab") as console:
            self._qemu = start(Command(argv=argv), stdout=console, stderr=console)
        self._wait_for_ssh()

    def _wait_for_ssh(self) -> None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if self._qemu is None or self._qemu.poll() is not None:
                break
            with contextlib.suppress(CommandFailed):
                self.sh("true", timeout=60.0)
                return
            time.sleep(0.5)
        raise Failed(f"cannot boot the guest: no ssh within {PATIENCE:g} s\n{self.say_console()}")

    @property
    def pid(self) -> int:
        """The process that is the machine, 0 when it is off."""
        return self._qemu.pid if self._qemu is not None else 0

    def pull_plug(self) -> None:
        """kill -9 of the machine."""
        if self._qemu is not None:
            self._qemu.kill()
            self._qemu.wait(30)
            self._qemu = None
        self._hang_up()

    def shut_down(self) -> None:
        """Have systemd end everything. Raises TimeoutExpired."""
        self.sh("systemctl poweroff", accept=_ANY)
        if self._qemu is not None:
            self._qemu.wait(PATIENCE)
            self._qemu = None
        self._hang_up()

    def say_console(self) -> str:
        """Return the end of what the machine printed."""
        return self.console.read_text(errors="replace")[-4000:] if self.console.exists() else ""

    # inside

    def sh(self, script: str, *, accept: tuple[int, ...] = (0,), timeout: float = PATIENCE) -> Result:
        """Run a script of /bin/sh as root in the guest. Raises CommandFailed."""
        return self._ssh("sh -s", stdin=f"set -e\n{script}\n".encode(), accept=accept, timeout=timeout)

    def text(self, script: str, *, timeout: float = PATIENCE) -> str:
        """Return what a script prints, without blanks around it."""
        return self.sh(script, timeout=timeout).text.strip()

    def write(self, path: str, data: bytes, *, mode: str = "644") -> None:
        """Write a file in the guest."""
        self._ssh(f"mkdir -p $(dirname {path}) && cat > {path} && chmod {mode} {path}", stdin=data)

    def bring_sources(self, house: Path, place: str = "/root/nebh") -> None:
        """Put a checkout's sources there, as a clone would."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
            for name in SOURCES:
                archive.add(house / name, arcname=name, filter=_no_caches)
        self._ssh(f"mkdir -p {place} && tar -C {place} --no-same-owner -xzf -", stdin=buffer.getvalue())

    def _ssh(self, line: str, *, stdin: bytes, accept: tuple[int, ...] = (0,), timeout: float = PATIENCE) -> Result:
        words = (
            *("ssh", "-F", "none", "-i", str(self.image / "key"), "-p", str(self.ssh_port), "-l", "root"),
            *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"),
            *("-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "ConnectTimeout=30", "-o", "ControlMaster=auto"),
            *("-o", f"ControlPath={self.folder}/ssh", "-o", "ControlPersist=yes", "127.0.0.1", line),
        )
        command = Command(argv=words, stdin=stdin, accept=_ANY, timeout=timeout)
        done = run(command)
        if done.status not in accept:
            said = (done.stdout[-3000:] + b"\n" + done.stderr).decode(errors="replace")
            raise CommandFailed(command, status=done.status, stderr=f"{stdin[:200].decode(errors='replace')}: {said}")
        return done

    def _hang_up(self) -> None:
        argv = ("ssh", "-F", "none", "-o", f"ControlPath={self.folder}/ssh", "-O", "exit", "guest")
        run(Command(argv=argv, accept=_ANY))
        with contextlib.suppress(OSError):
            (self.folder / "ssh").unlink()

    # ends

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(TimeoutExpired):
            self.pull_plug()


_EMULATED = ("-accel", "tcg,thread=multi,tb-size=512", "-cpu", "Nehalem")


def _no_caches(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if entry.name.endswith(("__pycache__", ".egg-info")) else entry


def _free_ports(count: int) -> list[int]:
    servers = [TCPServer(("127.0.0.1", 0), BaseRequestHandler) for _ in range(count)]
    ports = [one.server_address[1] for one in servers]
    for one in servers:
        one.server_close()
    return ports
