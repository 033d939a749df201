"""Stages that are killed, stopped with Ctrl-C or started twice: nothing is lost or half-written."""

import re
import signal
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def epochs_kept(project) -> int:
    """The number of finished epochs that an unfinished training could go on from."""
    kept = project.path(".resume").glob("*/[0-9]*")
    return max((int(state.name) for state in kept), default=0)


def results(project) -> dict[str, bytes]:
    """All that a training and its evaluation leave, but for the time that it took."""
    files = [
        path
        for folder in ("metrics/train", "metrics/evaluate", "models", "data/prepared")
        for path in sorted(project.path(folder).rglob("*"))
        if path.is_file()
    ]
    return {str(path.relative_to(project.folder)): path.read_bytes() for path in files}


def test_a_training_killed_twice_ends_as_if_it_had_run_through(fresh, finished):
    first = fresh.start("dvc", "repro")
    first.wait_until(lambda: epochs_kept(fresh) >= 1)
    first.signal(signal.SIGKILL)
    assert first.wait().rc == -signal.SIGKILL
    assert first.leaves_nothing_behind()

    second = fresh.start("dvc", "repro")
    # While a state is being written, if that can be met.
    second.wait_until(
        lambda: (
            epochs_kept(fresh) >= 3
            or (epochs_kept(fresh) >= 2 and list(fresh.path(".resume").glob("*/unfinished")))
        )
    )
    second.signal(signal.SIGKILL)
    assert "An unfinished training goes on after" in second.wait().text
    assert second.leaves_nothing_behind()
    (state,) = fresh.path(".resume").iterdir()
    (state / "unfinished").mkdir(exist_ok=True)
    (state / "unfinished/model.keras").write_bytes(b"PK half a model")

    text = fresh.dvc("repro").succeeds()
    assert re.search(r"An unfinished training goes on after .*[234]", text)
    assert not list(fresh.path(".resume").iterdir())
    expected = results(finished.project)
    assert "models/classifier/model.onnx" in expected
    found = results(fresh)
    assert [name for name in expected if found.get(name) != expected[name]] == []
    assert set(found) == set(expected)


def interrupt(project, stage: str, running) -> None:
    """Press Ctrl-C and check that all ends in an orderly way."""
    running.signal(signal.SIGINT)
    outcome = running.wait()
    outcome.fails_with(f"failed to reproduce '{stage}'")
    assert outcome.text.count("Stopped. `dvc repro` starts this stage again.") == 1
    assert running.leaves_nothing_behind()
    for unfinished in ("data/prepared.tmp", "data/synthetic/images.zip.part"):
        assert not project.path(unfinished).exists()


def test_ctrl_c_while_synthesizing(fresh):
    fresh.set(**{"synthesize.images_per_class": 30})
    running = fresh.start("dvc", "repro", "synthesize")
    running.wait_until(lambda: "synthesize:   0%" in running.text)
    interrupt(fresh, "synthesize", running)
    assert not fresh.path("data/synthetic/images.zip").exists()
    fresh.dvc("repro", "synthesize").succeeds()


def test_ctrl_c_while_preprocessing(fresh, write_photos):
    write_photos(fresh.path("data/large"), 2000)
    fresh.set(dataset="large")
    running = fresh.start("dvc", "repro", "preprocess")
    running.wait_until(lambda: "preprocess:   0%" in running.text)
    interrupt(fresh, "preprocess", running)
    assert not fresh.path("data/prepared").exists()
    fresh.dvc("repro", "preprocess").succeeds()


def test_ctrl_c_while_training(fresh):
    running = fresh.start("dvc", "repro", "train")
    running.wait_until(lambda: epochs_kept(fresh) >= 1)
    interrupt(fresh, "train", running)
    assert not fresh.path("models/model.keras").exists()
    assert "An unfinished training goes on after" in fresh.dvc("repro", "train").succeeds()


def test_ctrl_c_while_tensorflow_is_loaded(done):
    done.set(**{"train.seed": 2})
    running = done.start("dvc", "repro", "train")
    running.wait_until(lambda: done.has_noted("tensorflow"))
    interrupt(done, "train", running)


def test_ctrl_c_while_evaluating(done):
    done.set(**{"evaluate.mistakes_shown": 5})
    running = done.start("dvc", "repro")
    running.wait_until(lambda: "evaluate:   0%" in running.text)
    interrupt(done, "evaluate", running)
    done.dvc("repro").succeeds()
    assert done.path("report.html").exists()


def test_the_second_of_two_pipelines_stops_and_names_the_first(fresh):
    first = fresh.start("dvc", "repro", "preprocess")
    first.wait_until(lambda: fresh.has_noted("-m stages.preprocess"))
    first.signal(signal.SIGSTOP)  # so that it is surely still there
    try:
        fresh.dvc("repro", "preprocess").fails_with("busy", f"(PID {first.process.pid})")
    finally:
        first.signal(signal.SIGCONT)
    first.wait().succeeds()
    assert Path(fresh.path("data/prepared/images.npy")).exists()
    assert "up to date" in fresh.dvc("repro", "preprocess").succeeds()
