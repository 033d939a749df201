"""MobileNetV3-small of keras.applications from scratch, on images of 64 pixels.

python -m benchmarks.peers.mobilenet TRAINING TARGET.onnx IMAGES

Augmentation and schedule are those of our own recipe, as far as Keras has them.
"""

import json
import sys
import time
from pathlib import Path

import keras
import tensorflow as tf

SIZE, BATCH, SEED = 64, 128, 1
PEAK, WARM_UP, DECAY = 0.003, 0.1, 0.02  # of AdamW's rate; share of all steps; of the weights
# As little as signs allow: more would turn one class into another.
AUGMENT = (
    keras.layers.RandomRotation(10 / 360, fill_mode="nearest", seed=SEED),
    keras.layers.RandomTranslation(0.06, 0.06, fill_mode="nearest", seed=SEED),
    keras.layers.RandomZoom(0.12, fill_mode="nearest", seed=SEED),
    keras.layers.RandomContrast(0.4, seed=SEED),
    keras.layers.RandomBrightness(0.2, seed=SEED),
)


def train(training: Path, target: Path, budget: int) -> None:
    """Train on about `budget` images, write the ONNX file, and beside it what it took."""
    keras.utils.set_random_seed(SEED)
    photos = keras.utils.image_dataset_from_directory(
        training / "train", image_size=(SIZE, SIZE), batch_size=None, shuffle=False
    )
    classes, steps = len(photos.class_names), max(1, budget // BATCH)
    model = keras.applications.MobileNetV3Small(
        input_shape=(SIZE, SIZE, 3), weights=None, classes=classes, classifier_activation=None
    )
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            # Keras's 0.999 is for trainings of a hundred times as many steps: after these here, the
            # statistics would still be half those of before the first.
            layer.momentum = 0.98
    warm_up = max(1, round(WARM_UP * steps))
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warm_up), warmup_target=PEAK, warmup_steps=warm_up
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=DECAY)
    model.compile(optimizer, loss, metrics=["accuracy"])
    # In memory as bytes: floats would need four times as much.
    cached = photos.map(lambda image, label: (tf.cast(tf.round(image), tf.uint8), label)).cache()
    count = sum(1 for _ in cached)
    batches = cached.repeat().shuffle(count, seed=SEED).batch(BATCH).map(_augmented)
    started = time.monotonic()
    model.fit(batches.prefetch(4), steps_per_epoch=steps, verbose=2)
    seconds = time.monotonic() - started
    model.export(target, format="onnx")
    took = {"images": steps * BATCH, "minutes": seconds / 60, "scale": "0-255"}
    target.with_suffix(".json").write_text(json.dumps(took), encoding="utf-8")


def _augmented(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    images = tf.cast(images, tf.float32)
    for layer in AUGMENT:
        images = layer(images, training=True)
    return images, labels


if __name__ == "__main__":
    train(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
