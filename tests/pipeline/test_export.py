"""`signs export`, in a project whose pipeline has run."""

import json

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def export(project, *arguments):
    return project.run("python", "-m", "signs", "export", *arguments)


def test_an_export_predicts_like_the_classifier(finished, tmp_path):
    project = finished.project
    target = tmp_path / "made here"
    chosen = ("--format", "onnx-int8", "--format", "onnx")
    text = export(project, *chosen, "--to", str(target)).succeeds()
    assert text.index(f"{target}/onnx-int8\n") < text.index(f"{target}/onnx\n")
    assert "4 test photos" in text
    assert sorted(file.name for file in target.rglob("*") if file.is_file()) == [
        *["classifier.json", "classifier.json", "model.onnx", "model.onnx"],
    ]
    photo = "data/tiny/0/000.png"
    for folder in (target / "onnx", target / "onnx-int8"):
        command = ("signs", "predict", "--format", "json", "--classifier", str(folder), photo)
        row = json.loads(project.run("python", "-m", *command).text.splitlines()[0])
        assert row["file"] == photo
        assert 0 <= row["prediction"] < 4


def test_photos_of_another_run_are_refused(done, tmp_path):
    metadata = done.json("models/classifier/classifier.json")
    metadata["provenance"]["data"] = "another"
    path = done.path("models/classifier/classifier.json")
    path.unlink()  # it may be a link into DVC's cache
    path.write_text(json.dumps(metadata))
    said = export(done, "--to", str(tmp_path / "exports"))
    said.fails_with("was trained on other photos than data/prepared holds. Run `dvc repro`")
    assert not (tmp_path / "exports").exists()
