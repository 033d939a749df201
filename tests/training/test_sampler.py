"""Which images an epoch trains on."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signs.training.sampler import EpochSampler, sample_epoch
from tests.training.small import OUTLIER, REAL, SYNTHETIC, prepared, recipe


@settings(deadline=None)
@given(
    counts=st.lists(st.integers(1, 50), min_size=1, max_size=6),
    count=st.integers(1, 600),
    balance=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 1000),
)
def test_each_image_appears_floor_or_ceil_of_its_share(
    counts: list[int], count: int, balance: float, seed: int
) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    chosen = sample_epoch(labels, count, balance, np.random.default_rng(seed))
    assert len(chosen) == count
    weights = np.array(counts, float)[labels] ** -balance
    expected = count * weights / weights.sum()
    times = np.bincount(chosen, minlength=len(labels))
    assert len(times) == len(labels)
    assert (times >= np.floor(expected - 1e-6)).all()
    assert (times <= np.ceil(expected + 1e-6)).all()


def test_an_epoch_is_in_random_order() -> None:
    labels = np.repeat(np.arange(4), 100)
    chosen = sample_epoch(labels, 400, 0.0, np.random.default_rng(0))
    assert sorted(chosen.tolist()) == list(range(400))
    assert np.bincount(labels[chosen[:200]], minlength=4).min() > 30


def counts(images: np.ndarray) -> list[int]:
    """How many images are real, synthetic and outliers."""
    return [int((images[:, 0, 0, 0] == kind).sum()) for kind in (REAL, SYNTHETIC, OUTLIER)]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_share_of_synthetic_images(share: float) -> None:
    images, targets = EpochSampler(prepared(), recipe(share), seed=1).sample(0)
    assert (images.shape, targets.shape) == ((200, 8, 8, 3), (200, 3))
    assert counts(images) == [200 - 200 * share, 200 * share, 0]
    # Mixed: no batch is all of one kind.
    if share == 0.3:
        assert all(0 < (batch == SYNTHETIC).mean() < 1 for batch in np.split(images, 10))


def test_the_target_of_an_outlier_is_every_class_alike() -> None:
    sampler = EpochSampler(prepared(outliers=7), recipe(0.25, outliers=0.2), seed=1)
    images, targets = sampler.sample(0)
    assert counts(images) == [110, 50, 40]
    outlier = images[:, 0, 0, 0] == OUTLIER
    assert targets[outlier] == pytest.approx(1 / 3)
    assert (targets[~outlier].max(axis=1) == 1).all()
    assert targets.sum(axis=1) == pytest.approx(1)


@pytest.mark.parametrize(
    ("synthetic", "outliers", "dataset", "expected"),
    [
        (0, 0, "own", [200, 0, 0]),
        (60, 0, "own", [183, 17, 0]),
        (0, 7, "own", [200, 0, 0]),
        (60, 7, "own", [170, 17, 13]),
        (0, 7, "synthetic", [160, 0, 40]),
    ],
)
def test_outliers_need_synthetic_images_of_the_classes_beside_them(
    synthetic: int, outliers: int, dataset: str, expected: list[int]
) -> None:
    """Where the photos are not synthetic themselves; templates are of one class of three here."""
    data = dataclasses.replace(prepared(90, synthetic, outliers), dataset=dataset)
    data.synthetic_labels[:] = 0
    assert counts(EpochSampler(data, recipe(0.25, outliers=0.2), seed=1).sample(0)[0]) == expected


def test_labels_stay_with_their_images() -> None:
    data = prepared()
    data.images[:] = 10 * data.samples["label"].to_numpy()[:, None, None, None] + 5
    data.synthetic_images[:] = 10 * data.synthetic_labels[:, None, None, None] + 105
    images, targets = EpochSampler(data, recipe(0.3), seed=1).sample(0)
    assert (images[:, 0, 0, 0] // 10 % 10 == targets.argmax(axis=1)).all()


def test_only_training_photos_are_used() -> None:
    data = prepared()
    data.images[data.samples["split"] != "train"] = 0
    assert counts(EpochSampler(data, recipe(), seed=1).sample(0)[0])[0] == 200


def test_an_epoch_is_a_function_of_seed_and_number() -> None:
    def sample(seed: int, epoch: int) -> bytes:
        data = prepared()
        data.images[:] = np.arange(90)[:, None, None, None]
        sampler = EpochSampler(data, recipe(0.3), seed)
        if epoch:
            sampler.sample(0)  # must not matter
        return sampler.sample(epoch)[0].tobytes()

    assert sample(1, 1) == sample(1, 1)
    assert len({sample(1, 0), sample(1, 1), sample(2, 0)}) == 3
