"""A cloud in a guest: installed and brought up by the README's way, with the service `web` under load from outside."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nebh.model.errors import NebhError
from nebh.testing.guest import Guest
from nebh.testing.load import Load, Mix, Target

HOST = "{name}.example"
CGROUPS = "/sys/fs/cgroup/nebh.slice/nebh-containers.service"
UNITS = ("nebh-containers", "nebh-executor", "nebh-agent", "nebh-controller")

# The page is the image's, GREETING the release's configuration, NEBH_RELEASE what the executor says it runs.
_TRIPLE = """#!/bin/sh
printf 'Content-Type: application/json\\n\\n'
echo "{\\"release\\": $NEBH_RELEASE, \\"config\\": \\"$GREETING\\", \\"image\\": \\"$(cat /www/image)\\"}"
"""
_HOG = """#!/bin/sh
printf 'Content-Type: text/plain\\n\\n'
case $QUERY_STRING in
    memory) tail /dev/zero ;;
    cpu) while :; do :; done ;;
    pids) for n in $(seq 200); do sleep 2000 & done; echo all 200 started ;;
esac
"""
_SPEC = """name: {name}
image: {{dir: ./{name}}}
argv: [/bin/httpd, -f, -p, "8080", -h, /www]
env: {{GREETING: "{version}"}}
ports: {{http: 8080}}
routes:
  - {{host: {host}, port: http}}
limits: {{memory: 32M, pids: 40, cpu: 0.5}}
health:
  startup_timeout: 120s
  readiness:
    http: {{port: http, path: /}}
    interval: 1s
    timeout: 60s
    failures: 5
stop: {{signal: KILL, grace: 1s}}
update: {{bake: 3s, drain: 5s}}
policy: {{lint_exceptions: ["shell:/bin/sh"]}}
"""
_APPLETS = ("httpd", "sh", "cat", "seq", "sleep", "tail")


class GuestCloud:
    """See above."""

    def __init__(self, guest: Guest, *, house: Path) -> None:
        self.guest, self._house = guest, house

    # programs

    def install(self) -> str:
        """`make install` and `nebh up`, as the README says; return what they printed."""
        self.guest.bring_sources(self._house)
        said = self.guest.text("cd /root/nebh && make install 2>&1", timeout=900.0)
        # Without a terminal nobody can read the recovery words from it.
        return said + self.guest.text("nebh up --words-file /root/words 2>&1", timeout=900.0)

    def nebh(self, *words: str, accept: tuple[int, ...] = (0,)) -> str:
        """Run the command line in the guest's folder of specs; return what it printed."""
        line = " ".join(words)
        done = self.guest.sh(f"mkdir -p /root/svc && cd /root/svc && nebh {line}", accept=accept, timeout=900.0)
        return done.text

    def nebh_json(self, *words: str) -> Any:
        """Run a command with --json and return what it printed."""
        return json.loads(self.nebh(*words, "--json"))

    def node_status(self) -> dict[str, Any]:
        """Return `nebh-executor status`."""
        found: dict[str, Any] = json.loads(self.guest.text("nebh-executor status --json"))
        return found

    def is_quiet(self) -> bool:
        """Tell whether the executor answers and no transaction is open."""
        try:
            status = self.node_status()
        except (NebhError, ValueError):
            return False
        return not status["transactions"] and all(one["role"] == "serving" for one in status["instances"])

    def active_units(self) -> list[str]:
        """Return the units of Nebh that systemd calls active."""
        done = self.guest.sh(f"for one in {' '.join(UNITS)}; do systemctl -q is-active $one && echo $one; done; true")
        return done.text.split()

    def say_logs(self) -> str:
        """Return what the guest's programs said last."""
        with contextlib.suppress(NebhError):
            script = (
                "journalctl --no-pager -n 80 2>&1; systemctl --no-pager status 'nebh*' 2>&1; nebh status 2>&1; true"
            )
            return self.guest.text(script, timeout=120.0)
        return self.guest.say_console()

    # services

    def write_service(self, name: str, version: str) -> None:
        """Write image and spec of a service; deploying them makes a release of that version."""
        self.guest.sh(
            f"mkdir -p /root/svc/{name}/bin /root/svc/{name}/www/cgi-bin; cd /root/svc/{name}; "
            f"for one in {' '.join(_APPLETS)}; do [ -e bin/$one ] || cp /bin/busybox bin/$one; done"
        )
        place = f"/root/svc/{name}"
        self.guest.write(f"{place}/www/index.html", json.dumps({"version": version}).encode())
        self.guest.write(f"{place}/www/image", version.encode())
        self.guest.write(f"{place}/www/cgi-bin/triple", _TRIPLE.encode(), mode="755")
        self.guest.write(f"{place}/www/cgi-bin/hog", _HOG.encode(), mode="755")
        spec = _SPEC.format(name=name, version=version, host=HOST.format(name=name))
        self.guest.write(f"/root/svc/{name}.yaml", spec.encode())

    def deploy(self, name: str, version: str) -> str:
        """Deploy a version; return what was printed."""
        self.write_service(name, version)
        return self.nebh("deploy", "--yes-widen", f"{name}.yaml", "2>&1")

    def get(self, name: str, path: str = "/", *, timeout: float = 60.0) -> tuple[int, str]:
        """GET from outside of the guest; return (status, body), status 0 = no answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.guest.http_port, timeout=timeout)
        try:
            connection.request("GET", path, headers={"Host": HOST.format(name=name)})
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()

    def triple(self, name: str = "web") -> dict[str, Any]:
        """Return what the service says it is: release, config, image; {} when it does not answer."""
        status, body = self.get(name, "/cgi-bin/triple")
        found: dict[str, Any] = json.loads(body) if status == 200 else {}
        return found

    @contextlib.contextmanager
    def load(self, name: str = "web", *, rate: float = 5.0) -> Iterator[Load]:
        """Ask the service from outside all the while; what an emulated machine can answer beside its work."""
        target = Target(address="127.0.0.1", port=self.guest.http_port, host=HOST.format(name=name))
        load = Load(target, Mix(rate=rate, keepalive=2, fresh=1, post_share=0.0, timeout=60.0))
        load.start()
        try:
            yield load
        finally:
            load.stop()

    def counters(self, instance: str, file: str) -> dict[str, int]:
        """Return a file of a container's control group that has a name and a number on each line."""
        lines = self.guest.text(f"cat {CGROUPS}/{instance}/{file}").splitlines()
        return {line.split()[0]: int(line.split()[1]) for line in lines}

    def instance_of(self, name: str) -> str:
        """Return the one instance of a service that serves."""
        rows = [one for one in self.node_status()["instances"] if (one["service"], one["role"]) == (name, "serving")]
        return str(rows[0]["id"])
