"""Stages that are killed, stopped with Ctrl-C or started twice: nothing is lost or half-written."""

import re
import shutil
import signal

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def epochs_kept(project) -> int:
    """The number of finished epochs from which an unfinished training can continue."""
    kept = project.path(".resume").glob("*/[0-9]*")
    return max((int(state.name) for state in kept), default=0)


def is_writing_a_state(project) -> bool:
    return any(project.path(".resume").glob("*/unfinished"))


def results(project) -> dict[str, bytes]:
    """All that training and evaluation leave, except the time that they took."""
    files = [
        path
        for folder in ("metrics/train", "metrics/evaluate", "models", "data/prepared")
        for path in sorted(project.path(folder).rglob("*"))
        if path.is_file()
    ]
    return {str(path.relative_to(project.folder)): path.read_bytes() for path in files}


def interrupt(project, stage: str, condition) -> str:
    """Press Ctrl-C in a stage; it must say so once and leave neither processes nor half files."""
    running = project.start("dvc", "repro", stage)
    running.wait_until(lambda: condition(running))
    running.signal(signal.SIGINT)
    outcome = running.wait()
    outcome.fails_with(f"failed to reproduce '{stage}'")
    assert outcome.text.count("Stopped. `dvc repro` starts this stage again.") == 1
    assert running.leaves_nothing_behind()
    assert not project.path("data/prepared.tmp").exists()
    assert not list(project.path("data").rglob("*.part"))
    return outcome.text


def test_what_was_stopped_and_killed_ends_as_if_it_had_run_through(fresh, finished):
    interrupt(fresh, "train", lambda _: epochs_kept(fresh) >= 1)
    assert not fresh.path("models/model.keras").exists()
    running = fresh.start("dvc", "repro")
    # While a state is being written, if that moment can be met.
    running.wait_until(
        lambda: epochs_kept(fresh) >= 3 or (epochs_kept(fresh) >= 2 and is_writing_a_state(fresh))
    )
    running.signal(signal.SIGKILL)
    outcome = running.wait()
    assert outcome.rc == -signal.SIGKILL
    assert "An unfinished training goes on after" in outcome.text
    assert running.leaves_nothing_behind()
    (state,) = fresh.path(".resume").iterdir()
    (state / "unfinished").mkdir(exist_ok=True)
    (state / "unfinished/model.keras").write_bytes(b"PK half a model")

    text = interrupt(fresh, "evaluate", lambda running: "predict tiny:   0%" in running.text)
    assert re.search(r"An unfinished training goes on after .*[234]", text)
    assert not list(fresh.path(".resume").iterdir())
    fresh.dvc("repro").succeeds()
    found, expected = results(fresh), results(finished.project)
    assert "models/classifier/model.onnx" in expected
    assert [name for name in expected if found.get(name) != expected[name]] == []
    assert set(found) == set(expected)


def test_ctrl_c_while_synthesizing(fresh):
    fresh.set(**{"synthesize.images_per_class": 30})
    interrupt(fresh, "synthesize", lambda running: "synthesize:   0%" in running.text)
    assert not fresh.path("data/synthetic/images.zip").exists()
    fresh.set(**{"synthesize.images_per_class": 2})
    fresh.dvc("repro", "synthesize").succeeds()


def test_ctrl_c_while_preprocessing(done, write_photos):
    shutil.rmtree(done.path("data/tiny"))
    write_photos(done.path("data/tiny"), 2000)
    interrupt(done, "preprocess", lambda running: "preprocess:   0%" in running.text)
    assert not done.path("data/prepared").exists()
    done.dvc("repro", "preprocess").succeeds()


def test_ctrl_c_while_tensorflow_is_loaded(done):
    done.set(**{"train.seed": 2})
    interrupt(done, "train", lambda _: done.has_noted("tensorflow"))


def test_the_second_of_two_pipelines_stops_and_names_the_first(done):
    done.set(**{"preprocess.split.seed": 2})
    first = done.start("dvc", "repro", "preprocess")
    first.wait_until(lambda: done.has_noted("-m stages.preprocess"))
    first.signal(signal.SIGSTOP)  # so that it has surely not ended
    try:
        done.dvc("repro", "preprocess").fails_with("busy", f"(PID {first.process.pid})")
    finally:
        first.signal(signal.SIGCONT)
    first.wait().succeeds()
    assert done.path("data/prepared/images.npy").exists()
    assert "up to date" in done.dvc("repro", "preprocess").succeeds()
