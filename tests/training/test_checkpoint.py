"""The state of an unfinished training: whole or not at all, and never of another training."""

from pathlib import Path

import keras
import numpy as np
import pytest

from signs.paths import TRAIN_METRICS
from signs.training import checkpoint
from signs.training.checkpoint import Progress


@pytest.fixture
def model() -> keras.Model:
    pixels = keras.Input((1,))
    model = keras.Model(pixels, keras.layers.Dense(1, use_bias=False)(pixels))
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    TRAIN_METRICS.mkdir(parents=True)
    return Path("state")


def save(state: Path, model: keras.Model, epoch: int) -> None:
    """The state after an epoch, whose number is the weight and the only metric."""
    model.set_weights([np.full((1, 1), epoch)])
    model.optimizer.iterations.assign(10 * epoch)
    (TRAIN_METRICS / "metrics.json").write_text(str(epoch))
    checkpoint.save(state, model, Progress(epoch=epoch, seconds=1 / epoch))


def restored(state: Path) -> tuple[int, float, str]:
    """Epoch, weight and metric; whatever was there before is gone."""
    (TRAIN_METRICS / "later.json").touch()
    model, progress = checkpoint.restore(state)
    assert model is not None
    assert int(model.optimizer.iterations) == 10 * progress.epoch
    assert progress.seconds == 1 / progress.epoch
    assert [file.name for file in TRAIN_METRICS.iterdir()] == ["metrics.json"]
    text = (TRAIN_METRICS / "metrics.json").read_text()
    return progress.epoch, float(model.get_weights()[0].item()), text


def test_without_a_state_training_starts_anew(state: Path) -> None:
    assert checkpoint.latest(state) is None
    assert checkpoint.restore(state) == (None, Progress())


def test_only_the_newest_state_is_kept(state: Path, model: keras.Model) -> None:
    for epoch in (9, 10):
        save(state, model, epoch)
        assert restored(state) == (epoch, epoch, str(epoch))
        assert list(state.iterdir()) == [checkpoint.latest(state)]


def test_a_kill_while_saving_leaves_the_state_before(
    state: Path, model: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(state, model, 3)

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.shutil, "copytree", kill)
        with pytest.raises(KeyboardInterrupt):
            save(state, model, 4)
    (state / "unfinished" / "more.txt").touch()
    assert restored(state) == (3, 3, "3")
    # What the killed one left behind does not get into the next state.
    save(state, model, 4)
    assert restored(state) == (4, 4, "4")
    assert [path.name for path in state.iterdir()] == ["00004"]
    assert not list(state.rglob("more.txt"))


def test_a_kill_before_the_old_state_was_removed(state: Path, model: keras.Model) -> None:
    save(state, model, 10)
    (state / "00009").mkdir()
    assert restored(state) == (10, 10, "10")
    save(state, model, 11)
    assert [path.name for path in state.iterdir()] == ["00011"]


def test_a_training_that_has_ended_is_forgotten(state: Path, model: keras.Model) -> None:
    save(state, model, 1)
    Path("state.ended").mkdir()  # an earlier attempt was cut short
    checkpoint.discard(state)
    assert checkpoint.latest(state) is None
    assert not list(Path().glob("state*"))
