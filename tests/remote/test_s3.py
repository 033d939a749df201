"""A remote in an S3 bucket: the commands of docs/remote.md, with a real server and the real DVC."""

import shutil
import subprocess

import pytest
import yaml

from tests.harness import KEY_ID, ROOT, SECRET

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="session")
def set_up(template, running_s3, page, tmp_path_factory):
    """A repository with the remote in .dvc/config, committed, and the keys in config.local."""
    repository = template.copy(tmp_path_factory.mktemp("s3-set-up") / "repository")
    repository.follow(
        page("S3 elsewhere: MinIO, SeaweedFS"), ("https://s3.example.org:9000", running_s3.url)
    )
    repository.commit("A remote")
    repository.follow(page("Keys for S3"), ("YOUR-KEY-ID", KEY_ID), ("YOUR-SECRET", SECRET))
    return repository


@pytest.fixture
def team(set_up, s3, tmp_path):
    """A copy of that repository for one test."""
    yield set_up.copy(tmp_path / "repository")
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture
def shared(team, s3, steps):
    return steps(team, s3)


def test_what_is_pushed_comes_back(shared):
    shared.share_everything()


def test_keys_from_the_environment(team, s3):
    clone = team.clone("clone")
    team.path(".dvc/config.local").unlink()
    for repository in (team, clone):
        repository.environment |= {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET}
    team.dvc("push", "large.bin").succeeds()
    assert len(s3.names()) == 1
    clone.dvc("pull", "large.bin").succeeds()
    assert clone.path("large.bin").read_bytes() == team.path("large.bin").read_bytes()
    for repository in (team, clone):
        assert not repository.path(".dvc/config.local").exists()


def test_no_key_gets_into_git(team):
    assert SECRET in team.path(".dvc/config.local").read_text()
    team.run("git", "add", "--all").succeeds()
    assert team.run("git", "status", "--porcelain").succeeds() == ""
    for key in (KEY_ID, SECRET):
        assert team.run("git", "grep", "--fixed-strings", key).rc == 1
        assert team.run("git", "log", "--all", "--oneline", "-S", key).succeeds() == ""
    assert "s3://my-bucket" in team.run("git", "grep", "url = ").succeeds()


@pytest.mark.parametrize(
    ("key_id", "secret", "said"),
    [
        (KEY_ID, "another-secret", "Forbidden: An error occurred (403)"),
        ("another-key-id", SECRET, "Forbidden: An error occurred (403)"),
        (None, None, "Unable to locate credentials"),
    ],
)
def test_a_wrong_key_is_refused(shared, key_id, secret, said):
    team = shared.repository
    local = team.path(".dvc/config.local")
    if key_id:
        local.write_text(local.read_text().replace(KEY_ID, key_id).replace(SECRET, secret))
    else:
        local.unlink()
        # Otherwise botocore asks the address at which AWS machines find their keys.
        team.environment["AWS_EC2_METADATA_DISABLED"] = "true"
    shared.refuses_push_and_pull(said)


def test_no_server(team, s3, nobody_listens):
    address = f"http://127.0.0.1:{nobody_listens}"
    config = team.path(".dvc/config")
    config.write_text(config.read_text().replace(s3.url, address))
    team.dvc("push").fails_with(f'Could not connect to the endpoint URL: "{address}', within=60)


def test_a_server_killed_during_a_push(shared):
    said = ("Could not connect to the endpoint URL", "files failed to upload")
    shared.survive_a_kill_during_a_push(*said)


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


def test_this_project_without_the_real_photos(blank, set_up, s3, page):
    """With this project's dvc.yaml and .dvc files: stages travel, and missing sets are named."""
    project = blank  # for its environment; this project's files replace its own
    shutil.rmtree(project.folder)
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            project.path(name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, project.path(name))
    stages = write_outputs(project)
    project.run("git", "init", "--quiet", "-b", "main").succeeds()
    project.dvc("commit", "--quiet", "--force", *stages).succeeds()
    remote = set_up.path(".dvc/config").read_text().split("['remote", 1)[1]
    with project.path(".dvc/config").open("a") as config:  # its only section is [core]
        config.write(f"    remote = store\n['remote{remote}")
    project.commit("Outputs of a run, and a remote")
    project.take_keys(set_up)
    push, pull = page("Push and pull")
    project.follow([push])
    clone = project.clone("clone")
    clone.take_keys(project)
    clone.dvc("pull").fails_with(
        "Checkout failed for following targets", "data/gtsrb\n", "data/signs\n"
    )
    shutil.rmtree(clone.path("data"))
    clone.follow([pull])
    assert clone.files() == project.files()
