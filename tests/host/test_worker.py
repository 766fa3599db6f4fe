"""A helper process answers, fails, times out and dies; its parent always knows which."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nebh.host import processes
from nebh.host.run import Command, CommandFailed, is_root
from nebh.host.spawn import Reply, Spawn
from nebh.host.worker import Worker
from nebh.model.errors import Broken, Failed, Refused


def _refuse(_args, _fds):
    raise Refused("cannot do it: no", rule="N5", hint="ask")


def _open(_args, _fds):
    reading, writing = os.pipe()
    os.write(writing, b"x")
    os.close(writing)
    return Reply(result="pipe", fds=(reading,))


HANDLERS = {
    "echo": lambda args, fds: [args, len(fds)],
    "read": lambda _args, fds: os.read(fds[0], 10).decode(),
    "refuse": _refuse,
    "missing": lambda _args, _fds: Path("/nonexistent").read_text(),
    "bug": lambda _args, _fds: 1 // 0,
    "bytes": lambda _args, _fds: b"no json",
    "sleep": lambda args, _fds: time.sleep(args["seconds"]),
    "open": _open,
    "die": lambda _args, _fds: os.kill(os.getpid(), signal.SIGKILL),
    "fds": lambda _args, _fds: sorted(int(n) for n in os.listdir("/proc/self/fd")),
}


@pytest.fixture
def worker():
    made = Worker.fork("helper", HANDLERS)
    yield made
    made.close()


def test_values_and_descriptors_travel_both_ways(worker):
    assert worker.call("echo", {"a": ["é", 1]})[0] == [{"a": ["é", 1]}, 0]
    big = "x" * 3_000_000
    assert worker.call("echo", {"big": big})[0][0]["big"] == big
    reading, writing = os.pipe()
    os.write(writing, b"hello")
    assert worker.call("read", fds=(reading,))[0] == "hello"
    os.close(reading)
    os.close(writing)
    result, fds = worker.call("open")
    assert (result, os.read(fds[0], 5)) == ("pipe", b"x")
    os.close(fds[0])


def test_errors_keep_their_class(worker):
    with pytest.raises(Refused) as caught:
        worker.call("refuse")
    assert (caught.value.rule, caught.value.hint) == ("N5", "ask")
    for op, kind in (("missing", Failed), ("bug", Broken), ("bytes", Broken), ("nonsense", Broken)):
        with pytest.raises(kind):
            worker.call(op)
    assert worker.call("echo")[0] == [{}, 0]


def test_a_late_answer_is_not_taken_for_the_next(worker):
    with pytest.raises(Failed, match="in time"):
        worker.call("sleep", {"seconds": 0.3}, timeout=0.05)
    assert worker.call("echo", {"n": 2})[0] == [{"n": 2}, 0]


def test_a_dead_helper_is_broken_at_once(worker):
    with pytest.raises(Broken):
        worker.call("die")
    begun = time.monotonic()
    with pytest.raises(Broken):
        worker.call("echo")
    assert time.monotonic() - begun < 0.5
    assert not worker.is_alive()


def test_threads_share_it(worker):
    seen = []

    def ask(number):
        seen.extend(worker.call("echo", {"n": number})[0][0]["n"] == number for _ in range(20))

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True] * 120


def test_it_inherits_nothing_but_stdio():
    leaked = os.open("/dev/null", os.O_RDONLY)
    made = Worker.fork("helper", HANDLERS)
    try:
        assert leaked not in made.call("fds")[0]
        assert len(made.call("fds")[0]) <= 5
    finally:
        made.close()
        os.close(leaked)


def test_a_setup_that_fails_is_told():
    def setup():
        raise Failed("cannot enter: locked")

    with pytest.raises(Failed, match="locked"):
        Worker.fork("helper", HANDLERS, setup=setup)


def test_run_and_spawn(worker, tmp_path):
    assert worker.run(Command(argv=("cat",), stdin=b"\xff\x00")).stdout == b"\xff\x00"
    with pytest.raises(CommandFailed) as caught:
        worker.run(Command(argv=("false",)))
    assert caught.value.status == 1
    with pytest.raises(CommandFailed) as caught:
        worker.run(Command(argv=("sleep", "5"), timeout=0.1))
    assert caught.value.status is None
    with pytest.raises(Failed):
        worker.spawn(Spawn(argv=("/nonexistent",)))
    out = tmp_path / "out"
    process = worker.spawn(Spawn(argv=("/bin/sh", "-c", "echo hello; exec sleep 30"), output=str(out)))
    try:
        worker.close()
        for _ in range(100):
            if out.read_bytes():
                break
            time.sleep(0.02)
        assert out.read_bytes() == b"hello\n"
        assert processes.is_alive(process)
    finally:
        processes.send_signal(process, signal.SIGKILL)
    assert processes.wait_end(process, seconds=2)


@pytest.mark.root
@pytest.mark.skipif(not is_root(), reason="needs root to change users")
def test_spawn_keeps_only_the_named_capabilities(worker, tmp_path):
    out = tmp_path / "out"
    tmp_path.chmod(0o755)
    worker.spawn(
        Spawn(
            argv=("/bin/cat", "/proc/self/status"), uid=65534, capabilities=("CAP_NET_BIND_SERVICE",), output=str(out)
        )
    )
    for _ in range(100):
        if b"NoNewPrivs" in out.read_bytes():
            break
        time.sleep(0.02)
    status = dict(line.split(":\t", 1) for line in out.read_text().splitlines() if ":\t" in line)
    sets = [int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")]
    assert sets == [1 << 10] * 5
    assert (status["Uid"].split(), status["NoNewPrivs"], status["Groups"].strip()) == (["65534"] * 4, "1", "")


def test_it_dies_with_its_parent():
    program = (
        "import os\nfrom nebh.host.worker import Worker\n"
        "w = Worker.fork('a', {})\nv = Worker.fork('b', {'hang': lambda a, f: __import__('time').sleep(60)})\n"
        "print(w.pid, v.pid, flush=True)\nv.call('hang')\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, env={"PYTHONPATH": os.pathsep.join(sys.path)}
    )
    pids = [int(word) for word in parent.stdout.readline().split()]
    identities = [processes.identify(pid) for pid in pids]
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert all(processes.wait_end(one, seconds=3) for one in identities)
