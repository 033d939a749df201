"""Real servers for tests: each starts, answers before a test goes on, and leaves no process behind.

A server is started in a folder of its own on a free loopback port. With `enter`, the start of a
command line such as `nsenter ...`, it runs in another network: tests/cluster has its hosts there.
"""

import contextlib
import functools
import getpass
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

import botocore.session
import psutil
import pytest
from botocore.config import Config

from signs.commands import git

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
SEARCHED = f"{BIN}{os.pathsep}{os.environ['PATH']}"
LOCALHOST = "127.0.0.1"
KEY_ID, SECRET = "key-id-of-the-team", "secret-of-the-team"
BUCKET = "my-bucket"  # as docs/remote.md calls it
IDENTITY = {
    **{f"GIT_{who}_NAME": "Test" for who in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{who}_EMAIL": "test@localhost" for who in ("AUTHOR", "COMMITTER")},
}

MAKE_BUCKET = f"""
import botocore.session
s3 = botocore.session.Session().create_client("s3")
try:
    s3.create_bucket(Bucket={BUCKET!r})
except (s3.exceptions.BucketAlreadyExists, s3.exceptions.BucketAlreadyOwnedByYou):
    pass
s3.put_object(Bucket={BUCKET!r}, Key="probe", Body=b"probe")
"""


def wait_until(condition: Callable[[], object], seconds: float = 60) -> bool:
    """Whether it becomes true in time; a refused connection or failed assertion means not yet."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(AssertionError, OSError):
            if condition():
                return True
        time.sleep(0.2)
    return False


def free_ports(number: int) -> list[int]:
    """All are held until the last is known, or the same port could come twice."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.create_server((LOCALHOST, 0))) for _ in range(number)]
        return [probe.getsockname()[1] for probe in probes]


def free_port() -> int:
    return free_ports(1)[0]


def heed_ctrl_c() -> None:
    """Undo, in a new process, that a shell in the background lets its children ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def kill_tree(pid: int) -> None:
    """SIGKILL to a process and all that it started, whatever group they are in."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for victim in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()


@dataclass
class Outcome:
    """How a command ended, its output on stdout and stderr, and how long it took."""

    rc: int
    text: str
    seconds: float = 0.0

    def fails_with(self, *parts: str, within: float = math.inf) -> None:
        """Assert a failure that a person can understand, within so many seconds."""
        assert self.rc != 0, self.text
        assert "Traceback" not in self.text, self.text
        for part in parts:
            assert part in self.text, self.text
        assert self.seconds < within, self.seconds

    def succeeds(self) -> str:
        assert self.rc == 0, self.text
        return self.text


class Running:
    """A command in a process group of its own, as a terminal starts it.

    What waits for it fails after `patience` seconds, and shows where Python's processes hang.
    """

    patience = 240.0  # less than any test's own limit, which would not say where it hangs

    def __init__(
        self, command: Sequence[str], folder: Path, environment: Mapping[str, str], log: Path
    ) -> None:
        self._log, self._begun = log, time.monotonic()
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env={**environment, "PYTHONFAULTHANDLER": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=heed_ctrl_c,
            )

    @property
    def text(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Wait for something that the command does; fails if it ends before."""
        while not condition():
            assert self.process.poll() is None, self.text
            if not self._seconds_left():
                self._give_up()
            time.sleep(0.005)

    def signal(self, number: int) -> None:
        """Send a signal to the command and all that it started."""
        os.killpg(self.process.pid, number)

    def wait(self) -> Outcome:
        """The outcome, once the command has ended."""
        try:
            rc = self.process.wait(self._seconds_left())
        except subprocess.TimeoutExpired:
            self._give_up()
        return Outcome(rc, self.text, time.monotonic() - self._begun)

    def _seconds_left(self) -> float:
        return max(0, self.patience - (time.monotonic() - self._begun))

    def _give_up(self) -> NoReturn:
        for number in (signal.SIGABRT, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                self.signal(number)
            time.sleep(1)
        pytest.fail(f"It has not ended after {self.patience:.0f} s:\n{self.text}")

    def leaves_nothing_behind(self) -> bool:
        """Whether all processes of the group end too; Python's resource tracker is slower."""
        for _ in range(400):
            try:
                os.killpg(self.process.pid, 0)
            except ProcessLookupError:
                return True
            time.sleep(0.025)
        return False


class Repository:
    """A git and DVC repository."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = home = folder.with_name(folder.name + ".home")
        home.mkdir(exist_ok=True)
        # The keys, agents, proxies and settings of this machine must not matter.
        foreign = re.compile(r"(AWS|BOTO|DVC|GIT|SSH)_|(?i:\w+_proxy$)|COLUMNS$")
        self.environment = {k: v for k, v in os.environ.items() if not foreign.match(k)} | {
            **IDENTITY,
            "PATH": SEARCHED,
            "HOME": str(home),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(home / "site"),
            "DVC_GLOBAL_CONFIG_DIR": str(home),
            "DVC_SYSTEM_CONFIG_DIR": str(home),
            "COLUMNS": "200",
        }

    def path(self, name: str) -> Path:
        return self.folder / name

    def start(self, *command: str) -> Running:
        log = self.home / f"log.{time.monotonic_ns()}"
        return Running(command, self.folder, self.environment, log)

    def run(self, *command: str) -> Outcome:
        return self.start(*command).wait()

    def dvc(self, *arguments: str) -> Outcome:
        return self.run("dvc", *arguments)

    def commit(self, message: str) -> None:
        self.run("git", "add", "--all").succeeds()
        self.run("git", "commit", "--quiet", "--allow-empty", "-m", message).succeeds()

    def copy(self, folder: Path) -> Self:
        shutil.copytree(self.folder, folder, symlinks=True)
        return type(self)(folder)


def copy_checkout(folder: Path, left_out: tuple[str, ...] = ()) -> None:
    """Copy what git tracks in this repository, but what begins with one of these names."""
    for name in filter(None, git("ls-files", "-z", at=ROOT).split("\0")):
        if not name.startswith(left_out) and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


class Server:
    """A process; what it stores in its folder outlives it."""

    def __init__(
        self,
        folder: Path,
        command: Sequence[str | Path],
        enter: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        log: Path | None = None,
    ) -> None:
        self.folder, self.log_file = folder, log or folder / "log"
        self.command = [*enter, *map(str, command)]
        self.environment = environment
        self.process: subprocess.Popen[bytes] | None = None
        self._logged = 0

    def answers(self) -> bool:
        return True

    @property
    def log(self) -> str:
        """Its output since the last start."""
        with self.log_file.open("rb") as file:
            file.seek(self._logged)
            return file.read().decode(errors="replace")

    def launch(self) -> "subprocess.Popen[bytes]":
        """Start it without waiting for an answer."""
        with self.log_file.open("ab") as output:
            self._logged = output.tell()
            self.process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return self.process

    def start(self, seconds: float = 60) -> "subprocess.Popen[bytes]":
        """Start it and wait until it answers."""
        process = self.launch()
        wait_until(lambda: process.poll() is not None or self.answers(), seconds)
        if process.poll() is not None or not self.answers():
            self.kill()
            pytest.fail(f"{self.command[0]} does not start:\n{self.log[-3000:]}")
        return process

    def kill(self) -> None:
        assert self.process is not None
        kill_tree(self.process.pid)
        self.process.wait(20)


class S3(Server):
    """SeaweedFS with a bucket, for which one key is valid."""

    def __init__(
        self,
        folder: Path,
        address: str = LOCALHOST,
        port: int | None = None,
        enter: Sequence[str] = (),
        **options: Any,
    ) -> None:
        weed = shutil.which("weed", path=SEARCHED)
        if weed is None:
            pytest.skip("needs SeaweedFS (make setup-dev)")
        # Each port has another for gRPC, by default 10000 higher: that port may not exist.
        names = ["master", "volume", "filer", "s3"]
        names += [f"{name}.grpc" for name in names]
        self.ports = dict(zip(names, free_ports(8), strict=True))
        self.ports["s3"] = port or self.ports["s3"]
        self.url = f"http://{address}:{self.ports['s3']}"
        self.variables = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        ports = [
            f"-{name.removesuffix('.grpc')}.port{'.grpc' * name.endswith('.grpc')}={port}"
            for name, port in self.ports.items()
        ]
        command = [weed, "server", f"-ip={address}", f"-ip.bind={address}", "-dir=.", *ports]
        # Otherwise these two listen at ports of their own, on all addresses.
        command += ["-filer", "-s3", "-s3.port.iceberg=0", "-s3.port.lance=0"]
        # With the default of 10 s, a start after SIGKILL can take twice that.
        command += ["-master.electionTimeout=1s"]
        command += ["-volume.max=20", "-master.volumeSizeLimitMB=256"]
        # The key in its environment becomes the administrator's.
        environment = options.pop("environment", os.environ) | self.variables
        super().__init__(folder, command, enter, environment, **options)
        self._enter = enter

    @functools.cached_property
    def client(self) -> Any:
        return botocore.session.Session().create_client(
            "s3",
            region_name="us-east-1",
            endpoint_url=self.url,
            aws_access_key_id=KEY_ID,
            aws_secret_access_key=SECRET,
            config=Config(proxies={}, connect_timeout=5, read_timeout=20),
        )

    def answers(self) -> bool:
        """Whether it stores, which is later than that it answers: the volumes come last."""
        probe = [*self._enter, sys.executable, "-c", MAKE_BUCKET]
        return not subprocess.run(
            probe, env=self.environment, capture_output=True, check=False
        ).returncode

    def names(self) -> list[str]:
        """Keys of the objects that DVC stored."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        listed = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return [key for key in listed if object_hash(key)]

    def read(self, name: str) -> bytes:
        content: bytes = self.client.get_object(Bucket=BUCKET, Key=name)["Body"].read()
        return content

    def empty(self) -> None:
        for key in self.names():
            self.client.delete_object(Bucket=BUCKET, Key=key)

    def kill(self) -> None:
        super().kill()
        for port in self.ports.values():  # a killed one leaves them
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink(missing_ok=True)


class SSH(Server):
    """OpenSSH's sshd, which lets one key in: `key` in the folder of keys."""

    def __init__(
        self,
        folder: Path,
        address: str = LOCALHOST,
        keys: Path | None = None,
        enter: Sequence[str] = (),
        **options: Any,
    ) -> None:
        sshd = shutil.which("sshd", path=os.environ["PATH"] + ":/usr/sbin")
        if sshd is None:
            pytest.skip("needs sshd (apt install openssh-server)")
        self.keys = keys or folder  # as the process sees it
        self.user = getpass.getuser()
        self.port = free_port()
        self._address, self._enter = address, enter
        if os.geteuid() == 0:
            # sshd that root starts needs it; the system's own service makes it, too.
            subprocess.run([*enter, "mkdir", "-p", "/run/sshd"], check=True)
        settings = {
            "ListenAddress": address,
            "Port": self.port,
            "PidFile": "none",
            "HostKey": f'"{self.keys / "host_key"}"',
            "AuthorizedKeysFile": f'"{self.keys / "key.pub"}"',
            "StrictModes": "no",
            "UsePAM": "no",
            "PermitRootLogin": "prohibit-password",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "Subsystem": "sftp internal-sftp",
        }
        given = [f"-o{name}={value}" for name, value in settings.items()]
        command = [sshd, "-D", "-e", "-f", "/dev/null", *given]
        super().__init__(folder, command, enter, **options)
        for name in ("host_key", "key", "other_key"):
            make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]
            subprocess.run([*enter, *make, str(self.keys / name)], check=True)

    def answers(self) -> bool:
        greet = ["ssh-keyscan", "-T", "5", "-p", str(self.port), self._address]
        done = subprocess.run([*self._enter, *greet], capture_output=True, check=False)
        return b"SSH-2.0" in done.stdout + done.stderr


class Ray(Server):
    """A node of a Ray cluster: its head, or one that joins the cluster at an address."""

    def __init__(
        self,
        folder: Path,
        address: str = LOCALHOST,
        join: str = "",
        cores: int = 1,
        gpus: int = 0,
        port: int | None = None,
        **options: Any,
    ) -> None:
        port = port or free_port()
        head = ["--head", "--include-dashboard=false", f"--port={port}"]
        where = [f"--address={join}"] if join else head
        self.cluster = join or f"{address}:{port}"
        size = [f"--num-cpus={cores}", f"--num-gpus={gpus}", f"--object-store-memory={2**27}"]
        ray = [BIN / "ray", "start", *where, f"--node-ip-address={address}", *size]
        super().__init__(folder, [*ray, "--disable-usage-stats", "--block"], **options)

    def answers(self) -> bool:
        return "Ray runtime started" in self.log


def object_hash(path: str) -> str | None:
    """The hash of .../files/md5/ab/cdef…; None for what is no finished object of DVC's."""
    found = re.search(r"files/md5/([0-9a-f]{2})/([0-9a-f]{30}(?:\.dir)?)$", path)
    return found and found[1] + found[2]


@pytest.fixture(scope="session")
def running_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    server = S3(tmp_path_factory.mktemp("s3"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def s3(running_s3: S3) -> Iterator[S3]:
    """An S3 server with an empty bucket."""
    yield running_s3
    running_s3.empty()


@pytest.fixture(scope="session")
def nobody_listens() -> Iterator[int]:
    """A port that is taken, but refuses connections."""
    with socket.socket() as nobody:
        nobody.bind((LOCALHOST, 0))
        yield nobody.getsockname()[1]
