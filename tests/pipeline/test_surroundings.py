"""Machines that are set up in another way than ours: the pipeline runs, or says what is wrong."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import Outcome
from tests.pipeline.test_interrupted import results

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

WITHOUT_NETWORK = ["unshare", "--map-root-user", "--net"]
TEN_YEARS = 10 * 365 * 24 * 3600


@pytest.fixture
def other_disk() -> Iterator[Path]:
    """A folder on another disk than the clones."""
    folder = Path(f"/dev/shm/cache of {os.getpid()}")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("there is no /dev/shm")
    yield folder
    shutil.rmtree(folder)


def test_the_pipeline_in_another_world_killed_in_each_stage(blank, finished, tmp_path, other_disk):
    project = blank.copy(tmp_path / "Ünï cödé dir" / "Zürich 中")
    assert other_disk.stat().st_dev != project.folder.stat().st_dev
    project.environment |= {"LC_ALL": "C", "LANG": "C"}
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        project.environment |= dict.fromkeys((name, name.upper()), "http://127.0.0.1:9")
    shutil.move(project.path(".dvc/cache"), other_disk / "cache")
    project.dvc("config", "--local", "cache.dir", str(other_disk / "cache")).succeeds()
    project.dvc("config", "--local", "cache.type", "symlink").succeeds()
    project.dvc("checkout", "--relink", "tiny.dvc").succeeds()
    assert project.path("data/tiny/0/000.png").is_symlink()
    later = time.time() + TEN_YEARS  # the same as a clock in the past
    for file in (
        file for room in ("signs", "stages", "data") for file in project.path(room).rglob("*")
    ):
        os.utime(file, (later, later), follow_symlinks=False)

    isolated = not subprocess.run([*WITHOUT_NETWORK, "true"], check=False).returncode
    with_umask = ["sh", "-c", 'umask 077; exec "$@"', "sh"]
    dvc = [*(WITHOUT_NETWORK if isolated else []), *with_umask, "dvc"]
    for stage, sign in {
        "synthesize": "synthesize: ",
        "preprocess": "preprocess: ",
        "evaluate": "predict tiny: ",
        "report": "Running stage 'report'",
    }.items():
        running = project.start(*dvc, "repro")
        running.wait_until(lambda stage=stage: project.has_noted(f"-m stages.{stage}"))
        running.wait_until(lambda sign=sign, running=running: sign in running.text)
        running.signal(signal.SIGKILL)
        assert running.wait().rc == -signal.SIGKILL
        assert running.leaves_nothing_behind()

    project.run(*dvc, "repro").succeeds()
    assert project.path("models/classifier/model.onnx").is_symlink()
    assert project.path("metrics/evaluate/metrics.json").stat().st_mode & 0o077 == 0
    assert results(project) == results(finished.project)
    assert "up to date" in project.run(*dvc, "repro").succeeds()
    shutil.rmtree(tmp_path)


@pytest.fixture
def mount() -> Iterator[Callable[..., None]]:
    """Mount something at a folder, for this test."""
    mounted: list[Path] = []

    def at(folder: Path, *how: str) -> None:
        command = ["mount", *how, str(folder)]
        if (
            os.geteuid() != 0
            or subprocess.run(command, capture_output=True, check=False).returncode
        ):
            pytest.skip("nothing can be mounted here")
        mounted.append(folder)

    yield at
    for folder in mounted:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize(
    ("stage", "folder", "out"),
    [
        ("synthesize", "data", "ood"),
        ("train", "models", "classifier"),
        ("evaluate", "metrics", "evaluate"),
        ("report", "metrics", "report"),
    ],
)
def test_a_full_disk_is_named_by_each_stage(done, mount, tmp_path, stage, folder, out):
    full, aside = done.path(folder), tmp_path / "aside"
    shutil.copytree(full, aside, ignore=shutil.ignore_patterns(out))
    pages = sum(-(-file.stat().st_size // 4096) for file in aside.rglob("*") if file.is_file())
    mount(full, "-t", "tmpfs", "-o", f"size={4 * (pages + 2)}k", "tmpfs")  # 8 kB are free
    shutil.copytree(aside, full, dirs_exist_ok=True)
    done.set(**{"train.compact.epochs": 1})
    done.stage(stage).fails_with("the disk is full", "starts this stage anew")
    assert not list(full.rglob("*.part"))


def test_a_read_only_checkout_is_named(done, mount):
    done.set(**{"evaluate.mistakes_shown": 5})
    mount(done.folder, "--bind", "-o", "ro", str(done.folder))
    for command in (["python", "-m", "stages.report"], ["dvc", "repro"]):
        # Not by `done`: it writes into its folder.
        ended = subprocess.run(
            command,
            cwd=done.folder,
            env=done.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        outcome = Outcome(ended.returncode, ended.stdout + ended.stderr)
        outcome.fails_with("ERROR: ", "Read-only file system")
