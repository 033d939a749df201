"""What an epoch trains on."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from signs import params
from signs.data import arrays
from stages.train import Accuracy, EpochSampler

SETTINGS = params.load(Path(__file__).parents[2] / "params.yaml")
REAL, DRAWN, STRANGE = 40, 200, 250  # grey levels that tell where an image comes from


def data(real: int = 90, drawn: int = 60, outliers: int = 0) -> arrays.Prepared:
    """Classes 0, 1, 2 in turns; every tenth photo tests."""
    samples = pd.DataFrame({"label": np.arange(real) % 3})
    samples["split"] = np.where(np.arange(real) % 10 == 9, "test", "train")
    return arrays.Prepared(
        images=np.full((real, 8, 8, 3), REAL, np.uint8),
        samples=samples,
        labels=pd.DataFrame({"ClassId": [0, 1, 2], "Name": ["a", "b", "c"]}),
        synthetic_images=np.full((drawn, 8, 8, 3), DRAWN, np.uint8),
        synthetic_labels=np.arange(drawn) % 3,
        outliers=np.full((outliers, 8, 8, 3), STRANGE, np.uint8),
        outlier_names=["No sign"],
        settings=SETTINGS.images,
        split=SETTINGS.preprocess.split,
        dataset="own",
        digest="",
    )


def recipe(drawn: float, outliers: float = 0.0) -> params.Recipe:
    none = dict.fromkeys(params.Augment.model_fields, 0.0)
    changes = {"steps_per_epoch": 10, "batch_size": 20, "augment": none}
    changes |= {"drawn": drawn, "outliers": outliers}
    return params.Recipe.model_validate(SETTINGS.train.compact.model_dump() | changes)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_share_of_synthetic_images(share: float) -> None:
    images, targets = EpochSampler(data(), recipe(share), seed=1).draw(0)
    assert images.shape == (200, 8, 8, 3)
    assert targets.shape == (200, 3)
    assert (images[:, 0, 0, 0] == DRAWN).mean() == share
    # Mixed: no batch is all of one kind.
    if share == 0.3:
        assert all(0 < (batch == DRAWN).mean() < 1 for batch in np.split(images, 10))


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_drawings_of_one_class_do_not_swamp_the_others(share: float) -> None:
    some = data()
    some.synthetic_labels[:] = 0
    images, targets = EpochSampler(some, recipe(share), seed=1).draw(0)
    assert (images[:, 0, 0, 0] == DRAWN).mean() == pytest.approx(share / 3, abs=0.01)
    assert (targets.sum(axis=0) > 0).all()


def test_without_synthetic_images_all_are_photos() -> None:
    images, _ = EpochSampler(data(drawn=0), recipe(0.3), seed=1).draw(0)
    assert (images == REAL).all()


def test_outliers_may_be_any_class() -> None:
    images, targets = EpochSampler(data(outliers=7), recipe(0.25, outliers=0.2), seed=1).draw(0)
    grey = images[:, 0, 0, 0]
    assert [(grey == kind).sum() for kind in (REAL, DRAWN, STRANGE)] == [110, 50, 40]
    assert targets[grey == STRANGE] == pytest.approx(1 / 3)
    assert (targets[grey != STRANGE].max(axis=1) == 1).all()
    assert targets.sum(axis=1) == pytest.approx(1)


def test_training_accuracy_leaves_outliers_out() -> None:
    metric = Accuracy()
    targets = np.array([[1, 0], [0, 1], [0.5, 0.5], [0.5, 0.5]], np.float32)
    metric.update_state(targets, np.array([[2, 1], [2, 1], [2, 1], [1, 2]], np.float32))
    assert float(metric.result()) == 0.5


def test_without_outliers_there_are_none() -> None:
    images, _ = EpochSampler(data(), recipe(0.5, outliers=0.2), seed=1).draw(0)
    assert (images[:, 0, 0, 0] == DRAWN).sum() == 100


def test_outliers_need_drawn_photos_of_the_classes_beside_them() -> None:
    for some, expected in ((data(drawn=0, outliers=7), 0), (data(outliers=7), 13)):
        some.synthetic_labels[:] = 0  # of one class of three
        images, _ = EpochSampler(some, recipe(0.25, outliers=0.2), seed=1).draw(0)
        assert (images[:, 0, 0, 0] == STRANGE).sum() == expected
    alone = dataclasses.replace(data(drawn=0, outliers=7), dataset="synthetic")
    images, _ = EpochSampler(alone, recipe(0.25, outliers=0.2), seed=1).draw(0)
    assert (images[:, 0, 0, 0] == STRANGE).sum() == 40


def test_labels_stay_with_their_images() -> None:
    some = data()
    some.images[:] = 10 * some.samples["label"].to_numpy()[:, None, None, None] + 5
    some.synthetic_images[:] = 10 * some.synthetic_labels[:, None, None, None] + 105
    images, targets = EpochSampler(some, recipe(0.3), seed=1).draw(0)
    assert (images[:, 0, 0, 0] // 10 % 10 == targets.argmax(axis=1)).all()


def test_an_epoch_is_a_function_of_seed_and_number() -> None:
    def draw(seed: int, epoch: int) -> bytes:
        some = data()
        some.images[:] = np.arange(90)[:, None, None, None]
        drawer = EpochSampler(some, recipe(0.3), seed)
        if epoch:
            drawer.draw(0)  # must not matter
        return drawer.draw(epoch)[0].tobytes()

    assert draw(1, 1) == draw(1, 1)
    assert len({draw(1, 0), draw(1, 1), draw(2, 0)}) == 3
