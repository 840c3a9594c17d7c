"""Compiles the load generator and the null broker when they are missing or older than their source.

Never anything but ``cc``: each is one C file without a dependency::

    >>> build("kload")
    PosixPath('.../benchmarks/bin/kload')
"""

import os
import shutil
import subprocess
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[1]
BIN = SOURCES / "bin"


class BenchmarkError(Exception):
    """A run that cannot be made or cannot be trusted; the text says why."""


def build(name: str) -> Path:
    """Return the program ``name``, compiled from ``name.c``.

    Raises:
        BenchmarkError: there is no C compiler, or it failed.
    """
    source, program = SOURCES / f"{name}.c", BIN / name
    if program.exists() and program.stat().st_mtime >= source.stat().st_mtime:
        return program
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise BenchmarkError("there is no C compiler (cc, gcc or clang); Debian: apt-get install gcc libc-dev")
    BIN.mkdir(exist_ok=True)
    made = program.with_suffix(f".{os.getpid()}")  # and moved into place, as another process may be running the old one
    command = [compiler, "-O2", "-Wall", "-Wextra", "-o", str(made), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchmarkError(f"{' '.join(command)} failed:\n{done.stderr}")
    made.replace(program)
    return program
