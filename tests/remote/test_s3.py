"""The team's remote in an S3 bucket: docs/remote.md as it stands, with a real server and DVC."""

import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
ID, SECRET = "key-id-of-the-team", "secret-of-the-team"
# Outputs of the pipeline that DVC keeps; what they hold does not matter here.
OUTPUTS = {
    "synthesize": [
        "data/synthetic/images.zip",
        "data/ood/images.zip",
        "data/auxiliary_outliers/a.zip",
    ],
    "preprocess": ["data/prepared/images.npy"],
    "train": ["models/classifier/model.onnx", "models/model.keras"],
    "evaluate": ["data/predictions.csv", "report.html"],
}


@pytest.fixture(scope="session")
def set_up(template, running_s3, page, tmp_path_factory):
    """A repository with the remote in .dvc/config, committed, and the keys in config.local."""
    repository = template.copy(tmp_path_factory.mktemp("s3-set-up") / "repository")
    repository.follow(
        page("S3 elsewhere: MinIO, SeaweedFS"), ("https://s3.example.org:9000", running_s3.url)
    )
    repository.commit("A remote")
    repository.follow(page("Keys for S3"), ("YOUR-KEY-ID", ID), ("YOUR-SECRET", SECRET))
    return repository


@pytest.fixture
def team(set_up, s3, tmp_path):
    """Such a repository of one's own."""
    yield set_up.copy(tmp_path / "repository")
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture
def shared(team, s3, steps):
    return steps(team, s3)


def test_what_is_pushed_comes_back(shared):
    assert not shared.repository.is_in_sync()
    shared.push()
    assert shared.server.number_of_objects() == 1 + 30 + 1 + 1
    shared.pull_into_a_fresh_clone()


def test_keys_from_the_environment(team, s3):
    clone = team.clone("clone")
    team.path(".dvc/config.local").unlink()
    for repository in (team, clone):
        repository.environment |= {"AWS_ACCESS_KEY_ID": ID, "AWS_SECRET_ACCESS_KEY": SECRET}
    team.dvc("push", "large.bin").succeeds()
    assert s3.number_of_objects() == 1
    clone.dvc("pull", "large.bin").succeeds()
    assert clone.path("large.bin").read_bytes() == team.path("large.bin").read_bytes()
    for repository in (team, clone):
        assert not repository.path(".dvc/config.local").exists()


def test_no_key_gets_into_git(team):
    assert SECRET in team.path(".dvc/config.local").read_text()
    team.run("git", "add", "--all").succeeds()
    assert team.run("git", "status", "--porcelain").succeeds() == ""
    for key in (ID, SECRET):
        assert team.run("git", "grep", "--fixed-strings", key).rc == 1
        assert team.run("git", "log", "--all", "--oneline", "-S", key).succeeds() == ""
    assert "s3://my-bucket" in team.run("git", "grep", "url = ").succeeds()


@pytest.mark.parametrize(
    ("key_id", "secret", "said"),
    [
        (ID, "another-secret", "Forbidden: An error occurred (403)"),
        ("another-key-id", SECRET, "Forbidden: An error occurred (403)"),
        (None, None, "Unable to locate credentials"),
    ],
)
def test_a_wrong_key_is_refused(team, s3, key_id, secret, said):
    local = team.path(".dvc/config.local")
    if key_id:
        local.write_text(local.read_text().replace(ID, key_id).replace(SECRET, secret))
    else:
        local.unlink()
        # Else botocore asks the address at which machines of AWS find theirs.
        team.environment["AWS_EC2_METADATA_DISABLED"] = "true"
    team.dvc("push").fails_with(said)
    assert s3.number_of_objects() == 0
    shutil.rmtree(team.path(".dvc/cache"))
    team.dvc("pull").fails_with(said)


def test_no_server(team, s3, nobody_listens):
    address = f"http://127.0.0.1:{nobody_listens}"
    config = team.path(".dvc/config")
    config.write_text(config.read_text().replace(s3.url, address))
    team.dvc("push").fails_with(f'Could not connect to the endpoint URL: "{address}', within=60)


def test_a_server_killed_during_a_push(shared):
    shared.push_to_a_server_that_is_killed(
        "Could not connect to the endpoint URL", "files failed to upload"
    )
    shared.push()
    shared.pull_into_a_fresh_clone()


def test_this_project_without_the_real_photos(blank, set_up, s3, page):
    """This project's dvc.yaml and .dvc files: stages travel, and what nobody has is named."""
    project = blank  # for its environment; its files give way to those of this project
    shutil.rmtree(project.folder)
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            project.path(name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, project.path(name))
    for files in OUTPUTS.values():
        for name in files:
            project.path(name).parent.mkdir(parents=True, exist_ok=True)
            project.path(name).write_text(f"{name}\n")
    project.run("git", "init", "--quiet", "-b", "main").succeeds()
    project.dvc("commit", "--quiet", "--force", *OUTPUTS).succeeds()
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
    for files in OUTPUTS.values():
        for name in files:
            assert clone.path(name).read_text() == f"{name}\n"
