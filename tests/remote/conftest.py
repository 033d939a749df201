"""A real S3 server and a real SSH server on loopback ports, and small repositories to share."""

import contextlib
import getpass
import hashlib
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import botocore.session
import psutil
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
START_SECONDS = 60
KEY_ID, SECRET = "key-id-of-the-team", "secret-of-the-team"
BUCKET = "my-bucket"  # as docs/remote.md calls it


@dataclass
class Outcome:
    """How a command ended, what it said on stdout and stderr together, and how long it took."""

    rc: int
    text: str
    seconds: float = 0.0

    def fails_with(self, *parts: str, within: float = 60) -> None:
        """Assert a failure that a person can understand, in a time that a person waits."""
        assert self.rc != 0, self.text
        assert "Traceback" not in self.text, self.text
        for part in parts:
            assert part in self.text, self.text
        assert self.seconds < within, self.seconds

    def succeeds(self) -> str:
        assert self.rc == 0, self.text
        return self.text


class Repository:
    """A git and DVC repository."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = home = folder.with_name(folder.name + ".home")
        home.mkdir(exist_ok=True)
        # Keys, agents, proxies and settings of whoever runs the tests must not decide them.
        foreign = re.compile(r"(AWS|BOTO|DVC|GIT|SSH)_|(?i:\w+_proxy$)|COLUMNS$")
        self.environment = {k: v for k, v in os.environ.items() if not foreign.match(k)} | {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(home),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_AUTHOR_NAME": "Test",
            "GIT_AUTHOR_EMAIL": "test@localhost",
            "GIT_COMMITTER_NAME": "Test",
            "GIT_COMMITTER_EMAIL": "test@localhost",
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(home / "site"),
            "DVC_GLOBAL_CONFIG_DIR": str(home),
            "DVC_SYSTEM_CONFIG_DIR": str(home),
            "COLUMNS": "200",
        }

    def path(self, name: str) -> Path:
        return self.folder / name

    def start(self, *command: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, *command: str) -> Outcome:
        begun = time.monotonic()
        process = self.start(*command)
        text = process.communicate()[0].decode(errors="replace")
        return Outcome(process.returncode, text, time.monotonic() - begun)

    def dvc(self, *arguments: str) -> Outcome:
        return self.run("dvc", *arguments)

    def commit(self, message: str) -> None:
        self.run("git", "add", "--all").succeeds()
        self.run("git", "commit", "--quiet", "-m", message).succeeds()

    def clone(self, name: str) -> "Repository":
        """A fresh `git clone` beside it: no cache, no keys."""
        clone = Repository(self.folder.with_name(name))
        self.run("git", "clone", "--quiet", str(self.folder), str(clone.folder)).succeeds()
        assert not clone.path(".dvc/config.local").exists()
        assert not clone.path(".dvc/cache").exists()
        return clone

    def copy(self, folder: Path) -> "Repository":
        shutil.copytree(self.folder, folder, symlinks=True)
        return Repository(folder)

    def files(self) -> dict[str, bytes]:
        """All that a person sees in it."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and not {".git", ".dvc"} & set(path.relative_to(self.folder).parts)
        }

    def follow(self, commands: list[str], *replacements: tuple[str, str]) -> None:
        """Run commands of docs/remote.md, with this test's values for the page's examples."""
        for command in commands:
            for example, value in replacements:
                command = command.replace(example, value)
            self.run("sh", "-c", command).succeeds()

    def take_keys(self, other: "Repository") -> None:
        shutil.copy(other.path(".dvc/config.local"), self.path(".dvc"))

    def is_in_sync(self) -> bool:
        return "are in sync" in self.dvc("status", "--cloud").succeeds()


def random_bytes(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """One large file, a folder of small ones and a stage; everything is in the cache."""
    repository = Repository(tmp_path_factory.mktemp("template") / "repository")
    repository.folder.mkdir()
    repository.run("git", "init", "--quiet", "-b", "main").succeeds()
    repository.dvc("init", "--quiet").succeeds()
    repository.path("large.bin").write_bytes(random_bytes(0, 5_000_000))
    repository.path("photos").mkdir()
    for number in range(30):
        repository.path(f"photos/{number:02d}.png").write_bytes(random_bytes(number + 1, 3000))
    repository.path("dvc.yaml").write_text(
        "stages:\n"
        "  count:\n"
        "    cmd: ls photos | wc -l > count.csv\n"
        "    deps: [photos]\n"
        "    outs: [count.csv]\n"
    )
    repository.dvc("add", "--quiet", "large.bin", "photos").succeeds()
    repository.dvc("repro", "--quiet").succeeds()
    repository.commit("Start")
    return repository


@pytest.fixture
def blank(template: Repository, tmp_path: Path) -> Iterator[Repository]:
    """Such a repository of one's own, without a remote."""
    yield template.copy(tmp_path / "repository")
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture(scope="session")
def page() -> Callable[[str], list[str]]:
    """The commands below a heading of docs/remote.md."""
    text = (ROOT / "docs/remote.md").read_text(encoding="utf-8")

    def commands(heading: str) -> list[str]:
        section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
        blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
        lines = [line.split("  #")[0].strip() for line in "".join(blocks).splitlines()]
        return [line for line in lines if line]

    return commands


def free_ports(number: int) -> list[int]:
    """All held until the last is known, or the same could come twice."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [probe.getsockname()[1] for probe in probes]


class Server:
    """A server process; what it keeps outlives it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def answers(self) -> bool:
        raise NotImplementedError

    def objects(self) -> dict[str, bytes]:
        """What is stored, by the hash that its name says."""
        raise NotImplementedError

    def number_of_objects(self) -> int:
        raise NotImplementedError

    def has_only_whole_objects(self) -> bool:
        """DVC trusts an object's name: half a file under it would be pulled as the file."""
        return all(
            hashlib.md5(content).hexdigest() == name.removesuffix(".dir")
            for name, content in self.objects().items()
        )

    def start(self) -> None:
        log = self.folder / "log"
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        end = time.monotonic() + START_SECONDS
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > end:
                self.end()
                pytest.fail("the server does not start:\n" + log.read_text()[-3000:])
            time.sleep(0.1)

    def end(self) -> None:
        """SIGKILL to it and what it started; the connections of sshd have their own groups."""
        assert self.process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            listener = psutil.Process(self.process.pid)
            for process in [listener, *listener.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self.process.wait(20)


def object_name(path: str) -> str | None:
    """The hash of .../files/md5/ab/cdef…; none for what is no finished object."""
    found = re.search(r"files/md5/([0-9a-f]{2})/([0-9a-f]{30}(?:\.dir)?)$", path)
    return found and found[1] + found[2]


class S3Server(Server):
    """SeaweedFS, which asks for the team's key."""

    def __init__(self, weed: str, folder: Path) -> None:
        super().__init__(folder)
        # Each port has one for gRPC, by default 10000 higher: that may be none.
        names = ["master", "volume", "filer", "s3"]
        ports = free_ports(8)
        self.ports = dict(zip([*names, *(f"{name}.grpc" for name in names)], ports, strict=True))
        self.url = f"http://127.0.0.1:{self.ports['s3']}"
        self.weed = weed
        (folder / "data").mkdir()
        key = {"accessKey": KEY_ID, "secretKey": SECRET}
        team = {"name": "team", "credentials": [key], "actions": ["Admin", "Read", "Write", "List"]}
        (folder / "keys.json").write_text(json.dumps({"identities": [team]}))
        self.client: Any = botocore.session.Session().create_client(
            "s3",
            region_name="us-east-1",
            endpoint_url=self.url,
            aws_access_key_id=KEY_ID,
            aws_secret_access_key=SECRET,
            config=Config(proxies={}, connect_timeout=5, read_timeout=20),
        )

    def command(self) -> list[str]:
        ports = [
            f"-{name.removesuffix('.grpc')}.port{'.grpc' * name.endswith('.grpc')}={port}"
            for name, port in self.ports.items()
        ]
        local = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={self.folder / 'data'}"]
        # Else these two listen at ports of their own, on all addresses.
        without = ["-s3.port.iceberg=0", "-s3.port.lance=0"]
        small = ["-volume.max=20", "-master.volumeSizeLimitMB=256"]
        # With the usual 10 s a start after SIGKILL can take twice that.
        quick = "-master.electionTimeout=1s"
        keys = f"-s3.config={self.folder / 'keys.json'}"
        return [self.weed, "server", *local, *ports, "-filer", "-s3", keys, quick, *without, *small]

    def answers(self) -> bool:
        """Whether it stores, which is later than that it answers: the volumes come last."""
        there = self.client.exceptions
        try:
            with contextlib.suppress(there.BucketAlreadyExists, there.BucketAlreadyOwnedByYou):
                self.client.create_bucket(Bucket=BUCKET)
            self.client.put_object(Bucket=BUCKET, Key="probe", Body=b"probe")
        except (BotoCoreError, ClientError):
            return False
        return True

    def keys(self) -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        listed = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return [key for key in listed if object_name(key)]

    def number_of_objects(self) -> int:
        return len(self.keys())

    def objects(self) -> dict[str, bytes]:
        return {
            str(object_name(key)): self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
            for key in self.keys()
        }

    def empty(self) -> None:
        for key in self.keys():
            self.client.delete_object(Bucket=BUCKET, Key=key)

    def end(self) -> None:
        super().end()
        for port in self.ports.values():  # a killed one leaves them
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink(missing_ok=True)


class SSHServer(Server):
    """OpenSSH's sshd, which lets one key in."""

    def __init__(self, sshd: str, folder: Path) -> None:
        super().__init__(folder)
        self.sshd = sshd
        (self.port,) = free_ports(1)
        self.user = getpass.getuser()
        self.store = folder / "store"
        self.store.mkdir()
        for name in ("host_key", "key", "other_key"):
            self.make_key(name)
        (folder / "authorized_keys").write_text((folder / "key.pub").read_text())
        (folder / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1\nPort {self.port}\nPidFile none\n"
            f'HostKey "{folder / "host_key"}"\n'
            f'AuthorizedKeysFile "{folder / "authorized_keys"}"\n'
            "StrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            "Subsystem sftp internal-sftp\n"
        )

    def make_key(self, name: str) -> None:
        file = self.folder / name
        file.unlink(missing_ok=True)
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(file)], check=True
        )

    def command(self) -> list[str]:
        return [self.sshd, "-D", "-e", "-f", str(self.folder / "sshd_config")]

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                return connection.recv(8).startswith(b"SSH-2.0")
        except OSError:
            return False

    def found(self) -> list[Path]:
        return [path for path in self.store.rglob("*") if object_name(path.as_posix())]

    def number_of_objects(self) -> int:
        return len(self.found())

    def objects(self) -> dict[str, bytes]:
        return {str(object_name(path.as_posix())): path.read_bytes() for path in self.found()}

    def empty(self) -> None:
        shutil.rmtree(self.store)
        self.store.mkdir()


@pytest.fixture(scope="session")
def running_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    weed = shutil.which("weed", path=f"{BIN}{os.pathsep}{os.environ['PATH']}")
    if weed is None:
        pytest.skip("needs SeaweedFS (make setup-dev)")
    server = S3Server(weed, tmp_path_factory.mktemp("s3"))
    server.start()
    yield server
    server.end()


@pytest.fixture
def s3(running_s3: S3Server) -> Iterator[S3Server]:
    """An S3 server with an empty bucket."""
    yield running_s3
    running_s3.empty()


@pytest.fixture(scope="session")
def running_ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SSHServer]:
    sshd = shutil.which("sshd", path=os.environ["PATH"] + ":/usr/sbin")
    if sshd is None:
        pytest.skip("needs sshd (apt install openssh-server)")
    if os.geteuid() == 0:
        # sshd run by root refuses to start without; the system's own service makes it, too.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    server = SSHServer(sshd, tmp_path_factory.mktemp("ssh"))
    server.start()
    yield server
    server.end()


@pytest.fixture
def ssh(running_ssh: SSHServer) -> Iterator[SSHServer]:
    """An SSH server with an empty folder `store`."""
    yield running_ssh
    running_ssh.empty()


@pytest.fixture(scope="session")
def nobody_listens() -> Iterator[int]:
    """A port that is taken, but refuses connections."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        yield nobody.getsockname()[1]


@dataclass
class Steps:
    """What is checked alike with both kinds of remote."""

    repository: Repository
    server: Server

    def push(self) -> None:
        self.repository.dvc("push").succeeds()
        assert self.repository.is_in_sync()
        assert self.server.has_only_whole_objects()

    def pull_into_a_fresh_clone(self) -> None:
        """The clone has the same bytes, and DVC says so."""
        clone = self.repository.clone("clone")
        assert clone.files() != self.repository.files()
        clone.take_keys(self.repository)
        clone.dvc("pull").succeeds()
        assert clone.files() == self.repository.files()
        assert clone.is_in_sync()
        assert "up to date" in clone.dvc("status").succeeds()

    def push_to_a_server_that_is_killed(self, *said: str) -> None:
        """Some objects are there and others not: the push was in the middle."""
        number = 8
        self.repository.path("many").mkdir()
        for seed in range(number):
            content = random_bytes(1000 + seed, 5_000_000)
            self.repository.path(f"many/{seed}").write_bytes(content)
        self.repository.dvc("add", "--quiet", "many").succeeds()
        self.repository.commit("Much to push")

        begun = time.monotonic()
        push = self.repository.start("dvc", "push", "--jobs", "4", "many.dvc")
        while self.server.number_of_objects() == 0:
            assert push.poll() is None, push.communicate()[0].decode()
        self.server.end()
        text = push.communicate()[0].decode()
        Outcome(push.returncode, text, time.monotonic() - begun).fails_with(*said)

        self.server.start()
        assert 0 < self.server.number_of_objects() < number
        # The list of the folder comes last: nobody pulls a folder that is not all there.
        assert not any(name.endswith(".dir") for name in self.server.objects())
        assert self.server.has_only_whole_objects()
        assert not self.repository.is_in_sync()


@pytest.fixture(scope="session")
def steps() -> type[Steps]:
    return Steps
