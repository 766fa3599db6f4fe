"""A service with data for tests: `rows.c`, whose answers say which image, config, release and data they come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nebh.testing.static_program import compile_static

HOST = "rows.example"
SOURCE = Path(__file__).with_name("rows.c")
_SPEC = """name: {name}
image: {{dir: ./{image}}}
argv: [/bin/rows, serve, "8080", "{readable}", "{writes}"]
env: {{CONFIG: "{version}"}}
ports: {{http: 8080}}
routes:
  - {{host: {host}, port: http}}
limits: {{memory: 32M, pids: 16}}
volumes:
  data: {{path: /data, class: {kind}, size: 64M}}
data: {{reads: [{reads}], writes: {writes}}}
health:
  startup_timeout: 20s
  readiness: {{http: {{port: http, path: /}}, interval: 100ms, timeout: 5s}}
stop: {{grace: 3s}}
update: {{bake: {bake}, drain: 500ms{checks}}}
policy: {{on_failure_data: {on_failure}}}
{more}"""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """One version of the service, `name`, reached as `host`. broken: its check fails once it serves. convert: words of a migration hook after
    `rows convert`, such as `("2",)`. secret: name of one that it is given. backup: words of its rule, such as
    `to: /srv/backups`."""

    version: str
    reads: tuple[int, ...] = (1,)
    writes: int = 1
    broken: bool = False
    convert: tuple[str, ...] = ()
    on_failure: str = "auto"
    kind: str = "state"
    bake: str = "500ms"
    hook_timeout: str = "10s"
    name: str = "rows"
    host: str = HOST
    secret: str = ""
    backup: str = ""


def write_rows(folder: Path, wish: Rows) -> Path:
    """Write image and spec of one version below `folder`; return the spec. Raises NotFound without a compiler."""
    image = folder / f"rows-{wish.version}"
    for part in ("bin", "etc", "data", "run/secrets"):
        (image / part).mkdir(parents=True, exist_ok=True)
    program = folder / "rows"
    if not program.exists():
        compile_static(SOURCE, program)
    target = image / "bin" / "rows"
    if not target.exists():
        target.write_bytes(program.read_bytes())
        target.chmod(0o755)
    (image / "etc" / "version").write_text(f"{wish.version}\n", encoding="utf-8")
    checks = ", checks: [{name: works, http: {path: /bad}, interval: 100ms, failures: 2}]" if wish.broken else ""
    words = ", ".join(f'"{word}"' for word in ("/bin/rows", "convert", *wish.convert))
    hooks = f"hooks: [{{name: convert, at: migrate, argv: [{words}], timeout: {wish.hook_timeout}}}]\n"
    spec = folder / f"rows-{wish.version}.yaml"
    spec.write_text(
        _SPEC.format(
            image=image.name,
            version=wish.version,
            reads=", ".join(map(str, wish.reads)),
            readable=",".join(map(str, wish.reads)),
            writes=wish.writes,
            name=wish.name,
            host=wish.host,
            kind=wish.kind,
            bake=wish.bake,
            checks=checks,
            on_failure=wish.on_failure,
            more=(hooks if wish.convert else "") + _kept_outside(wish),
        ),
        encoding="utf-8",
    )
    return spec


def _kept_outside(wish: Rows) -> str:
    secrets = [f"{{name: {wish.secret}}}"] if wish.secret else []
    if not wish.backup:
        return f"secrets: [{', '.join(secrets)}]\n" if secrets else ""
    secrets.append("{name: backup-password, generate: 40 alnum}")
    return f"secrets: [{', '.join(secrets)}]\nbackup: {{password: backup-password, {wish.backup}}}\n"
