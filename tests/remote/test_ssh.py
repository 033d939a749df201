"""A remote on an SSH server: the commands of docs/remote.md, with a real sshd and the real DVC."""

import shutil

import pytest

from tests.harness import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="session")
def set_up(template, running_ssh, page, tmp_path_factory):
    """A repository with the remote in .dvc/config, committed, and the key in config.local."""
    server = running_ssh
    repository = template.copy(tmp_path_factory.mktemp("ssh-set-up") / "repository")
    add, *local = page("SSH")
    repository.follow(
        [add], ("ssh://store.example.org/srv/signs", f"ssh://127.0.0.1{server.store}")
    )
    repository.dvc("remote", "modify", "store", "port", str(server.port)).succeeds()
    repository.commit("A remote")
    repository.follow(
        local, ("YOUR-USER", server.user), ("~/.ssh/id_ed25519", f"{server.folder}/key")
    )
    return repository


@pytest.fixture
def team(set_up, ssh, tmp_path):
    """A copy of that repository for one test."""
    yield set_up.copy(tmp_path / "repository")
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture
def shared(team, ssh, steps):
    return steps(team, ssh)


def change(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_what_is_pushed_comes_back(shared):
    shared.share_everything()


def test_no_key_gets_into_git(team, ssh):
    assert "keyfile" in team.path(".dvc/config.local").read_text()
    team.run("git", "add", "--all").succeeds()
    assert team.run("git", "status", "--porcelain").succeeds() == ""
    for private in ("keyfile", "user =", str(ssh.folder / "key")):
        assert team.run("git", "grep", "--fixed-strings", private).rc == 1
    assert "ssh://127.0.0.1" in team.run("git", "grep", "url = ").succeeds()


def test_a_wrong_key_is_refused(shared, team, ssh):
    change(team.path(".dvc/config.local"), f"{ssh.folder}/key", f"{ssh.folder}/other_key")
    shared.refuses_push_and_pull(f"Permission denied for user {ssh.user} on host 127.0.0.1")


def test_a_key_file_that_is_not_there(team, ssh):
    change(team.path(".dvc/config.local"), f"{ssh.folder}/key", f"{ssh.folder}/no_key")
    team.dvc("push").fails_with(f"No such file or directory: '{ssh.folder}/no_key'")


def test_no_server(shared, team, ssh, nobody_listens):
    change(team.path(".dvc/config"), f"port = {ssh.port}", f"port = {nobody_listens}")
    shared.refuses_push_and_pull(f"Connect call failed ('127.0.0.1', {nobody_listens})")


def test_only_the_ssh_command_detects_a_false_server(team, ssh):
    """DVC does not check the server's host key: docs/remote.md says so and how to check it."""
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
    team.dvc("push", "large.bin").fails_with("Connection lost")
    assert not ssh.names()
    known.write_text(true)
    team.dvc("push", "large.bin").succeeds()
    assert len(ssh.names()) == 1


def test_a_server_killed_during_a_push(shared):
    shared.survive_a_kill_during_a_push("failed to transfer", "Connection not open")
