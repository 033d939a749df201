"""The whole pipeline through the real `dvc`: what it makes, and what it does not make again."""

import json
import re
import shutil

import pandas as pd
import pytest
import yaml

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_a_first_run_makes_all_outputs(finished, stages_in):
    assert stages_in(finished.notes) == ["synthesize", "preprocess", "train", "evaluate"]
    stages = yaml.safe_load(finished.project.path("dvc.yaml").read_text())["stages"]
    for stage in stages.values():
        for out in stage["outs"]:
            path = finished.project.path(out if isinstance(out, str) else next(iter(out)))
            assert path.is_file() or any(path.iterdir()), path
    assert not list(finished.project.path(".resume").iterdir())
    assert not finished.project.path("data/prepared.tmp").exists()


def test_drawn_photos_train_beside_a_set_of_ones_own(fresh):
    names = "ClassId,Name\n0,Stop\n1,Our own sign\n2,Yield\n3,No entry\n"
    fresh.path("data/tiny/labels.csv").write_text(names)
    fresh.set(**{"train.compact.synthetic_share": 0.5, "train.compact.epochs": 1})
    said = fresh.dvc("repro", "train").succeeds()
    assert "6 drawn photos of 3 classes train beside them." in said
    audit = json.loads(fresh.path("metrics/preprocess/audit.json").read_text())
    assert audit["files"] == 48
    assert audit["drawn"] == {"photos": 6, "classes": 3}


def test_metrics_are_in_range(finished):
    project = finished.project
    headline = json.loads(project.path("metrics/evaluate/metrics.json").read_text())
    metrics = json.loads(project.path("metrics/evaluate/details.json").read_text())
    assert headline["accuracy"] == metrics["test"]["accuracy"]
    for split in ("validation", "test"):
        for name, value in metrics[split].items():
            if name in ("images", "groups", "classes"):
                assert value == 4  # one photo of each class, none like another
            elif name == "strangers":
                assert value == 2 * 16  # of every second of 33 classes of another label set
            elif name == "log_loss":
                assert value >= 0
            else:
                assert 0 <= value <= 1, name
        assert metrics[split]["accuracy_low"] <= metrics[split]["accuracy"]
        assert metrics[split]["accuracy_high"] >= metrics[split]["accuracy"]
    assert 0 <= metrics["threshold"] <= 1
    assert "elsewhere" not in metrics  # strangers alone
    assert "committee" not in metrics  # nobody asked for one
    assert 0.05 <= metrics["temperature"] <= 20
    assert metrics["onnx_max_difference"] <= 0.001
    audit = json.loads(project.path("metrics/preprocess/audit.json").read_text())
    assert audit["files"] == audit["train"] + audit["validation"] + audit["test"] == 48


def test_the_epoch_of_the_least_validation_loss_is_deployed(finished):
    folder = finished.project.path("metrics/train")
    losses = pd.read_csv(folder / "plots/metrics/validation/loss.tsv", sep="\t")["loss"]
    best = json.loads((folder / "metrics.json").read_text())["best"]
    assert best["epoch"] == 1 + losses.idxmin()
    assert best["validation_loss"] == pytest.approx(losses.min())
    about = json.loads(finished.project.path("models/classifier/classifier.json").read_text())
    deployed = about["provenance"]["validation"]["accuracy"]
    assert deployed == pytest.approx(best["validation_accuracy"])


def test_strangers_are_counted(finished):
    project = finished.project
    test = json.loads(project.path("metrics/evaluate/details.json").read_text())["test"]
    table = pd.read_csv(project.path("metrics/evaluate/ood.csv"))
    assert table["photos"].sum() == test["strangers"]
    refused = (table["photos"] * table["refused"]).sum() / test["strangers"]
    assert refused == pytest.approx(test["ood_rejection_rate"], abs=1e-3)
    assert "No sign" not in table["name"].tolist()  # an outlier, so met in training
    assert "Stop" not in table["name"].tolist()  # in both label sets


def test_the_model_card_says_what_was_measured(finished):
    project = finished.project
    test = json.loads(project.path("metrics/evaluate/details.json").read_text())["test"]
    about = json.loads(project.path("models/classifier/classifier.json").read_text())
    card = project.path("docs/model_card.md").read_text()
    for value in (
        f"{test['accuracy']:.2%} ({test['accuracy_low']:.2%} to {test['accuracy_high']:.2%})",
        f"AUROC {test['ood_auroc']:.4f}",
        f"below a confidence of {about['threshold']:.3f}",
        "48 files, 48 distinct photos",
        "40 train, 4 validation, 4 test",
        about["provenance"]["commit"],
    ):
        assert value in card


def test_each_held_out_photo_has_one_prediction(finished):
    predictions = pd.read_csv(finished.project.path("data/predictions.csv"))
    samples = pd.read_csv(finished.project.path("data/prepared/samples.csv"))
    held_out = samples[samples["split"].isin(["validation", "test"])]
    assert predictions["file"].tolist() == held_out["file"].tolist()
    assert predictions["file"].is_unique
    assert set(predictions["prediction"]) <= {0, 1, 2, 3}


def test_each_bad_condition_is_measured_on_the_same_photos(finished):
    project = finished.project
    table = pd.read_csv(project.path("metrics/evaluate/corruptions.csv"))
    assert len(table) == 13 * 5
    assert (table["photos"] == 4).all()
    assert table["accuracy"].isin([0, 0.25, 0.5, 0.75, 1]).all()
    headline = json.loads(project.path("metrics/evaluate/metrics.json").read_text())
    assert headline["corrupted_accuracy"] == pytest.approx(table["accuracy"].mean(), abs=1e-4)
    assert project.path("metrics/evaluate/corruptions.jpg").is_file()


def test_another_set_and_a_committee_are_measured_beside(done, write_photos, stages_in):
    write_photos(done.path("data/second"), 30)
    for name in ("tiny", "second"):
        done.path(f"data/{name}/labels.csv").write_text("ClassId,Name\n0,A\n1,B\n2,C\n3,D\n")
    done.dvc("commit", "--force", "tiny.dvc").succeeds()
    done.dvc("repro", "train").succeeds()
    done.commit("Call the classes by names")
    done.notes()
    done.set(
        **{
            "evaluate.external_set": "second",
            "evaluate.external_photos": 20,
            "evaluate.ensemble": ["HEAD"],
            "evaluate.tta_shift": 1,
        }
    )
    done.dvc("repro").succeeds()
    assert stages_in(done.notes()) == ["evaluate"]
    details = json.loads(done.path("metrics/evaluate/details.json").read_text())
    headline = json.loads(done.path("metrics/evaluate/metrics.json").read_text())
    # The same patterns, drawn larger; all of its classes have the names of known ones.
    assert (details["elsewhere"]["images"], details["elsewhere"]["classes"]) == (20, 4)
    assert "strangers" not in details["test"]
    # Twice the same classifier, each at nine places.
    assert (details["committee"]["classifiers"], details["committee"]["passes"]) == (2, 18)
    report = done.path("report.html").read_text(encoding="utf-8")
    card = done.path("docs/model_card.md").read_text(encoding="utf-8")
    for part, title in (("elsewhere", "Another photo set"), ("committee", "A committee")):
        assert headline[f"{part}_accuracy"] == details[part]["accuracy"]
        assert f"<h2>{title}</h2>" in report
        assert f"## {title}" in card

    done.set(**{"evaluate.ensemble": ["nobody"]})
    done.dvc("repro").fails_with("evaluate.ensemble: there is no classifier of 'nobody'")


def test_the_report_needs_nothing_beside_it(finished):
    page = finished.project.path("report.html").read_text(encoding="utf-8")
    assert "<img" in page
    assert not re.search(r"""(src|href)=["']?(https?:|//)""", page)


def test_status_is_clean_and_dvc_shows_metrics_and_plots(done):
    # The photo sets that nobody has fetched are all that DVC may miss.
    changed = json.loads(done.dvc("status", "--json").succeeds())
    assert set(changed) <= {"data.dvc", "gtsrb.dvc"}
    assert "accuracy" in done.dvc("metrics", "show").succeeds()
    done.dvc("metrics", "diff").succeeds()
    done.dvc("plots", "show", "-o", "plots").succeeds()
    page = done.path("plots/index.html").read_text(encoding="utf-8")
    for name in ("Loss", "Accuracy", "Recall", "confusion.png", "reliability.png"):
        assert name in page


def test_nothing_to_do_starts_no_stage_and_imports_no_tensorflow(finished, done, stages_in):
    assert "tensorflow" in finished.notes  # so that its absence below means something
    text = done.dvc("repro").succeeds()
    assert "Running stage" not in text
    assert "up to date" in text
    notes = done.notes()
    assert stages_in(notes) == []
    assert "tensorflow" not in notes
    assert not done.run("git", "status", "--porcelain").succeeds()


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("evaluate.mistakes_shown", 5, ["evaluate"]),
        ("train.classic.learning_rate", 0.002, []),
        ("preprocess.images.classic.size", 64, []),
        ("train.compact.learning_rate", 0.002, ["train", "evaluate"]),
        ("preprocess.split.seed", 2, ["preprocess", "train", "evaluate"]),
    ],
)
def test_a_changed_parameter_runs_only_what_depends_on_it(done, stages_in, key, value, expected):
    before = done.path("params.yaml").read_text(encoding="utf-8")
    done.set(**{key: value})
    done.dvc("repro").succeeds()
    assert stages_in(done.notes()) == expected
    if "train" in expected:
        # `metrics diff` has something to say against the last commit.
        assert "metrics" in done.dvc("metrics", "diff").succeeds()
        # The way back needs no training: DVC remembers what these parameters gave.
        done.path("params.yaml").write_text(before, encoding="utf-8")
        done.dvc("repro").succeeds()
        assert "train" not in stages_in(done.notes())


def test_a_damaged_cache_is_noticed_and_the_advice_repairs_it(done):
    images = done.path("data/prepared/images.npy")
    whole = images.read_bytes()
    about = json.loads(done.path("data/prepared/prepared.json").read_text())
    md5 = about["md5"]["images.npy"]
    cached = done.path(f".dvc/cache/files/md5/{md5[:2]}/{md5[2:]}")
    cached.chmod(0o644)
    cached.write_bytes(whole[:-1000] + bytes(1000))
    cached.chmod(0o444)  # DVC trusts what is read-only
    shutil.rmtree(images.parent)
    done.dvc("checkout", "data/prepared").succeeds()
    assert images.read_bytes() != whole, "DVC now checks what it checks out"
    done.set(**{"train.compact.epochs": 1})
    outcome = done.dvc("repro")
    outcome.fails_with("data/prepared/images.npy is damaged")

    advice = re.search(
        r"Delete it and its copy in the cache, (\S+), then run `dvc (.+)`\.", outcome.text
    )
    assert advice
    images.unlink()
    done.path(advice[1]).unlink()
    done.dvc(*advice[2].split()).succeeds()
    assert images.read_bytes() == whole
    done.dvc("repro", "train").succeeds()
