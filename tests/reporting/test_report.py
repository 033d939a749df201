import json
from html.parser import HTMLParser

import cv2
import numpy as np
import pandas as pd
import pytest

from signs.evaluation.calibration import wilson_interval
from signs.reporting import plots, report

EVIL = '<script>alert("x")</script> & $5 $9'
LIMIT = 300_000  # bytes of a diagram
KNOWN_VOID = {"meta", "img", "br", "hr"}


class Page(HTMLParser):
    """Collects what a page is made of and checks that its tags are balanced."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in KNOWN_VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def find(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def answers(classes, errors=0.1, untested=()):
    rng = np.random.default_rng(classes)
    true = np.repeat(np.arange(classes), rng.integers(2, 30, classes))
    true = true[~np.isin(true, untested)]
    wrong = rng.random(len(true)) < errors
    return true, np.where(wrong, (true + 1) % classes, true)


def names_of(classes):
    return [EVIL, *(f"Class {i} with quite a long name" for i in range(1, classes))]


def class_table(true, predicted, names):
    test = np.bincount(true, minlength=len(names))
    right = np.bincount(true, true == predicted, len(names)).astype(int)
    table = pd.DataFrame({"class_id": range(len(names)), "name": names})
    table["test"], table["correct"] = test, right
    table["recall"] = right / table["test"].replace(0, np.nan)
    ends = np.array([wilson_interval(*pair) for pair in zip(right, test, strict=True)])
    table["recall_low"] = np.where(test > 0, ends[:, 0], np.nan)
    table["recall_high"] = np.where(test > 0, ends[:, 1], np.nan)
    table["precision"] = table["f1"] = table["recall"]
    return table


def mistakes_of(count):
    rng = np.random.default_rng(0)
    shapes = [(32, 32, 3), (20, 60, 3), (250, 90, 3)]
    return [
        (
            rng.integers(0, 256, shapes[i % 3], np.uint8),
            rng.integers(0, 256, (32, 32, 3), np.uint8),
            EVIL,
            f"Class {i} with a long name",
            1 - i / 50,
            f"a/long/folder/name/of/photo_{i:05}.ppm",
        )
        for i in range(count)
    ]


def curves_of(epochs):
    epoch = np.arange(1, epochs + 1)
    return pd.DataFrame(
        {
            "epoch": epoch,
            "train_loss": 2 / epoch,
            "train_accuracy": 1 - 0.6 / epoch,
            "validation_loss": 1.8 / epoch,
            "validation_accuracy": 1 - 0.5 / epoch,
            "learning_rate": 0.004 / epoch,
        }
    )


def corruption_table():
    """Fog does more harm than noise; both more at each level."""
    kinds = [(kind, level) for kind in ("noise", "fog") for level in range(1, 6)]
    table = pd.DataFrame(kinds, columns=["corruption", "level"]).assign(photos=80)
    table["accuracy"] = 1 - table["level"] / np.where(table["corruption"] == "fog", 10, 20)
    return table


def plot_corruptions(path):
    rng = np.random.default_rng(3)
    photo, *variants = (rng.integers(0, 256, (40, 30, 3), np.uint8) for _ in range(11))
    plots.plot_corruptions(photo, variants, corruption_table(), path)


def confidences():
    rng = np.random.default_rng(0)
    confidence = rng.beta(8, 1, 400)
    correct = rng.random(400) < confidence
    return (
        {"before": confidence, "after": confidence**0.5},
        {"before": correct, "after": correct},
        {"before": 0.03, "after": 0.01},
    )


def read(path):
    image = cv2.imread(str(path))
    assert image is not None
    return image


@pytest.mark.parametrize("classes", [2, 58])
def test_confusion_is_small_and_legible(tmp_path, classes):
    true, predicted = answers(classes, untested=[1] if classes > 2 else [])
    plots.plot_confusion(true, predicted, names_of(classes), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size < LIMIT
    height, width = read(tmp_path / "a.png").shape[:2]
    assert min(height, width) > 300
    assert width < 2200


def test_a_single_error_in_a_thousand_is_red(tmp_path):
    true = np.repeat([0, 1], 1000)
    predicted = true.copy()
    plots.plot_confusion(true, predicted, ["a", "b"], tmp_path / "all.png")
    predicted[0] = 1
    plots.plot_confusion(true, predicted, ["a", "b"], tmp_path / "one.png")
    blue, _, red = np.moveaxis(read(tmp_path / "one.png").astype(int), -1, 0)
    assert (red - blue > 25).sum() > 1000
    blue, _, red = np.moveaxis(read(tmp_path / "all.png").astype(int), -1, 0)
    assert (red - blue > 25).sum() == 0


@pytest.mark.parametrize("classes", [2, 58])
def test_recall_draws_tested_and_untested_classes(tmp_path, classes):
    names = names_of(classes)
    table = class_table(*answers(classes, untested=[1]), names)
    assert table["recall"].isna().sum() == 1
    plots.plot_recall(table, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size < LIMIT


def test_reliability_and_curves(tmp_path):
    plots.plot_reliability(*confidences(), tmp_path / "reliability.png")
    perfect = np.ones(3), np.ones(3, bool)
    both = [{"before": part, "after": part} for part in (*perfect, 0.0)]
    plots.plot_reliability(*both, tmp_path / "perfect.png")
    for epochs in (1, 30):
        plots.plot_curves(curves_of(epochs), tmp_path / f"curves{epochs}.png")
    pictures = list(tmp_path.glob("*.png"))
    assert len(pictures) == 4
    for path in pictures:
        read(path)
        assert path.stat().st_size < LIMIT


@pytest.mark.parametrize("count", [0, 1, 40])
def test_mistakes(tmp_path, count):
    plots.plot_mistakes(mistakes_of(count), tmp_path / "a.jpg")
    height, width = read(tmp_path / "a.jpg").shape[:2]
    assert (height > 2 * width / 3) == (count == 40)


def test_mistakes_stand_in_order_of_confidence(tmp_path):
    rows = mistakes_of(8)
    plots.plot_mistakes(rows, tmp_path / "a.jpg")
    plots.plot_mistakes(rows[::-1], tmp_path / "b.jpg")
    assert (tmp_path / "a.jpg").read_bytes() == (tmp_path / "b.jpg").read_bytes()


def test_same_input_same_bytes(tmp_path):
    true, predicted = answers(5)
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        plots.plot_confusion(true, predicted, names_of(5), folder / "confusion.png")
        plots.plot_recall(class_table(true, predicted, names_of(5)), folder / "recall.png")
        plots.plot_reliability(*confidences(), folder / "reliability.png")
        plots.plot_curves(curves_of(5), folder / "curves.png")
        plots.plot_mistakes(mistakes_of(3), folder / "mistakes.jpg")
        plot_corruptions(folder / "corruptions.jpg")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


@pytest.fixture
def metrics(tmp_path):
    """What all stages write, of three classes; the last one is not tested."""
    names = [EVIL, "Stop", "Yield"]
    folders = {name: tmp_path / name for name in ("preprocess", "train", "evaluate", "synthesize")}
    for folder in folders.values():
        folder.mkdir()
    audit = {"files": 90, "leaks": {"exact": 0, "group": 0, "near": 0, "test_percent": 0.0}}
    test = {"images": 1234, "classes": 2, "accuracy": 0.98765, "accuracy_low": 0.97}
    write_json(folders["preprocess"] / "audit.json", audit)
    write_json(
        folders["train"] / "metrics.json",
        {"step": 3, "best": {"epoch": 2}, "parameters": 9876},
    )
    write_json(folders["evaluate"] / "details.json", {"test": test, "onnx_max_difference": 1e-6})
    write_classes(folders["preprocess"], class_table(*answers(3), names).assign(files=7, note=""))
    write_classes(folders["evaluate"], class_table(*answers(3, untested=[2]), names))
    pd.DataFrame({"file": [f"{EVIL}.png"] * 30, "problem": EVIL}).to_csv(
        folders["preprocess"] / "problems.csv", index=False
    )
    pair = {"true_id": [0], "true_name": [EVIL], "predicted_id": [1], "predicted_name": ["Stop"]}
    pd.DataFrame({**pair, "count": [3], "share": [0.25]}).to_csv(
        folders["evaluate"] / "confusions.csv", index=False
    )
    corruption_table().to_csv(folders["evaluate"] / "corruptions.csv", index=False)
    for file in (
        "preprocess/duplicates.jpg",
        "train/curves.png",
        "evaluate/confusion.png",
        "evaluate/recall.png",
        "evaluate/reliability.png",
        "evaluate/mistakes.jpg",
        "evaluate/corruptions.jpg",
        "synthesize/contact_sheet.png",
    ):
        cv2.imwrite(str(tmp_path / file), np.zeros((8, 8, 3), np.uint8))
    return tmp_path


def write_json(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")


def write_classes(folder, table):
    table.to_csv(folder / "classes.csv", index=False)


def settings(**changed):
    return {
        "dataset": "synthetic",
        "train": {"network": "compact", "note": EVIL},
        "evaluate": {"agreement": 0.001},
        "provenance": {"commit": "0123abc", "params": {"seed": 7}},
        **changed,
    }


LABELS = pd.DataFrame({"ClassId": [0, 1, 2], "Name": [EVIL, "Stop", "Yield"]})


def page(metrics, **changed):
    report.write_page(metrics, settings(**changed), LABELS, metrics / "report.html")
    text = (metrics / "report.html").read_text(encoding="utf-8")
    return text, Page(text)


def test_page_holds_all_it_shows(metrics):
    text, parsed = page(metrics)
    assert "http://" not in text
    assert "https://" not in text
    assert "url(" not in text
    pictures = parsed.find("img")
    assert len(pictures) == 8
    assert all(picture["alt"] for picture in pictures)
    assert all(picture["src"].startswith("data:image/") for picture in pictures)
    assert not parsed.find("script")
    assert not parsed.find("link")


def test_page_answers_in_its_first_lines(metrics):
    _, parsed = page(metrics)
    for part in (
        "98.77 % of the test photos are read right",
        "1,234 photos of 2 classes",
        "✓ No leak",
        "✓ The exported ONNX model agrees",
        "9,876",
        "2 of 3",
        "1 of 3 classes have too few distinct photos",
        "2 Yield.",
        "The first 20 of 30",
        "commit 0123abc",
        "params: seed 7",
    ):
        assert part in parsed.text, part


def test_page_says_so_if_the_split_leaks(metrics):
    leaks = {"exact": 9, "group": 12, "near": 0, "test_percent": 41.5}
    write_json(metrics / "preprocess/audit.json", {"leaks": leaks})
    _, parsed = page(metrics)
    assert "✗ Leak: 41.5 % of the test photos" in parsed.text


def test_page_escapes_every_text(metrics):
    text, parsed = page(metrics, dataset=EVIL)
    assert "<script" not in text
    assert parsed.text.count('<script>alert("x")</script> & $5 $9') > 25


def test_page_is_accessible(metrics):
    _, parsed = page(metrics)
    assert parsed.find("html")[0]["lang"] == "en"
    assert len(parsed.find("h1")) == 1
    assert all(head.get("scope") for head in parsed.find("th"))
    assert len(parsed.find("caption")) == len(parsed.find("table"))
    targets = {section["id"] for section in parsed.find("section")}
    assert targets == {link["href"].removeprefix("#") for link in parsed.find("a")}


def test_the_worst_condition_comes_first(metrics):
    _, parsed = page(metrics)
    table = parsed.text[parsed.text.index("Share of the same 80 test photos") :]
    assert table.index("fog") < table.index("noise")
    assert "90.00 %" in table[: table.index("noise")]
    assert "70.00 %" in table[: table.index("noise")]


def test_strangers_are_shown_if_they_were_met(metrics):
    assert "Signs it does not know" not in page(metrics)[1].text
    own, strange = np.linspace(0.5, 1, 50), np.linspace(0, 0.9, 40)
    plots.plot_ood(own, strange, 0.7, metrics / "evaluate/ood.png")
    assert read(metrics / "evaluate/ood.png").std() > 0
    rows = {"name": [EVIL, "30"], "photos": [1200, 3], "refused": [0.25, 1.0]}
    rows |= {"mean_confidence": [0.61, 0.2], "most_frequent_prediction": ["Stop", "None"]}
    pd.DataFrame(rows).to_csv(metrics / "evaluate/ood.csv", index=False)
    details = json.loads((metrics / "evaluate/details.json").read_text())
    details["test"] |= {"strangers": 1203, "ood_rejection_rate": 0.42, "ood_auroc": 0.9765}
    write_json(metrics / "evaluate/details.json", details)
    text, parsed = page(metrics, evaluate={"elsewhere": "gtsrb"})
    assert "42.00 % of 1,203 photos of the set gtsrb (all photos)" in parsed.text
    assert "0.9765" in parsed.text
    assert "1,200 25.00 % 0.610 Stop" in parsed.text
    assert "3 100.00 % 0.200 None" in parsed.text
    assert "<script" not in text


def test_another_set_and_a_committee_are_shown_if_they_were_measured(metrics):
    assert "Another photo set" not in page(metrics)[1].text
    details = json.loads((metrics / "evaluate/details.json").read_text())
    test = details["test"]
    details["elsewhere"] = test | {"images": 1234, "accuracy": 0.9712}
    details["committee"] = test | {"classifiers": 3, "passes": 27, "external_accuracy": 0.9876}
    write_json(metrics / "evaluate/details.json", details | {"external_part": "even tracks"})
    _, parsed = page(metrics, evaluate={"elsewhere": "gtsrb"})
    assert "Of 1,234 photos of the set gtsrb (even tracks)" in parsed.text
    assert "accuracy in the other photo set 97.12 % 98.76 %" in parsed.text
    assert "networks 1 3" in parsed.text
    assert "for one photo 1 27" in parsed.text


@pytest.mark.parametrize("threshold", [-5.0, 0.0, 1.0, 50.0])
def test_strangers_that_are_all_alike(tmp_path, threshold):
    plots.plot_ood(np.ones(3), np.zeros(1), threshold, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size < LIMIT


def test_contact_sheet_only_of_the_rendered_set(metrics):
    _, parsed = page(metrics, dataset="signs")
    assert len(parsed.find("img")) == 7


def test_page_is_the_same_again(metrics):
    assert page(metrics)[0] == page(metrics)[0]


def test_page_without_any_metrics_is_still_a_page(tmp_path):
    _, parsed = page(tmp_path)
    assert not parsed.find("img")
    assert "Every class" in parsed.text
