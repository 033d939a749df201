"""The networks: how large they are, and what they take and give."""

from pathlib import Path

import keras
import numpy as np
import pytest

from signs.training import export, networks
from tests.training.small import PARAMS


@pytest.fixture(scope="module", params=networks.NETWORKS)
def network(request: pytest.FixtureRequest) -> keras.Model:
    """Each network at the image size that params.yaml gives it, for GTSRB's 43 classes."""
    images = getattr(PARAMS.preprocess.images, request.param)
    width = getattr(PARAMS.train, request.param).width
    return networks.NETWORKS[request.param](images.size, images.channels, 43, width)


def test_params_name_the_networks() -> None:
    assert set(networks.NETWORKS) == set(type(PARAMS.preprocess.images).model_fields)
    assert set(networks.NETWORKS) < set(type(PARAMS.train).model_fields)


def test_parameters(network: keras.Model) -> None:
    # Those of classic are in README.md's table of results.
    assert network.count_params() == {32: 685_963, 100: 6_753_023}[network.input_shape[1]]


@pytest.mark.parametrize("size", [8, 17, 44])
@pytest.mark.parametrize("channels", [1, 3])
def test_compact_takes_any_size(size: int, channels: int) -> None:
    assert networks.compact(size, channels, 5, 32).output_shape == (None, 5)


def test_a_narrow_network_is_tiny() -> None:
    assert networks.compact(32, 3, 43, 12).count_params() < 100_000


def test_compact_sees_through_darkness_and_haze() -> None:
    network = networks.compact(32, 3, 43, 32)
    bright = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3), np.uint8)
    dark, pale = bright // 4, 192 + bright // 4
    logits = [np.asarray(network(images, training=False)) for images in (bright, dark, pale)]
    assert logits[1] == pytest.approx(logits[0], abs=0.1 * float(np.abs(logits[0]).max()))
    assert logits[2] == pytest.approx(logits[0], abs=0.1 * float(np.abs(logits[0]).max()))


def test_a_saved_network_needs_none_of_our_code(network: keras.Model, tmp_path: Path) -> None:
    export.save_keras(network, tmp_path / "model.keras")
    for layer in keras.models.load_model(tmp_path / "model.keras").layers:
        assert type(layer).__module__.startswith("keras."), layer
        assert not isinstance(layer, keras.layers.Lambda), layer


def test_pixels_in_logits_out(network: keras.Model) -> None:
    assert network.input.dtype == "uint8"
    assert network.output_shape == (None, 43)
    assert network.output.dtype == "float32"
    # A softmax at the end would make temperatures and label smoothing wrong.
    assert network.layers[-1].activation is keras.activations.linear


def test_inputs_are_scaled_within_the_network(network: keras.Model) -> None:
    """Black is at least -1 and white is 1."""
    scaling = next(x for x in network.layers if isinstance(x, keras.layers.Rescaling))
    black, white = np.array([0.0, 255.0]) * scaling.scale + scaling.offset
    assert -1 <= black <= 0
    assert white == pytest.approx(1)


def test_an_untrained_network_prefers_no_class(network: keras.Model) -> None:
    shape = (4, *network.input_shape[1:])
    images = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    logits = np.asarray(network(images, training=False))
    assert np.isfinite(logits).all()
    assert np.abs(logits).max() < 20
