"""Hosts of a cluster as namespaces of one machine, each with its own address, processes and /tmp.

    switch     10.77.0.1: a bridge; the S3 server and sshd with the git repositories run here
    host1, ... 10.77.0.2, ...: connected to the switch alone

All of this is in network namespaces: the machine's own network stays as it is, and nobody outside
can reach the servers. Needs root, iproute2 and util-linux.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.harness import IDENTITY, KEY_ID, S3, SEARCHED, SECRET, SSH, Ray, Server

ENVIRONMENT = Path(sys.prefix)
NETWORK = "10.77.0"
SWITCH = f"{NETWORK}.1"
S3_PORT, RAY_PORT = 8333, 6379
TEMP = "/tmp"  # each host's own, its home and working folder
VARIABLES = {
    **IDENTITY,
    "PATH": SEARCHED,
    "HOME": TEMP,
    "LANG": "C.UTF-8",
    "AWS_ENDPOINT_URL": f"http://{SWITCH}:{S3_PORT}",
    "AWS_ACCESS_KEY_ID": KEY_ID,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_DEFAULT_REGION": "us-east-1",
    "DVC_NO_ANALYTICS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A dead host is noticed after some seconds, not after most of a minute.
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "5",
}
# A host's own /tmp would hide an environment that is in the machine's /tmp: mount that again.
FURNISH = """
set -e
mount --make-rprivate /
mount -t tmpfs none /dev/shm
mount -t tmpfs none "$1"
case $2 in /tmp/*)
    mkdir -p "$1/${2#/tmp/}"
    mount --bind "$2" "$1/${2#/tmp/}"
    mount -o remount,bind,ro "$1/${2#/tmp/}" ;;
esac
mount --move "$1" /tmp
ip link set lo up
hostname "$3"
echo furnished
exec sleep infinity
"""


@dataclass
class Host:
    """A machine, as its processes see it.

    Attributes:
        name: its host name.
        address: in the cluster's network.
        folder: has the log of what runs on it.
        init: the first of its processes; all others die with it.
    """

    name: str
    address: str
    folder: Path
    init: "subprocess.Popen[str]"
    running: list[Server] = field(default_factory=list)

    @property
    def log_file(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def enter(self) -> list[str]:
        """What starts a command on this host."""
        (inside,) = subprocess.check_output(
            ["pgrep", "--parent", str(self.init.pid)], text=True
        ).split()
        return ["nsenter", "--target", inside, "--all", f"--wdns={TEMP}"]

    def serve(self, server: Server, seconds: float = 60) -> "subprocess.Popen[bytes]":
        """Start a server that was made with this host's options."""
        self.running.append(server)
        return server.start(seconds)

    def options(self, environment: Mapping[str, str] = {}) -> dict[str, object]:
        """For the servers that run on it."""
        variables = VARIABLES | dict(environment)
        return {"enter": self.enter, "log": self.log_file, "environment": variables}

    def start(self, *command: str | Path) -> "subprocess.Popen[bytes]":
        self.running.append(Server(self.folder, command, **self.options()))
        return self.running[-1].launch()

    def run(self, *command: str | Path, text: str = "") -> str:
        """What the command prints; it must succeed."""
        done = subprocess.run(
            [*self.enter, *map(str, command)],
            env=VARIABLES,
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def write(self, name: str, text: str) -> None:
        self.run("sh", "-c", f"umask 077 && cat > {name}", text=text)

    def kill(self) -> None:
        """Like pulling its plug: SIGKILL to all processes at once."""
        self.init.send_signal(signal.SIGKILL)  # unshare takes the whole namespace along
        self.init.wait(20)
        assert self.init.stdout is not None
        self.init.stdout.close()
        self.end_processes()

    def end_processes(self) -> None:
        """SIGKILL to all that was started on it; the host itself, and its disk, stay."""
        for server in self.running:
            server.kill()
        self.running.clear()

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")[-3000:]


class Cluster:
    """The switch and the hosts that are connected to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hosts: list[Host] = []
        self.switch = self._boot("switch", SWITCH)
        self.switch.run("ip", "link", "add", "br0", "type", "bridge")
        self.switch.run("ip", "address", "add", f"{SWITCH}/24", "dev", "br0")
        self.switch.run("ip", "link", "set", "br0", "up")

    def _boot(self, name: str, address: str) -> Host:
        mount = self.folder / f"{name}.tmp"
        mount.mkdir(exist_ok=True)
        spaces = ["--net", "--mount", "--pid", "--uts", "--ipc", "--mount-proc"]
        script = ["sh", "-c", FURNISH, "sh", str(mount), str(ENVIRONMENT), name]
        init = subprocess.Popen(
            ["unshare", *spaces, "--fork", "--kill-child", *script],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert init.stdout is not None
        assert init.stdout.readline() == "furnished\n"
        self.hosts.append(Host(name, address, self.folder, init))
        return self.hosts[-1]

    def add_host(self) -> Host:
        """A host with the next address, connected to the switch."""
        number = len(self.hosts)
        host = self._boot(f"host{number}", f"{NETWORK}.{number + 1}")
        inside = host.enter[2]
        plug = ["type", "veth", "peer", "name", "eth0", "netns"]
        self.switch_network("ip", "link", "add", host.name, *plug, inside)
        self.switch_network("ip", "link", "set", host.name, "master", "br0", "up")
        host.run("ip", "address", "add", f"{host.address}/24", "dev", "eth0")
        host.run("ip", "link", "set", "eth0", "up")
        return host

    def switch_network(self, *command: str) -> None:
        """Run a command in the switch's network that sees all processes of the machine."""
        inside = self.switch.enter[2]
        subprocess.run(["nsenter", "--target", inside, "--net", *command], check=True)

    def end(self) -> None:
        for host in self.hosts:
            if host.init.poll() is None:
                host.kill()


def serve_git(cluster: Cluster) -> str:
    """Start an sshd with a bare repository; returns its address. The hosts get the key."""
    switch = cluster.switch
    switch.run("mkdir", "sshd")
    server = SSH(switch.folder, SWITCH, Path(TEMP, "sshd"), **switch.options())
    switch.serve(server)
    switch.run("git", "init", "--quiet", "--bare", "--initial-branch=main", "project.git")
    for host in cluster.hosts[1:]:
        give_key(cluster, host)
    return f"ssh://root@{SWITCH}:{server.port}{TEMP}/project.git"


def give_key(cluster: Cluster, host: Host) -> None:
    """Let a host's git in at the switch."""
    host.write("key", cluster.switch.run("cat", "sshd/key"))
    check = f"-o StrictHostKeyChecking=no -o UserKnownHostsFile={TEMP}/known"
    host.run("git", "config", "--global", "core.sshCommand", f"ssh -i {TEMP}/key {check}")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A switch without hosts."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "unshare", "nsenter", "pgrep"))):
        pytest.skip("needs root, iproute2, util-linux and procps")
    started = Cluster(tmp_path)
    yield started
    started.end()


@dataclass
class RayCluster:
    """Two hosts: Ray's head on the first, a worker on the second; S3 and git for both."""

    cluster: Cluster
    head: Host
    worker: Host
    address: str


@pytest.fixture
def ray_cluster(cluster: Cluster) -> RayCluster:
    head, worker = cluster.add_host(), cluster.add_host()
    switch = cluster.switch
    switch.serve(S3(switch.folder, SWITCH, S3_PORT, **switch.options()))
    address = start_ray(head)
    start_ray(worker, join=address)
    return RayCluster(cluster, head, worker, address)


def start_ray(host: Host, join: str = "", **variables: str) -> str:
    """Start Ray's head on a host, or a worker that joins it; returns the head's address."""
    for _ in range(3):  # Ray gives up after 30 s, which a busy machine may take
        node = Ray(host.folder, host.address, join, port=RAY_PORT, **host.options(variables))
        with contextlib.suppress(pytest.fail.Exception):
            host.serve(node, 120)
            return node.cluster
    raise AssertionError(host.log())
