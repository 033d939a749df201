"""How images come to the network."""

import numpy as np

from signs.training.loop import _batches


def test_batches_keep_the_order_and_nothing_tunes_them() -> None:
    images, targets = np.arange(10), np.arange(10) * 2
    batches = _batches((images, targets), 4)
    assert [batch[0].numpy().tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert all((2 * image == target).numpy().all() for image, target in batches)
    # With the tuner an epoch takes up to twice as long.
    assert not batches.options().autotune.enabled
