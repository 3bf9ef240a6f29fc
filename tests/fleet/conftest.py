"""An S3 server, a PostgreSQL server, a Python whose DuckDB knows DuckLake; none outlives its test."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATHS = os.pathsep.join(str(ROOT / part) for part in ("client", "daemon", "pipelines", "analysis"))


@dataclass
class S3:
    """A server that speaks S3, with one bucket."""

    endpoint: str
    bucket: str = "fleet"
    key_id: str = "anyone"
    secret: str = "anything"

    @property
    def keys(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint, "AWS_ACCESS_KEY_ID": self.key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret, "AWS_REGION": "us-east-1",
        }  # fmt: skip

    def write_keys(self, file: Path, **more: str) -> Path:
        file.write_text("".join(f"{name}={value}\n" for name, value in (self.keys | more).items()))
        file.chmod(0o600)
        return file


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def await_port(host: str, port: int, within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            socket.create_connection((host, port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"nobody listens on {host}:{port}")


class S3Server:
    """Moto's S3 server on this machine, with one bucket."""

    def __init__(self) -> None:
        import boto3

        port = free_port()
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            await_port("127.0.0.1", port)
            self.s3 = S3(f"http://127.0.0.1:{port}")
            self._client = boto3.client(
                "s3", endpoint_url=self.s3.endpoint, aws_access_key_id=self.s3.key_id,
                aws_secret_access_key=self.s3.secret, region_name="us-east-1",
            )  # fmt: skip
            self._client.create_bucket(Bucket=self.s3.bucket)
        except BaseException:
            self.stop()
            raise

    def cut(self, key: str) -> None:
        """Leave the first half of an object, as a copy does that was not finished."""
        whole = self._client.get_object(Bucket=self.s3.bucket, Key=key)["Body"].read()
        self._client.put_object(Bucket=self.s3.bucket, Key=key, Body=whole[: len(whole) // 2])

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def start_s3() -> Iterator[S3Server]:
    server = S3Server()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    """An S3 server for all tests of a file."""
    pytest.importorskip("moto")
    with start_s3() as server:
        yield server.s3


@pytest.fixture(scope="session")
def fleet_python() -> str:
    """A Python that has the extra `fleet`: DuckDB's line with extensions. `make test` makes one."""
    python = os.environ.get("ENERGYD_FLEET_PYTHON") or str(ROOT / "build" / "fleet" / "bin" / "python")
    if not Path(python).exists():
        pytest.skip("no fleet environment here: make build/fleet/.ready")
    return python


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server on this machine."""
    server = Postgres(initdb_of())
    try:
        server.start("127.0.0.1")
        yield server
    finally:
        server.stop()


def initdb_of() -> Path:
    """The folder of PostgreSQL's programs; skips the test where there is none."""
    found = shutil.which("initdb") or next(
        (str(p) for p in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))), None
    )
    if found is None:
        pytest.skip("no PostgreSQL here")
    return Path(found).resolve().parent


class Postgres:
    """One cluster, run as a user who may (PostgreSQL refuses root)."""

    def __init__(self, programs: Path) -> None:
        # Not below pytest's folder, which each session that starts makes its owner's alone again.
        self._folder = Path(tempfile.mkdtemp(prefix="energyd-pg-"))
        self._programs, self.port = programs, free_port()
        self._as: list[str] = []
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres" if _has_user("postgres") else "nobody")
            self._as = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
            os.chown(self._folder, user.pw_uid, user.pw_gid)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, address: str, inside: list[str] | None = None) -> None:
        """Start it, `inside` a command such as `ip netns exec NAME`."""
        data = self._folder / "data"
        password = self._folder / "password"
        password.write_text("secret\n")
        password.chmod(0o644)
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/"}
        subprocess.run(
            [*self._as, str(self._programs / "initdb"), "-D", str(data), "-U", "energy",
             "-A", "scram-sha-256", "--pwfile", str(password), "--no-sync"], check=True, **quiet,
        )  # fmt: skip
        (data / "pg_hba.conf").write_text(
            "host all all 0.0.0.0/0 scram-sha-256\nlocal all all scram-sha-256\n"
        )
        self._process = subprocess.Popen(
            [*(inside or []), *self._as, str(self._programs / "postgres"), "-D", str(data),
             "-p", str(self.port), "-c", f"listen_addresses={address}", "-c", "fsync=off",
             "-c", f"unix_socket_directories={self._folder}"], **quiet,
        )  # fmt: skip
        socket_file = self._folder / f".s.PGSQL.{self.port}"
        deadline = time.monotonic() + 60
        while not socket_file.exists():
            assert time.monotonic() < deadline, "PostgreSQL does not come up"
            time.sleep(0.05)
        self._address = address

    def make(self, database: str) -> str:
        """Make a database; its address."""
        deadline = time.monotonic() + 30
        while True:
            done = subprocess.run(
                ["psql", "-h", str(self._folder), "-p", str(self.port), "-U", "energy", "-d", "postgres",
                 "-qc", f"CREATE DATABASE {database}"],
                env={**os.environ, "PGPASSWORD": "secret"}, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode == 0:
                return f"postgresql://energy@{self._address}:{self.port}/{database}"
            assert time.monotonic() < deadline, done.stderr
            time.sleep(0.1)

    def sql(self, database: str, statement: str) -> None:
        """Run a statement as the one who owns everything."""
        subprocess.run(
            ["psql", "-h", str(self._folder), "-p", str(self.port), "-U", "energy", "-d", database,
             "-qc", statement], env={**os.environ, "PGPASSWORD": "secret"}, check=True,
        )  # fmt: skip

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def _has_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
