"""The networks: how large they are, what they are made of, and what they take and give."""

import numpy as np
import pytest
import yaml

keras = pytest.importorskip("keras")

from pathlib import Path  # noqa: E402

from signs.training import networks  # noqa: E402

PARAMS = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text(encoding="utf-8"))
CHANNELS = {"rgb": 3, "grey": 1}


@pytest.fixture(scope="module", params=sorted(networks.NETWORKS))
def network(request: pytest.FixtureRequest) -> "keras.Model":
    """Each network at the image size that params.yaml gives it, for 58 classes."""
    images = PARAMS["preprocess"]["images"][request.param]
    build = networks.NETWORKS[request.param]
    return build(images["size"], CHANNELS[images["color"]], 58)


def test_params_name_the_networks() -> None:
    assert set(networks.NETWORKS) == set(PARAMS["preprocess"]["images"])
    assert set(networks.NETWORKS) < set(PARAMS["train"])


def test_compact_is_small() -> None:
    images = PARAMS["preprocess"]["images"]["compact"]
    model = networks.compact(images["size"], CHANNELS[images["color"]], 58)
    assert model.count_params() <= 1_000_000


@pytest.mark.parametrize("size", [8, 17, 32, 44])
@pytest.mark.parametrize("channels", [1, 3])
def test_compact_takes_any_size(size: int, channels: int) -> None:
    model = networks.compact(size, channels, 5)
    assert model.output_shape == (None, 5)


def test_classic_is_the_original() -> None:
    images = PARAMS["preprocess"]["images"]["classic"]
    assert (images["size"], images["color"], images["contrast"]) == (100, "grey", "equalize")
    recipe = PARAMS["train"]["classic"]
    assert (recipe["epochs"], recipe["steps_per_epoch"], recipe["batch_size"]) == (20, 100, 10)
    assert (recipe["learning_rate"], recipe["schedule"], recipe["weight_decay"]) == (
        0.001,
        "constant",
        0.0,
    )
    model = networks.classic(100, 1, 58)
    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    assert [type(layer).__name__ for layer in layers] == [
        *["Rescaling", "Conv2D", "Conv2D", "MaxPooling2D", "Conv2D", "Conv2D", "MaxPooling2D"],
        *["Dropout", "Flatten", "Dense", "Dropout", "Dense"],
    ]
    convolutions = [layer for layer in layers if isinstance(layer, keras.layers.Conv2D)]
    assert [(c.filters, c.kernel_size) for c in convolutions] == [
        (60, (5, 5)),
        (60, (5, 5)),
        (30, (3, 3)),
        (30, (3, 3)),
    ]
    assert all(c.activation is keras.activations.relu for c in convolutions)
    dense = [layer for layer in layers if isinstance(layer, keras.layers.Dense)]
    assert [d.units for d in dense] == [500, 58]
    assert [layer.rate for layer in layers if isinstance(layer, keras.layers.Dropout)] == [0.5, 0.5]
    # 1,560 + 90,060 + 16,230 + 8,130 of the filters, the 21 x 21 x 30 units' and the classes'.
    dense_weights = 21 * 21 * 30 * 500 + 500 + 500 * 58 + 58
    assert model.count_params() == 1_560 + 90_060 + 16_230 + 8_130 + dense_weights


def test_only_layers_that_keras_ships(network: "keras.Model") -> None:
    for layer in network.layers:
        assert type(layer).__module__.startswith("keras."), layer
        assert not isinstance(layer, keras.layers.Lambda), layer


def test_input_is_pixels_and_output_is_logits(network: "keras.Model") -> None:
    assert network.input.dtype == "uint8"
    assert network.output_shape == (None, 58)
    assert network.output.dtype == "float32"
    # A softmax at the end would make temperatures and label smoothing wrong.
    assert network.layers[-1].activation is keras.activations.linear


def test_inputs_are_scaled_within_the_network() -> None:
    """Black, grey and white enter the first filters as numbers around -1 to 1."""
    for build in networks.NETWORKS.values():
        model = build(32, 3, 4)
        scaling = next(x for x in model.layers if isinstance(x, keras.layers.Rescaling))
        values = np.array([0.0, 127.5, 255.0]) * scaling.scale + scaling.offset
        assert -1 <= values[0] <= 0
        assert values[2] == pytest.approx(1)


def test_compact_ends_as_unsure_of_all_classes_alike() -> None:
    keras.utils.set_random_seed(1)
    model = networks.compact(32, 3, 10)
    images = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3), np.uint8)
    logits = np.asarray(model(images, training=False))
    assert logits.shape == (4, 10)
    assert np.isfinite(logits).all()
    assert np.abs(logits).max() < 20
