"""The whole pipeline through the real `dvc`: what it makes, and what it does not make again."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import balanced_accuracy_score, f1_score

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STAGES = ["synthesize", "preprocess", "train", "evaluate", "report"]


@pytest.fixture
def tables(finished):
    """Reads a CSV file of the finished project."""
    return lambda name: pd.read_csv(finished.project.path(name))


@pytest.fixture
def details(finished):
    return finished.project.json("metrics/evaluate/details.json")


# What a run makes


def test_a_first_run_makes_all_outputs(finished, stages_in):
    assert stages_in(finished.notes) == STAGES
    project = finished.project
    for stage in yaml.safe_load(project.path("dvc.yaml").read_text())["stages"].values():
        for out in [out for kind in ("outs", "metrics", "plots") for out in stage.get(kind, [])]:
            path = project.path(out if isinstance(out, str) else next(iter(out)))
            assert path.is_file() or any(path.iterdir()), path
    assert not list(project.path(".resume").iterdir())
    assert not project.path("data/prepared.tmp").exists()
    audit = project.json("metrics/preprocess/audit.json")
    assert audit["files"] == audit["train"] + audit["validation"] + audit["test"] == 48


def test_metrics_are_those_of_the_predictions(finished, tables, details):
    predictions = tables("data/evaluation/predictions.csv")
    samples = tables("data/prepared/samples.csv")
    held_out = samples[samples["split"].isin(["validation", "test"])]
    assert predictions["file"].tolist() == held_out["file"].tolist()
    assert set(predictions["prediction"]) <= {0, 1, 2, 3}
    for name, rows in predictions.groupby("split"):
        metrics = details[name]
        # One photo of each class, none like another.
        assert metrics["images"] == metrics["groups"] == metrics["classes"] == 4
        labels, predicted = rows["label"], rows["predicted_label"]
        assert (rows["correct"] == (labels == predicted)).all()
        expected = {
            "accuracy": rows["correct"].mean(),
            "balanced_accuracy": balanced_accuracy_score(labels, predicted),
            "macro_f1": f1_score(labels, predicted, average="macro", labels=range(4)),
            "accepted": rows["accepted"].mean(),
        }
        assert {key: metrics[key] for key in expected} == pytest.approx(expected, abs=1e-4)
        assert metrics["accuracy_low"] < metrics["accuracy_high"]
        assert metrics["accuracy_low"] <= metrics["accuracy"] <= metrics["accuracy_high"]
    headline = finished.project.json("metrics/evaluate/metrics.json")
    assert headline.items() <= details["test"].items()
    assert details["onnx_max_difference"] <= 0.001
    assert "external" not in details  # the OOD set has no class that the network knows
    assert "ensemble" not in details  # none was asked for


def test_out_of_distribution_photos_are_counted(tables, details):
    predictions = tables("data/evaluation/ood_predictions.csv")
    by_class = tables("metrics/evaluate/ood.csv")
    assert len(predictions) == by_class["photos"].sum() == details["test"]["ood_images"] == 2 * 16
    rejected = 1 - predictions["accepted"].mean()
    assert rejected == pytest.approx(details["test"]["ood_rejection_rate"], abs=1e-4)
    expected = 1 - predictions.groupby("name")["accepted"].mean()
    assert by_class.set_index("name")["rejected"].to_dict() == pytest.approx(expected.to_dict())
    assert "No sign" not in by_class["name"].tolist()  # an outlier, so met in training
    assert "Stop" not in by_class["name"].tolist()  # in both label sets


def test_corruptions_are_measured_on_the_test_photos(tables, details):
    table = tables("metrics/evaluate/corruptions.csv")
    assert len(table) == 13 * 5
    assert (table["photos"] == 4).all()
    assert table["accuracy"].isin([0, 0.25, 0.5, 0.75, 1]).all()
    mean = table["accuracy"].mean()
    assert details["test"]["corrupted_accuracy"] == pytest.approx(mean, abs=1e-4)
    samples = tables("data/prepared/samples.csv").set_index("file")
    assert samples["split"][details["corruption_example"]] == "test"


def test_mistakes_have_a_saliency_map_each(finished, tables):
    predictions = tables("data/evaluation/predictions.csv")
    mistakes = (~predictions["correct"][predictions["split"] == "test"]).sum()
    maps = np.load(finished.project.path("data/evaluation/saliency.npy"))
    assert len(maps) == mistakes
    assert maps.dtype == np.float32
    assert maps.shape[1:] in ((), (16, 16))


def test_the_network_of_the_last_epoch_is_exported(finished, details):
    folder = finished.project.path("metrics/train")
    curve = pd.read_csv(folder / "plots/metrics/validation/accuracy.tsv", sep="\t")["accuracy"]
    last = json.loads((folder / "metrics.json").read_text())["validation"]
    assert last["accuracy"] == pytest.approx(curve.iloc[-1])
    assert details["validation"]["accuracy"] == pytest.approx(last["accuracy"])


def test_report_and_model_card_say_what_was_measured(finished, details):
    project, test = finished.project, details["test"]
    percent = {name: f"{100 * value:.2f}\N{NO-BREAK SPACE}%" for name, value in test.items()}
    metadata = project.json("models/classifier/classifier.json")
    card = project.path("docs/model_card.md").read_text(encoding="utf-8")
    for value in (
        "{accuracy} ({accuracy_low} to {accuracy_high})".format_map(percent),
        f"AUROC {test['ood_auroc']:.4f}",
        f"confidence is below {metadata['threshold']:.3f}",
        "48 files, 48 distinct photos",
        "40 train, 4 validation, 4 test",
        metadata["provenance"]["fingerprint"][:16],
    ):
        assert value in card
    page = project.path("report.html").read_text(encoding="utf-8")
    assert "<img" in page
    assert not re.search(r"""(src|href)=["']?(https?:|//)""", page)


def test_synthetic_photos_an_external_set_and_an_ensemble(done, write_photos, stages_in):
    write_photos(done.path("data/second"), 30)
    names = "ClassId,Name\n0,Stop\n1,Our own sign\n2,Yield\n3,No entry\n"
    for name in ("tiny", "second"):
        done.path(f"data/{name}/labels.csv").write_text(names)
    done.dvc("commit", "--force", "tiny.dvc").succeeds()
    done.set(**{"train.compact.synthetic_share": 0.5, "train.compact.epochs": 1})
    printed = done.dvc("repro", "train").succeeds()
    assert "6 synthetic photos of 3 classes train beside them." in printed
    audit = done.json("metrics/preprocess/audit.json")
    assert (audit["files"], audit["synthetic"]) == (48, {"photos": 6, "classes": 3})
    done.commit("Give the classes names")
    done.notes()

    external = {"evaluate.external_set": "second", "evaluate.external_photos": 20}
    done.set(**external, **{"evaluate.ensemble": ["HEAD"], "evaluate.tta_shift": 1})
    done.dvc("repro").succeeds()
    assert stages_in(done.notes()) == ["evaluate", "report"]
    details = done.json("metrics/evaluate/details.json")
    headline = done.json("metrics/evaluate/metrics.json")
    # The same patterns, larger; all classes have the names of known ones.
    assert (details["external"]["images"], details["external"]["classes"]) == (20, 4)
    assert "ood_images" not in details["test"]
    # Twice the same classifier, each at nine shifts.
    assert (details["ensemble"]["classifiers"], details["ensemble"]["passes"]) == (2, 18)
    card = done.path("docs/model_card.md").read_text(encoding="utf-8")
    for part, title in (("external", "External test set"), ("ensemble", "Ensemble")):
        assert headline[f"{part}_accuracy"] == details[part]["accuracy"]
        assert f"## {title}" in card


def test_status_is_clean_and_dvc_shows_metrics_and_plots(done):
    # The data sets that nobody has fetched are all that DVC may miss.
    assert set(json.loads(done.dvc("status", "--json").succeeds())) <= {"data.dvc", "gtsrb.dvc"}
    assert "accuracy" in done.dvc("metrics", "show").succeeds()
    done.dvc("plots", "show", "-o", "plots").succeeds()
    page = done.path("plots/index.html").read_text(encoding="utf-8")
    for name in ("Loss", "Accuracy", "Recall", "confusion.png", "reliability.png"):
        assert name in page


# What a run does not make again


def test_nothing_to_do_starts_no_stage_and_imports_no_tensorflow(finished, done, stages_in):
    assert "tensorflow" in finished.notes  # so that its absence below means something
    assert "up to date" in done.dvc("repro").succeeds()
    notes = done.notes()
    assert stages_in(notes) == []
    assert "tensorflow" not in notes
    assert not done.run("git", "status", "--porcelain").succeeds()


def test_a_change_makes_only_the_stages_that_use_it_out_of_date(done):
    done.set(
        **{
            "preprocess.split.seed": 2,
            "train.compact.learning_rate": 0.002,
            "evaluate.mistakes_shown": 5,
            # Of the network that is not used.
            "train.classic.learning_rate": 0.002,
            "preprocess.images.classic.size": 64,
        }
    )
    for file in (
        "signs/synthesis/templates/gtsrb/14.svg",
        "signs/training/sampler.py",
        "signs/evaluation/corruptions.py",
        "signs/reporting/plots.py",
        "signs/serving/app.py",
    ):
        done.append(file, "\n")
    status = json.loads(done.dvc("status", "--json").succeeds())
    changed = {}
    for stage in STAGES:
        (found,) = (kind["changed deps"] for kind in status[stage])
        changed[stage] = {*found.pop("params.yaml", {}), *found}
    assert changed == {
        "synthesize": {"signs/synthesis"},
        "preprocess": {"preprocess.split"},
        "train": {"signs/training", "train.compact"},
        "evaluate": {"signs/evaluation", "evaluate"},
        "report": {
            *("signs/synthesis/templates", "signs/evaluation/corruptions.py", "signs/reporting"),
            "evaluate",
        },
    }


def test_other_photos_run_what_follows_and_the_way_back_needs_no_training(done, stages_in):
    before = done.path("params.yaml").read_text(encoding="utf-8")
    done.set(**{"preprocess.split.seed": 2})
    done.dvc("repro").succeeds()
    assert stages_in(done.notes()) == STAGES[1:]
    # `metrics diff` compares with the last commit.
    assert "metrics" in done.dvc("metrics", "diff").succeeds()

    # DVC remembers what these parameters gave; other corruptions are evaluated, nothing else.
    done.path("params.yaml").write_text(before, encoding="utf-8")
    corruptions = done.path("signs/evaluation/corruptions.py")
    code = corruptions.read_text(encoding="utf-8")
    corruptions.write_text(code.replace("LEVELS = range(1, 6)", "LEVELS = range(1, 5)"))
    done.dvc("repro").succeeds()
    assert [stage for stage in stages_in(done.notes()) if stage != "preprocess"] == STAGES[-2:]
    assert len(pd.read_csv(done.path("metrics/evaluate/corruptions.csv"))) == 13 * 4


def test_a_damaged_cache_is_noticed_and_the_advice_repairs_it(done):
    images = done.path("data/prepared/images.npy")
    whole = images.read_bytes()
    md5 = done.json("data/prepared/prepared.json")["md5"]["images.npy"]
    cached = done.path(f".dvc/cache/files/md5/{md5[:2]}/{md5[2:]}")
    cached.chmod(0o644)
    cached.write_bytes(whole[:-1000] + bytes(1000))
    cached.chmod(0o444)  # DVC trusts what is read-only
    shutil.rmtree(images.parent)
    done.dvc("checkout", "data/prepared").succeeds()
    assert images.read_bytes() != whole, "DVC now checks what it checks out"
    outcome = done.stage("train")
    outcome.fails_with("data/prepared/images.npy is damaged")

    advice = re.search(
        r"Delete it and its copy in the cache, (\S+), then run `dvc (.+)`\.", outcome.text
    )
    assert advice
    images.unlink()
    done.path(advice[1]).unlink()
    done.dvc(*advice[2].split()).succeeds()
    assert images.read_bytes() == whole
