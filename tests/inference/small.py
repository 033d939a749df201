"""A real classifier of a few bytes, whose model weighs the pixels and sums them; and photos."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from onnx import TensorProto, helper, numpy_helper

from signs.data.images import REGION
from signs.inference import classifier
from signs.params import ImageSettings

SIZE = 8
SETTINGS = ImageSettings(size=SIZE, color="rgb", contrast="none", margin=0.0)
CLASS_IDS, NAMES = [3, 14, 20, 41], ["Red", "Green", "Blue", "Grey"]
COLORS = {"Red": (255, 0, 0), "Green": (0, 255, 0), "Blue": (0, 0, 255)}
# A sixteenth of the mean (0 to 255) of each colour channel; nothing speaks for grey.
MEANS = np.broadcast_to(np.eye(3, 4) / (16 * SIZE**2), (SIZE, SIZE, 3, 4))
PROVENANCE = {
    "commit": "abc",
    "data": "digest",
    "params": {"split": {"fold": 0}},
    "auxiliary_outliers": ["BUS lane"],
    "precision": "float32",
}


def model(weights: np.ndarray = MEANS, bias: tuple[float, ...] = (0, 0, 0, 1)) -> bytes:
    """Logits: the pixels times `weights` (size, size, channels, classes), summed, and `bias`."""
    *shape, classes = weights.shape
    tensors = {"weights": weights.reshape(-1, classes), "bias": np.array(bias)}
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["pixels"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["sums"]),
        helper.make_node("Add", ["sums", "bias"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "weighted",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", *shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", classes])],
        [numpy_helper.from_array(t.astype(np.float32), name) for name, t in tensors.items()],
    )
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def write(folder: Path, content: bytes | None = None, **changes: object) -> Path:
    """A classifier folder; it tells the colours apart if no other model is given."""
    metadata: dict[str, object] = {
        "class_ids": CLASS_IDS,
        "names": NAMES,
        "images": SETTINGS,
        "temperature": 2.0,
        "threshold": 0.6,
        "energy_threshold": 5.0,
        "provenance": PROVENANCE,
    }
    classifier.write(folder, model() if content is None else content, **(metadata | changes))
    return folder


def load(folder: Path, content: bytes | None = None, **changes: object) -> classifier.Classifier:
    return classifier.Classifier(write(folder, content, **changes))


def plain(*colors: tuple[int, int, int], size: int = SIZE) -> np.ndarray:
    """Images of one colour each, uint8 (N, size, size, 3)."""
    return np.stack([np.full((size, size, 3), color, np.uint8) for color in colors])


def png(image: np.ndarray) -> bytes:
    """The file of an RGB image."""
    return cv2.imencode(".png", np.ascontiguousarray(image[:, :, ::-1]))[1].tobytes()


def write_photos(folder: Path, count: int = 2) -> pd.DataFrame:
    """`count` photos of each colour in class folders; their table, as `layouts` has it."""
    rows = []
    for label, (name, color) in enumerate(COLORS.items()):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            file = f"{name}/{number}.png"
            (folder / file).write_bytes(png(plain(color, size=20 + number)[0]))
            rows.append({"file": file, "class_id": CLASS_IDS[label], "label": label, "group": ""})
    return pd.DataFrame(rows).assign(**dict.fromkeys(REGION, np.nan))
