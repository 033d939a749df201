"""Hosts of a cluster as namespaces of one machine: own addresses, processes, /tmp and names.

    switch     10.77.0.1: a bridge; here run the S3 server and sshd, which has the git repositories
    host1, ... 10.77.0.2, ...: nothing but a cable to the switch

All of it lies in network namespaces of its own: the machine's network stays as it is, and nobody
outside reaches what listens. Needs root, iproute2 and util-linux.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

BIN = Path(sys.executable).parent
ENVIRONMENT = Path(sys.prefix)
NETWORK = "10.77.0"
SWITCH = f"{NETWORK}.1"
S3_PORT, SSH_PORT, RAY_PORT = 8333, 2222, 6379
KEY_ID, SECRET, BUCKET = "key-id-of-the-team", "secret-of-the-team", "trials"
TEMP = "/tmp"  # each host's own, its home and working folder
VARIABLES = {
    "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    "HOME": TEMP,
    "LANG": "C.UTF-8",
    "AWS_ENDPOINT_URL": f"http://{SWITCH}:{S3_PORT}",
    "AWS_ACCESS_KEY_ID": KEY_ID,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_DEFAULT_REGION": "us-east-1",
    "GIT_AUTHOR_NAME": "Test",
    "GIT_AUTHOR_EMAIL": "test@localhost",
    "GIT_COMMITTER_NAME": "Test",
    "GIT_COMMITTER_EMAIL": "test@localhost",
    "DVC_NO_ANALYTICS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A dead host is noticed after some seconds, not after most of a minute.
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "5",
}
# Its own /tmp would hide an environment that is below the machine's: that is put there again.
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
        folder: here go the logs of what runs on it.
        init: the first of its processes; with it all others die.
    """

    name: str
    address: str
    folder: Path
    init: "subprocess.Popen[str]"
    running: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    def command(self, *command: str | Path) -> list[str]:
        (inside,) = subprocess.check_output(
            ["pgrep", "--parent", str(self.init.pid)], text=True
        ).split()
        return ["nsenter", "--target", inside, "--all", f"--wdns={TEMP}", *map(str, command)]

    def start(self, *command: str | Path) -> "subprocess.Popen[bytes]":
        with (self.folder / f"{self.name}.log").open("ab") as output:
            process = subprocess.Popen(
                self.command(*command),
                env=VARIABLES,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self.running.append(process)
        return process

    def run(self, *command: str | Path, text: str = "") -> str:
        """What the command prints; it must succeed."""
        done = subprocess.run(
            self.command(*command),
            env=VARIABLES,
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def kill(self) -> None:
        """As if somebody pulled its plug: SIGKILL to all processes at once."""
        self.init.send_signal(signal.SIGKILL)  # unshare takes the whole namespace along
        self.init.wait(20)
        assert self.init.stdout is not None
        self.init.stdout.close()
        for process in self.running:
            process.wait(20)

    def end_processes(self) -> None:
        """SIGKILL to all that was started on it; the host itself, and its disk, stay."""
        for started in self.running:
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(started.pid)
                for found in [*process.children(recursive=True), process]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        found.kill()
            started.wait(20)
        self.running.clear()

    def log(self) -> str:
        return (self.folder / f"{self.name}.log").read_text(errors="replace")[-3000:]


class Cluster:
    """The switch and the hosts that are plugged into it."""

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
        """A host with the next address, plugged into the switch."""
        number = len(self.hosts)
        host = self._boot(f"host{number}", f"{NETWORK}.{number + 1}")
        inside = host.command()[2]
        plug = ["type", "veth", "peer", "name", "eth0", "netns"]
        self.switch_network("ip", "link", "add", host.name, *plug, inside)
        self.switch_network("ip", "link", "set", host.name, "master", "br0", "up")
        host.run("ip", "address", "add", f"{host.address}/24", "dev", "eth0")
        host.run("ip", "link", "set", "eth0", "up")
        return host

    def switch_network(self, *command: str) -> None:
        """Run a command in the switch's network, but where all processes can be seen."""
        inside = self.switch.command()[2]
        subprocess.run(["nsenter", "--target", inside, "--net", *command], check=True)

    def end(self) -> None:
        for host in self.hosts:
            if host.init.poll() is None:
                host.kill()


def wait_until(what: Callable[[], bool], seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(AssertionError, OSError):
            if what():
                return True
        time.sleep(0.3)
    return False


def serve_s3(cluster: Cluster) -> None:
    """SeaweedFS with an empty bucket."""
    switch = cluster.switch
    key = f'[{{"accessKey": "{KEY_ID}", "secretKey": "{SECRET}"}}]'
    actions = '["Admin", "Read", "Write", "List"]'
    keys = f'{{"identities": [{{"name": "team", "credentials": {key}, "actions": {actions}}}]}}'
    switch.run("sh", "-c", "mkdir s3 && cat > s3/keys.json", text=keys)
    switch.start(
        *("weed", "server", f"-ip={SWITCH}", f"-ip.bind={SWITCH}", "-dir=s3", "-filer"),
        *("-s3", f"-s3.port={S3_PORT}", "-s3.config=s3/keys.json", "-volume.max=20"),
        *("-master.volumeSizeLimitMB=256", "-s3.port.iceberg=0", "-s3.port.lance=0"),
    )
    make = (
        "import botocore.session\ns3 = botocore.session.Session().create_client('s3')\n"
        f"try: s3.create_bucket(Bucket={BUCKET!r})\n"
        "except (s3.exceptions.BucketAlreadyExists, s3.exceptions.BucketAlreadyOwnedByYou): pass\n"
        f"s3.put_object(Bucket={BUCKET!r}, Key='probe', Body=b'')"
    )
    assert wait_until(lambda: switch.run("python", "-c", make) == ""), switch.log()


def serve_git(cluster: Cluster) -> str:
    """An sshd with a bare repository; returns its address. The hosts get the key."""
    switch = cluster.switch
    switch.run("sh", "-c", "mkdir -p sshd /run/sshd && ssh-keygen -qt ed25519 -N '' -f sshd/host")
    switch.run("ssh-keygen", "-qt", "ed25519", "-N", "", "-f", "sshd/key")
    settings = (
        f"ListenAddress {SWITCH}\nPort {SSH_PORT}\nPidFile none\nHostKey {TEMP}/sshd/host\n"
        f"AuthorizedKeysFile {TEMP}/sshd/key.pub\nStrictModes no\nUsePAM no\n"
        "PermitRootLogin prohibit-password\nPasswordAuthentication no\n"
    )
    switch.run("sh", "-c", "cat > sshd/config", text=settings)
    sshd = shutil.which("sshd", path="/usr/sbin:/usr/bin") or "sshd"
    switch.start(sshd, "-D", "-e", "-f", f"{TEMP}/sshd/config")
    switch.run("git", "init", "--quiet", "--bare", "--initial-branch=main", "project.git")
    for host in cluster.hosts[1:]:
        give_key(cluster, host)
    address = f"ssh://root@{SWITCH}:{SSH_PORT}{TEMP}/project.git"
    probe = cluster.hosts[1]
    assert wait_until(lambda: probe.run("git", "ls-remote", address) == ""), switch.log()
    return address


def give_key(cluster: Cluster, host: Host) -> None:
    """Let a host's git in at the switch."""
    key = cluster.switch.run("cat", "sshd/key")
    options = (
        f"IdentityFile {TEMP}/key\nStrictHostKeyChecking no\nUserKnownHostsFile {TEMP}/known\n"
    )
    host.run("sh", "-c", "umask 077 && cat > key", text=key)
    host.run("sh", "-c", "cat > ssh_config", text=options)
    host.run("git", "config", "--global", "core.sshCommand", f"ssh -F {TEMP}/ssh_config")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A switch without hosts."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "unshare", "nsenter", "pgrep"))):
        pytest.skip("needs root, iproute2, util-linux and procps")
    started = Cluster(tmp_path)
    yield started
    started.end()


@pytest.fixture
def ray_cluster(cluster: Cluster) -> Cluster:
    """Two hosts: Ray's head on the first, a worker on the second; S3 and git for both."""
    head, worker = cluster.add_host(), cluster.add_host()
    serve_s3(cluster)
    start_head(head)
    join_ray(worker, head)
    return cluster


def start_head(head: Host) -> None:
    """Start Ray's head on a host."""
    own = [f"--port={RAY_PORT}", "--include-dashboard=false"]
    _start_ray(head, "--head", *own)


def join_ray(host: Host, head: Host, **variables: str) -> None:
    """Start Ray's worker on a host, with these variables in its environment."""
    _start_ray(host, f"--address={head.address}:{RAY_PORT}", **variables)


def _start_ray(host: Host, *options: str, **variables: str) -> None:
    common = ["--num-cpus=1", f"--object-store-memory={2**27}", "--disable-usage-stats", "--block"]
    own = [f"--node-ip-address={host.address}", *common]
    own_variables = [f"{name}={value}" for name, value in variables.items()]
    file = host.folder / f"{host.name}.log"
    said = file.stat().st_size if file.exists() else 0
    started = b"Ray runtime started"

    def ready() -> bool:
        return started in file.read_bytes()[said:]

    for _ in range(3):  # Ray gives up after 30 s, which a busy machine may take
        process = host.start("env", *own_variables, "ray", "start", *options, *own)
        wait_until(lambda: ready() or process.poll() is not None, 120)  # noqa: B023
        if ready():
            return
        host.end_processes()
    raise AssertionError(host.log())
