"""Remotes on S3 and SSH servers: the commands of docs/remote.md, with the real DVC."""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.harness import (
    KEY_ID,
    LOCALHOST,
    ROOT,
    S3,
    SECRET,
    SSH,
    copy_checkout,
    object_hash,
)
from tests.remote.conftest import Page, Repository, random_bytes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class SSHStore(SSH):
    """An SSH server with a folder `store` for DVC."""

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def names(self) -> list[str]:
        return [path.as_posix() for path in self.store.rglob("*") if object_hash(path.as_posix())]

    def read(self, name: str) -> bytes:
        return Path(name).read_bytes()

    def empty(self) -> None:
        shutil.rmtree(self.store, ignore_errors=True)
        self.store.mkdir()


@dataclass
class Remote:
    """A repository with a committed remote on a running server, and keys in config.local.

    Attributes:
        secrets: what must not get into git.
        address: the part of .dvc/config that names the server's port.
        refused: what DVC says if nobody listens at a port.
        killed: what DVC says if the server is killed during a push.
    """

    repository: Repository
    server: S3 | SSHStore
    secrets: list[str]
    address: Callable[[int], str]
    refused: Callable[[int], str]
    killed: tuple[str, str]
    port: int

    def objects(self) -> dict[str, bytes]:
        """What is stored, by the hash in its name."""
        return {str(object_hash(name)): self.server.read(name) for name in self.server.names()}

    def has_only_complete_objects(self) -> bool:
        """DVC trusts the name: it would pull half a file as the file."""
        return all(
            hashlib.md5(content).hexdigest() == name.removesuffix(".dir")
            for name, content in self.objects().items()
        )

    def pushes_and_pulls(self) -> None:
        """A fresh clone gets the same bytes, and DVC says so."""
        self.repository.dvc("push").succeeds()
        assert self.repository.is_in_sync()
        assert self.has_only_complete_objects()
        clone = self.repository.clone("clone")
        assert clone.files() != self.repository.files()
        clone.take_keys(self.repository)
        clone.dvc("pull").succeeds()
        assert clone.files() == self.repository.files()
        assert clone.is_in_sync()
        assert "up to date" in clone.dvc("status").succeeds()

    def refuses_push_and_pull(self, said: str) -> None:
        self.repository.dvc("push").fails_with(said, within=60)
        assert not self.server.names()
        shutil.rmtree(self.repository.path(".dvc/cache"))
        self.repository.dvc("pull").fails_with(said, within=60)


@pytest.fixture(scope="session")
def s3_set_up(template: Repository, running_s3: S3, page: Page, tmp_path_factory) -> Repository:
    repository = template.copy(tmp_path_factory.mktemp("s3-set-up") / "repository")
    example = ("https://s3.example.org:9000", running_s3.url)
    repository.follow(page("S3 elsewhere: MinIO, SeaweedFS"), example)
    repository.commit("A remote")
    repository.follow(page("Keys for S3"), ("YOUR-KEY-ID", KEY_ID), ("YOUR-SECRET", SECRET))
    return repository


@pytest.fixture(scope="session")
def running_ssh(tmp_path_factory) -> Iterator[SSHStore]:
    server = SSHStore(tmp_path_factory.mktemp("ssh"))
    server.empty()
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def ssh_set_up(
    template: Repository, running_ssh: SSHStore, page: Page, tmp_path_factory
) -> Repository:
    repository = template.copy(tmp_path_factory.mktemp("ssh-set-up") / "repository")
    add, *local = page("SSH")
    example = ("ssh://store.example.org/srv/signs", f"ssh://{LOCALHOST}{running_ssh.store}")
    repository.follow([add], example)
    repository.dvc("remote", "modify", "store", "port", str(running_ssh.port)).succeeds()
    repository.commit("A remote")
    key = ("~/.ssh/id_ed25519", f"{running_ssh.folder}/key")
    repository.follow(local, ("YOUR-USER", running_ssh.user), key)
    return repository


@pytest.fixture
def s3_remote(s3_set_up: Repository, s3: S3, tmp_path: Path) -> Iterator[Remote]:
    yield Remote(
        s3_set_up.copy(tmp_path / "repository"),
        s3,
        [KEY_ID, SECRET],
        lambda port: f"http://{LOCALHOST}:{port}",
        lambda port: f'Could not connect to the endpoint URL: "http://{LOCALHOST}:{port}',
        ("Could not connect to the endpoint URL", "files failed to upload"),
        s3.ports["s3"],
    )
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture
def ssh_remote(ssh_set_up: Repository, running_ssh: SSHStore, tmp_path: Path) -> Iterator[Remote]:
    yield Remote(
        ssh_set_up.copy(tmp_path / "repository"),
        running_ssh,
        ["keyfile", "user =", f"{running_ssh.folder}/key"],
        lambda port: f"port = {port}",
        lambda port: f"Connect call failed ('{LOCALHOST}', {port})",
        ("failed to transfer", "Connection not open"),
        running_ssh.port,
    )
    shutil.rmtree(tmp_path, ignore_errors=True)
    running_ssh.empty()


@pytest.fixture(params=["s3", "ssh"])
def remote(request) -> Remote:
    found: Remote = request.getfixturevalue(f"{request.param}_remote")
    return found


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_no_key_gets_into_git(remote: Remote) -> None:
    team = remote.repository
    team.run("git", "add", "--all").succeeds()
    assert team.run("git", "status", "--porcelain").succeeds() == ""
    for secret in remote.secrets:
        assert secret in team.path(".dvc/config.local").read_text()
        assert team.run("git", "grep", "--fixed-strings", secret).rc == 1
        assert team.run("git", "log", "--all", "--oneline", "-S", secret).succeeds() == ""
    assert "://" in team.run("git", "grep", "url = ").succeeds()


def test_no_server(remote: Remote, nobody_listens: int) -> None:
    old, new = remote.address(remote.port), remote.address(nobody_listens)
    change(remote.repository.path(".dvc/config"), old, new)
    remote.repository.dvc("push").fails_with(remote.refused(nobody_listens), within=60)


def test_a_server_killed_during_a_push(remote: Remote) -> None:
    """Some objects were stored and others not; the next push completes them."""
    number, team = 8, remote.repository
    team.path("many").mkdir()
    for seed in range(number):
        team.path(f"many/{seed}").write_bytes(random_bytes(1000 + seed, 5_000_000))
    team.dvc("add", "--quiet", "many").succeeds()
    team.commit("Much to push")

    push = team.start("dvc", "push", "--jobs", "4", "many.dvc")
    push.wait_until(remote.server.names)
    remote.server.kill()
    push.wait().fails_with(*remote.killed, within=60)

    remote.server.start()
    assert 0 < len(remote.server.names()) < number
    # The list of the folder comes last: nobody pulls a folder that is incomplete.
    assert not any(name.endswith(".dir") for name in remote.objects())
    assert remote.has_only_complete_objects()
    assert not team.is_in_sync()
    remote.pushes_and_pulls()
    # Beside it a file, a folder of 30, and what the stage made.
    assert len(remote.server.names()) == number + 1 + 1 + 30 + 1 + 1


def test_keys_from_the_environment(s3_remote: Remote) -> None:
    team, clone = s3_remote.repository, s3_remote.repository.clone("clone")
    team.path(".dvc/config.local").unlink()
    for repository in (team, clone):
        repository.environment |= {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET}
    team.dvc("push", "large.bin").succeeds()
    assert len(s3_remote.server.names()) == 1
    clone.dvc("pull", "large.bin").succeeds()
    assert clone.path("large.bin").read_bytes() == team.path("large.bin").read_bytes()
    for repository in (team, clone):
        assert not repository.path(".dvc/config.local").exists()


@pytest.mark.parametrize(
    ("secret", "said"),
    [
        ("another-secret", "Forbidden: An error occurred (403)"),
        (None, "Unable to locate credentials"),
    ],
)
def test_a_wrong_s3_key_is_refused(s3_remote, secret, said):
    team = s3_remote.repository
    local = team.path(".dvc/config.local")
    if secret:
        change(local, SECRET, secret)
    else:
        local.unlink()
        # Otherwise botocore asks the address at which AWS machines find their keys.
        team.environment["AWS_EC2_METADATA_DISABLED"] = "true"
    s3_remote.refuses_push_and_pull(said)


def test_a_wrong_ssh_key_is_refused(ssh_remote: Remote) -> None:
    server = ssh_remote.server
    config = ssh_remote.repository.path(".dvc/config.local")
    change(config, f"{server.folder}/key", f"{server.folder}/no_key")
    missing = f"No such file or directory: '{server.folder}/no_key'"
    ssh_remote.repository.dvc("push").fails_with(missing, within=60)
    change(config, f"{server.folder}/no_key", f"{server.folder}/other_key")
    ssh_remote.refuses_push_and_pull(
        f"Permission denied for user {server.user} on host {LOCALHOST}"
    )


def test_only_the_ssh_command_detects_a_false_server(ssh_remote: Remote) -> None:
    """DVC does not check the server's host key: docs/remote.md says so and how to check it."""
    team, ssh = ssh_remote.repository, ssh_remote.server
    folder = team.home / ".ssh"
    folder.mkdir()
    false, true = (
        f"[127.0.0.1]:{ssh.port} {(ssh.folder / name).read_text()}"
        for name in ("other_key.pub", "host_key.pub")
    )
    known = folder / "known_hosts"
    known.write_text(false)
    team.dvc("push", "large.bin").succeeds()
    assert len(ssh.names()) == 1

    advice = "ProxyCommand ssh -W localhost:22 store.example.org"
    assert advice in (ROOT / "docs/remote.md").read_text()
    options = f"-F none -i {ssh.folder}/key -l {ssh.user} -p {ssh.port} -o BatchMode=yes"
    check = f"-o StrictHostKeyChecking=yes -o UserKnownHostsFile={known}"
    proxy = advice.replace("ssh -W localhost:22", f"ssh {options} {check} -W 127.0.0.1:{ssh.port}")
    (folder / "config").write_text(
        f"Host signs-store\n    {proxy.replace('store.example.org', '127.0.0.1')}\n"
    )
    change(team.path(".dvc/config"), "ssh://127.0.0.1", "ssh://signs-store")
    ssh.empty()
    team.dvc("push", "large.bin").fails_with("Connection lost", within=60)
    assert not ssh.names()
    known.write_text(true)
    team.dvc("push", "large.bin").succeeds()
    assert len(ssh.names()) == 1


def write_outputs(project) -> list[str]:
    """Write a file into each output of the pipeline that is missing; the names of the stages."""
    stages = yaml.safe_load(project.path("dvc.yaml").read_text())["stages"]
    deps = [dep for stage in stages.values() for dep in stage["deps"]]
    for stage in stages.values():
        outs = [next(iter(out)) if isinstance(out, dict) else out for out in stage.get("outs", [])]
        for out in outs:
            inside = [dep for dep in deps if dep.startswith(f"{out}/")]
            for name in inside or [out if "." in out else f"{out}/content"]:
                project.path(name).parent.mkdir(parents=True, exist_ok=True)
                if not project.path(name).exists():
                    project.path(name).write_text(f"{name}\n")
    return list(stages)


def test_this_project_without_the_real_photos(blank, s3_set_up, s3, page):
    """With this project's dvc.yaml and .dvc files: stages travel, and missing sets are named."""
    project = blank  # for its environment; this project's files replace its own
    shutil.rmtree(project.folder)
    copy_checkout(project.folder)
    stages = write_outputs(project)
    project.run("git", "init", "--quiet", "-b", "main").succeeds()
    project.dvc("commit", "--quiet", "--force", *stages).succeeds()
    remote = s3_set_up.path(".dvc/config").read_text().split("['remote", 1)[1]
    with project.path(".dvc/config").open("a") as config:  # its only section is [core]
        config.write(f"    remote = store\n['remote{remote}")
    project.commit("Outputs of a run, and a remote")
    project.take_keys(s3_set_up)
    push, pull = page("Push and pull")
    project.follow([push])
    clone = project.clone("clone")
    clone.take_keys(project)
    said = ("Checkout failed for following targets", "data/gtsrb\n", "data/signs\n")
    clone.dvc("pull").fails_with(*said, within=180)  # after it has pulled all the rest
    shutil.rmtree(clone.path("data"))
    clone.follow([pull])
    assert clone.files() == project.files()
