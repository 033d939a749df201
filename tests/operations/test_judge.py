"""`signs judge`: models of all kinds get the same judgement, as they predict the same."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.data.test_layouts import lay
from tests.inference.small import CLASS_IDS, MEANS, SIZE, model, png, write
from tests.operations.test_audit import signs

pytestmark = pytest.mark.slow

COLORS = {"Red": (230, 30, 20), "Green": (20, 220, 40), "Blue": (10, 40, 240)}
NAMES = ["Red", "Green", "Blue", "Grey"]


def photos(folder: Path, names: dict[str, tuple[int, int, int]]) -> Path:
    """Twelve photos of each colour that resemble no other; one of them is filed wrong."""
    rng = np.random.default_rng(1)
    for name, color in names.items():
        for number in range(12):
            shown = COLORS["Green"] if (name, number) == ("Red", 3) else color
            noise = rng.integers(-60, 61, (6, 6, 1)).repeat(4, axis=0).repeat(4, axis=1)
            image = np.clip(np.array(shown) + noise, 0, 255).astype(np.uint8)
            lay(folder, {f"{name}/{number}.png": png(image)})
    return folder


def foreign(path: Path, kind: str, names: list[str] | None = None) -> Path:
    """The small model with another input: floats, channels first, a batch of one, softmax."""
    scale = {"0-1": 255.0, "-1-1": 127.5}[kind.split()[0]]
    shift = {"0-1": 0.0, "-1-1": 1.0}[kind.split()[0]]
    first, batch = "NCHW" in kind, 1 if "fixed" in kind else "n"
    shape = [batch, 3, SIZE, SIZE] if first else [batch, SIZE, SIZE, 3]
    tensors = {
        "shift": np.float32(shift),
        "scale": np.float32(scale),
        "weights": MEANS.reshape(-1, 4).astype(np.float32),
        "bias": np.float32([0, 0, 0, 1]),
    }
    nodes = [
        helper.make_node("Add", ["x", "shift"], ["a"]),
        helper.make_node("Mul", ["a", "scale"], ["b"]),
        helper.make_node("Transpose", ["b"], ["c"], perm=[0, 2, 3, 1] if first else [0, 1, 2, 3]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "weights"], ["e"]),
        helper.make_node("Add", ["e", "bias"], ["f"]),
        helper.make_node("Softmax" if "softmax" in kind else "Identity", ["f"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 4])],
        [numpy_helper.from_array(np.asarray(t), name) for name, t in tensors.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if names:
        helper.set_model_props(made, {"names": str(dict(enumerate(names))), "stride": "32"})
    onnx.save(made, path)
    return path


def judge(folder: Path, *arguments: str) -> dict[str, float]:
    command = ("judge", *arguments, "--json", "j.json", "--corruption-photos", "2")
    done = signs(folder, *command)
    assert done.returncode == 0, done.stderr
    page = (folder / "judge.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    found: dict[str, float] = json.loads((folder / "j.json").read_text())
    return found


KINDS = ["0-1 NHWC", "0-1 NCHW", "-1-1 NCHW softmax", "0-1 NCHW fixed", "-1-1 NHWC fixed softmax"]


@pytest.mark.parametrize("kind", KINDS)
def test_models_of_all_kinds_are_judged_alike(kind: str, tmp_path: Path) -> None:
    photos(tmp_path / "own", COLORS)
    write(tmp_path / "ours", temperature=1.0)
    expected = judge(tmp_path, "ours", "own")
    foreign(tmp_path / "model.onnx", kind)
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    scale = f"--scale={kind.split()[0]}"
    found = judge(tmp_path, "model.onnx", "own", scale, "--names", "names.txt")
    assert found["images"] == expected["images"]
    # Probabilities do not tell the energy, which decides what is accepted, too.
    accepted = () if "softmax" in kind else ("accepted",)
    for key in ("accuracy", "balanced_accuracy", "corrupted_accuracy", *accepted):
        assert found[key] == pytest.approx(expected[key], abs=1e-5), key
    for key in ("ece", "ece_uncalibrated", "threshold"):
        assert found[key] == pytest.approx(expected[key], abs=1e-3), key
    assert 0.9 < found["accuracy"] < 1  # one photo is filed wrong


def test_what_a_model_says_of_itself_is_used(tmp_path: Path) -> None:
    photos(tmp_path / "own", COLORS)
    foreign(tmp_path / "model.onnx", "0-1 NCHW softmax", names=NAMES)
    assert judge(tmp_path, "model.onnx", "own")["accuracy"] > 0.9


def test_a_model_without_names_gets_those_of_the_photos(tmp_path: Path) -> None:
    photos(tmp_path / "own", COLORS | {"Grey": (90, 90, 90)})
    photos(tmp_path / "other", {"Black": (70, 70, 70), "Red": COLORS["Red"]})
    foreign(tmp_path / "model.onnx", "0-1 NCHW")
    found = judge(tmp_path, "model.onnx", "own", "--scale", "0-1", "--ood", "other")
    assert found["ood_images"] == 12  # red photos are of a class that the model has
    assert "<td>Grey</td>" in (tmp_path / "judge.html").read_text()


def test_photos_of_other_classes_are_out_of_distribution(tmp_path: Path) -> None:
    photos(tmp_path / "own", COLORS)
    photos(tmp_path / "other", {"Black": (70, 70, 70), "Red": COLORS["Red"]})
    foreign(tmp_path / "model.onnx", "0-1 NCHW", names=NAMES)
    found = judge(tmp_path, "model.onnx", "own", "--ood", "other")
    assert found["ood_images"] == 12
    assert 0 <= found["ood_rejection_at_99"] <= 1
    assert 0 <= found["ood_fpr95"] <= 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["absent.onnx", "own"], "absent.onnx does not exist"),
        (["broken.onnx", "own"], "broken.onnx cannot be loaded as an ONNX model"),
        (["model.onnx", "own"], "does not say of which range. Tell it: --scale 0-255 | 0-1"),
        (["model.onnx", "own", "--scale", "0-1"], "The model has 4 outputs, own has 3 classes"),
        (["model.onnx", "own", "--scale", "0-1", "--size", "9"], "images of 8 pixels, not of 9"),
        (["model.onnx", "own", "--scale", "0-1", "--names", "two.txt"], "4 outputs, but 2 names"),
        (["named.onnx", "absent"], "absent is no folder and no zip archive"),
    ],
)
def test_what_does_not_fit_is_said_in_one_sentence(arguments, words, tmp_path: Path) -> None:
    photos(tmp_path / "own", COLORS)
    foreign(tmp_path / "model.onnx", "0-1 NCHW")
    foreign(tmp_path / "named.onnx", "0-1 NCHW", names=NAMES)
    (tmp_path / "broken.onnx").write_bytes(model()[:50])
    (tmp_path / "two.txt").write_text("a\nb\n")
    done = signs(tmp_path, "judge", *arguments)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("ERROR: ")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


assert len(CLASS_IDS) == len(NAMES)
