"""Small programs for tests, made of C: they run in any container, as they need nothing but a kernel."""

from __future__ import annotations

import shutil
from pathlib import Path

from nebh.host.run import Command, run
from nebh.model.errors import NotFound


def compile_static(source: Path, target: Path) -> Path:
    """Compile one file of C into a program without shared libraries; return `target`.

    Raises NotFound where there is no compiler or no C library to link with, Failed with what the compiler said.
    """
    compiler = shutil.which("gcc")
    if compiler is None or not Path("/usr/include/stdio.h").exists():
        raise NotFound("cannot compile a test program: no gcc, or no C library", hint="apt-get install gcc libc6-dev")
    words = ("-std=gnu17", "-O1", "-Wall", "-Wextra", "-Werror", "-static", "-o", str(target), str(source))
    run(Command(argv=(compiler, *words), timeout=120.0))
    target.chmod(0o755)
    return target
