"""What a fenced program reaches and what not, asked by curl; the same without the fence as the control."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from nebh.host.fence import FencedEnd, run_fenced
from nebh.host.namespaces import CLONE_NEWNET, prctl, setns
from nebh.host.reach import Place, Proxy, Reach
from nebh.host.run import Command, CommandFailed, run
from nebh.model.errors import Failed

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
INSIDE = "10.213.77.2"


class Server:
    """Answers GET with `here` and remembers what was asked."""

    def __init__(self, address: str = "127.0.0.1", *, context: ssl.SSLContext | None = None) -> None:
        self.asked: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.asked.append(self.path)
                self.send_response(200)
                self.send_header("Content-Length", "4")
                self.end_headers()
                self.wfile.write(b"here")

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer((address, 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def ask(url: str, folder: Path, reach: Reach | None, *options: str) -> tuple[FencedEnd, str]:
    """Ask with curl, inside the fence or (without `reach`) outside."""
    got = folder / "got"
    got.unlink(missing_ok=True)
    argv = ("curl", "-sSfk", "-m", "10", *options, "-o", str(got), url)
    command = Command(argv=argv, timeout=20.0)
    if reach is None:
        end = FencedEnd(status=run(command).status, stderr="", refused=())
    else:
        end = run_fenced(command, reach=reach)
    return end, got.read_text() if got.exists() else ""


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture(params=["http", "https"])
def neighbour(request, private_netns, tmp_path) -> Iterator[tuple[str, Server]]:
    """A server at an internal address of another network; its URL, and itself."""
    name = private_netns
    for words in (
        f"link add {name} type veth peer name eth0 netns {name}",
        f"addr add 10.213.77.1/24 dev {name}",
        f"link set {name} up",
        f"-n {name} addr add {INSIDE}/24 dev eth0",
        f"-n {name} link set eth0 up",
    ):
        subprocess.run(["ip", *words.split()], check=True, timeout=20, capture_output=True)
    context = None
    if request.param == "https":
        words = f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={INSIDE} -days 2"
        files = ["-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "crt")]
        subprocess.run(["openssl", *words.split(), *files], check=True, timeout=20, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "crt", tmp_path / "key")
    made: list[Server] = []

    def serve() -> None:
        with open(f"/run/netns/{name}") as file:
            setns(file.fileno(), CLONE_NEWNET)  # of this thread alone; the socket stays there
        made.append(Server(INSIDE, context=context))

    thread = threading.Thread(target=serve)
    thread.start()
    thread.join()
    yield f"{request.param}://{INSIDE}:{made[0].port}", made[0]
    made[0].close()


@pytest.mark.root
def test_an_internal_address_is_reached_only_when_it_is_named(neighbour, tmp_path):
    url, server = neighbour
    end, got = ask(url, tmp_path, Reach())
    assert (end.status != 0, got, server.asked) == (True, "", [])
    assert [(one.place, one.address) for one in end.refused] == [(Place(host=INSIDE, port=server.port), INSIDE)]
    other = Reach(named=frozenset({Place(host=INSIDE, port=server.port + 1)}))
    assert ask(url, tmp_path, other)[1] == ""
    named = Reach(named=frozenset({Place(host=INSIDE, port=server.port)}))
    end, got = ask(url, tmp_path, named)
    assert (end.status, got, end.refused) == (0, "here", ()), end.stderr
    assert ask(url, tmp_path, None)[1] == "here"


@pytest.mark.root
def test_the_program_cannot_go_around_the_relay(neighbour, tmp_path):
    url, server = neighbour
    end, got = ask(url, tmp_path, Reach(), "--noproxy", "*")
    assert (end.status != 0, got, server.asked) == (True, "", [])
    assert ask(url, tmp_path, None, "--noproxy", "*")[1] == "here"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "127.9.9.9", "0.0.0.0", "127.1"])
def test_this_computers_loopback_is_not_reached(server, tmp_path, host):
    # curl asks our proxy for loopback addresses too; Go's programs do not, and find nobody there.
    for options in ((), ("--noproxy", "*")):
        end, got = ask(f"http://{host}:{server.port}/", tmp_path, Reach(), *options)
        assert (end.status != 0, got, server.asked) == (True, "", [])
        assert bool(end.refused) is (not options)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_named_loopback_port_is_reached_without_a_proxy(server, tmp_path, host):
    other = Server()
    try:
        reach = Reach(named=frozenset({Place(host=host, port=server.port)}))
        end, got = ask(f"http://{host}:{server.port}/", tmp_path, reach, "--noproxy", "*")
        assert (end.status, got) == (0, "here"), end.stderr
        assert ask(f"http://{host}:{other.port}/", tmp_path, reach, "--noproxy", "*")[1] == ""
        assert other.asked == []
    finally:
        other.close()


def test_a_public_address_of_this_computer_is_internal(tmp_path):
    """Only inside a network namespace can a test have one."""
    code = (
        "import sys; from nebh.host.reach import is_internal, is_public;"
        "sys.exit(not (is_public('8.8.4.4') and is_internal('8.8.4.4') and not is_internal('8.8.8.8')))"
    )
    script = f'ip link set lo up && ip addr add 8.8.4.4/32 dev lo && "{sys.executable}" -P -c "{code}"'
    argv = ["unshare", "--map-root-user", "--net", "sh", "-c", script]
    probe = subprocess.run([*argv[:3], "true"], capture_output=True, text=True, timeout=20, check=False)
    if probe.returncode != 0 or shutil.which("ip") is None:
        pytest.skip(f"no network namespace, or no ip, here: {probe.stderr.strip()}")
    done = subprocess.run(argv, env={**os.environ, "PYTHONPATH": ":".join(sys.path)}, timeout=60, check=False)
    assert done.returncode == 0


class Parent:
    """A person's proxy: answers CONNECT by itself, and remembers what it was asked and with which login."""

    def __init__(self, target: Server) -> None:
        self.asked: list[tuple[str, str]] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.place = Place(host="127.0.0.1", port=self._socket.getsockname()[1])
        self._target = target
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                one, _ = self._socket.accept()
            except OSError:
                return
            with one:
                head = b""
                while b"\r\n\r\n" not in head:
                    head += one.recv(4096)
                lines = head.decode().split("\r\n")
                login = [line.partition(": ")[2] for line in lines if line.lower().startswith("proxy-authorization")]
                self.asked.append((lines[0], login[0] if login else ""))
                tunnel = lines[0].startswith("CONNECT")
                if tunnel:
                    one.sendall(b"HTTP/1.1 200 go on\r\n\r\n")
                    one.recv(4096)
                one.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhere")

    def close(self) -> None:
        self._socket.close()


def test_a_persons_proxy_is_asked_with_its_login_and_decides_about_names(server, tmp_path):
    parent = Parent(server)
    try:
        login = "Basic " + b64encode(b"me:secret").decode()
        proxy = Proxy(place=parent.place, tls=False, authorization=login)
        reach = Reach(proxies={"http": proxy, "https": proxy})
        assert ask("http://registry.invalid/x", tmp_path, reach)[1] == "here"
        assert ask("http://registry.invalid/y", tmp_path, reach, "-p")[1] == "here"
        assert parent.asked == [
            ("GET http://registry.invalid/x HTTP/1.1", login),
            ("CONNECT registry.invalid:80 HTTP/1.1", login),
        ]
        for host in ("10.1.2.3", "127.0.0.1", "169.254.169.254", "localhost"):
            assert ask(f"http://{host}:{server.port}/", tmp_path, reach)[1] == ""
        assert (len(parent.asked), server.asked) == (2, [])
    finally:
        parent.close()


def test_an_error_says_what_is_wrong_and_the_relay_is_no_server(tmp_path):
    assert "502" in ask("http://registry.invalid/", tmp_path, Reach())[0].stderr
    assert "400" in ask("http://127.0.0.1:3128/", tmp_path, Reach(), "--noproxy", "*")[0].stderr
    with pytest.raises(CommandFailed) as caught:
        run_fenced(Command(argv=("no-such-program",)), reach=Reach())
    assert caught.value.status == 127
    with pytest.raises(CommandFailed) as caught:
        run_fenced(Command(argv=("sleep", "20"), timeout=0.2), reach=Reach())
    assert caught.value.status is None


def as_nobody(work: Callable[[], str]) -> str:
    """Run `work` as an ordinary user in a child; return its answer."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            prctl(4, 1)  # PR_SET_DUMPABLE: as after an exec, its /proc/self is its own
            os.write(writing, work().encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        answer = file.read()
    os.waitpid(pid, 0)
    return answer


@pytest.mark.root
def test_an_ordinary_user_is_fenced_as_well(server, short_folder):
    short_folder.chmod(0o777)
    place = Place(host="127.0.0.1", port=server.port)

    def work() -> str:
        try:
            refused, _ = ask(f"http://127.0.0.1:{server.port}/no", short_folder, Reach())
            named = Reach(named=frozenset({place}))
            _, got = ask(f"http://127.0.0.1:{server.port}/yes", short_folder, named, "--noproxy", "*")
        except Failed as error:
            return error.message
        return f"{refused.refused[0].place} {got}"

    answer = as_nobody(work)
    if answer.startswith("cannot make a network"):
        pytest.skip(answer)
    assert answer == f"{place} here"
    assert server.asked == ["/yes"]


def test_where_no_namespace_may_be_made_nothing_is_run(server, tmp_path):
    code = (
        "from pathlib import Path; from nebh.host.fence import run_fenced; from nebh.host.reach import Reach;"
        "from nebh.host.run import Command; from nebh.model.errors import Failed\n"
        f"try: run_fenced(Command(argv=('touch', {str(tmp_path / 'ran')!r})), reach=Reach())\n"
        "except Failed as error: print(error.message, '|', error.hint)"
    )
    argv = ["bwrap", "--unshare-user", "--disable-userns", "--cap-drop", "ALL", "--dev-bind", "/", "/"]
    if shutil.which("bwrap") is None or subprocess.run([*argv, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no bubblewrap, or no user namespaces, here")
    env = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [*argv, sys.executable, "-P", "-c", code], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.startswith("cannot make a network for touch alone"), done.stderr
    assert "|" in done.stdout
    assert not (tmp_path / "ran").exists()


def test_interrupted_nothing_stays():
    code = (
        "from nebh.host.fence import run_fenced; from nebh.host.reach import Reach; from nebh.host.run import Command\n"
        "print('go', flush=True); run_fenced(Command(argv=('sleep', '50')), reach=Reach())"
    )
    env = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    argv = [sys.executable, "-P", "-c", code]
    process = subprocess.Popen(
        argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    for _ in range(100):
        time.sleep(0.1)
        if len(of_group(process.pid)) == 3:
            break
    assert len(of_group(process.pid)) == 3  # itself, the program, the relay
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    assert "KeyboardInterrupt" in stderr
    assert of_group(process.pid) == []


def of_group(group: int) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == group:
                found.append(int(folder.name))
    return found


def test_nothing_is_left_open(server, tmp_path):
    before = (len(os.listdir("/proc/self/fd")), threading.active_count())
    for _ in range(3):
        ask(f"http://127.0.0.1:{server.port}/", tmp_path, Reach())
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before
