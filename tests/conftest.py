"""What all tests share: who may run, private places, and a look at what was left behind."""

from __future__ import annotations

import glob
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

NETNS = Path("/run/netns")
CGROUPS = Path("/sys/fs/cgroup")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the tests marked long too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    long = [item for item in items if item.get_closest_marker("long")] if not config.getoption("--long") else []
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
    if os.geteuid() != 0:
        for item in items:
            if item.get_closest_marker("root"):
                item.add_marker(pytest.mark.skip(reason="needs root: run `sudo make test`"))


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A private folder with a path short enough for unix sockets (108 characters)."""
    folder = Path(tempfile.mkdtemp(prefix="nt-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def private_netns() -> Iterator[str]:
    """The name of a network namespace of this test's own, with its loopback up."""
    if os.geteuid() != 0:
        pytest.skip("needs root: makes a network namespace")
    if shutil.which("ip") is None:
        pytest.skip("ip (Debian: iproute2) is not installed")
    name = f"nt-{secrets.token_hex(3)}"
    added = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, timeout=20, check=False)
    if added.returncode != 0:
        pytest.skip(f"this machine lets us make no network namespace: {added.stderr.strip()}")
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], timeout=20, check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], timeout=20, check=False)


def observe_leftovers() -> set[str]:
    """What tests make outside of their folders, by our naming: network namespaces and cgroups called nt-*."""
    found = {f"network namespace {path.name}" for path in NETNS.glob("nt-*")}
    for pattern in ("nt-*", "*/nt-*", "*/*/nt-*"):
        for folder in map(Path, glob.glob(str(CGROUPS / pattern))):  # Path.glob trips over what goes meanwhile
            try:
                busy = (folder / "cgroup.procs").read_text().split()
            except OSError:
                continue
            found.add(f"cgroup {folder}" + (f" with processes {', '.join(busy)}" if busy else ""))
    return found


def pytest_configure(config: pytest.Config) -> None:
    # No clock: machines are busy. The same examples each time: a red run is about the change, not about luck. The long
    # run looks for new ones.
    settings.register_profile(
        "house", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=not config.getoption("--long")
    )
    settings.load_profile("house")
    # A shell starts what it puts in the background with SIGINT ignored, and so would all we start to press Ctrl-C on.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):
        config.stash[BEFORE] = observe_leftovers()


@pytest.fixture
def press_ctrl_c() -> Iterator[Callable[[float], None]]:
    """Call it to have this process interrupted as by a terminal, so many seconds later, when the test runs still."""
    main_thread = threading.main_thread().ident
    assert main_thread is not None
    timers: list[threading.Timer] = []

    def press(seconds: float) -> None:
        timers.append(threading.Timer(seconds, signal.pthread_kill, (main_thread, signal.SIGINT)))
        timers[-1].start()

    try:
        yield press
    finally:
        for timer in timers:
            timer.cancel()
            timer.join()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.getoption("--long") is False:
        count = len(terminalreporter.stats.get("deselected", []))
        if count:
            terminalreporter.write_line(f"{count} deselected; the long ones run in `make test-long`")
    left = sorted(observe_leftovers() - config.stash.get(BEFORE, set()))
    if left:
        terminalreporter.section("LEFTOVERS: something did not clean up", red=True, bold=True)
        for line in left:
            terminalreporter.write_line(line)


BEFORE = pytest.StashKey[set[str]]()
