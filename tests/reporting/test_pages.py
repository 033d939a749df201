"""What the pages say: all that was measured, and nothing else."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import jinja2
import numpy as np
import pandas as pd
import pytest

from signs.reporting import pages, report
from tests.reporting.conftest import AUDIT, DETAILS, EVIL, NAMES, OOD_FILES, TEST, settings, write

PICTURES = "curves.png confusion.png recall.png reliability.png mistakes.jpg corruptions.jpg"
PICTURES += " duplicates.jpg contact_sheet.png"


def page(run: Path, **changed: Any) -> tuple[str, ElementTree.Element]:
    """The text that a reader sees, and the page, which must be well-formed."""
    labels = pd.DataFrame({"ClassId": [0, 1, 2], "Name": NAMES})
    report.write_page(run / "metrics", settings(**changed), labels, run / "report.html")
    tree = ElementTree.fromstring((run / "report.html").read_text(encoding="utf-8"))
    return " ".join(" ".join(tree.itertext()).split()), tree


def card(run: Path, **changed: Any) -> str:
    report.write_card(run / "metrics", settings(**changed), 1_270_000, run / "docs/card.md")
    return (run / "docs/card.md").read_text(encoding="utf-8").replace("\N{NO-BREAK SPACE}", " ")


def has(text: str, *parts: str) -> bool:
    """Whether it has all parts, in this order."""
    place = 0
    for part in parts:
        assert part in text[place:], (part, text)
        place = text.index(part, place)
    return True


def change(run: Path, name: str, content: dict[str, Any]) -> None:
    write(run, {f"metrics/{name}.json": json.dumps(content)})


@pytest.mark.parametrize("absent", [None, float("nan"), jinja2.Undefined()])
def test_numbers_and_what_is_absent(absent: Any) -> None:
    assert {pages.percent(absent), pages.number(absent), pages.number(absent, 2)} == {"–"}
    assert pages.percent(0.12345) == "12.35\N{NO-BREAK SPACE}%"
    assert (pages.number(1234567), pages.number(1234.5678, 2)) == ("1,234,567", "1,234.57")
    with pytest.raises(jinja2.UndefinedError):
        pages.render("report.html")


def test_page_is_accessible_and_holds_all_it_shows(run: Path) -> None:
    (run / "metrics/report").mkdir()
    for name in PICTURES.split():
        cv2.imwrite(str(run / "metrics/report" / name), np.zeros((8, 8, 3), np.uint8))
    _, tree = page(run)
    text = (run / "report.html").read_text(encoding="utf-8")
    assert not any(outside in text for outside in ("http://", "https://", "url(", "<link"))
    images = list(tree.iter("img"))
    assert len(images) == 8
    assert all(image.get("alt") for image in images)
    assert all(image.get("src", "").startswith("data:image/") for image in images)
    assert tree.get("lang") == "en"
    assert len(list(tree.iter("h1"))) == 1
    assert all(head.get("scope") for head in tree.iter("th"))
    assert len(list(tree.iter("caption"))) == len(list(tree.iter("table")))
    targets = {f"#{section.get('id')}" for section in tree.iter("section")}
    assert targets == {link.get("href") for link in tree.iter("a")}


def test_page_tells_all_numbers(run: Path) -> None:
    text, _ = page(run)
    assert has(
        text,
        "98.77 % of the test photos are read right",
        "1,234 photos in 99 groups of 2 classes",
        "✓ No leak",
        "Split at random, 84.6 % would have",
        "✓ The exported ONNX model agrees",
        "at most 1e-06. The classifier computes with 8-bit integers and gives the same",
        "Epochs 3 the network of the last one is deployed",
        "Parameters 9,876",
        "1 of 3 classes have too few distinct photos",
        "2 a|b.",
        "Accepted 99.00 % confidence of at least 0.750 and energy score of at least 4.500",
        f"Stop 0 {EVIL} 3 25.00 %",
        "brightness (mean grey level of the sign, 0 to 255) 12.5 80.2 14 43.21 %",
        # The condition that does most harm comes first.
        "Share of the same 80 test photos",
        "fog 87.50 % 75.00 % 62.50 % 50.00 % 37.50 % 62.50 %",
        "brightness",
        "The first 20 of 30",
        "1 Stop 7 4 2 50.00 %",
        "fingerprint 0123abc",
        "split: group: duplicates",
    )
    assert "–" not in text[: text.index("Every class", text.index("Settings and"))]


def test_every_text_is_escaped(run: Path) -> None:
    write(run, OOD_FILES)
    text, tree = page(run, dataset=EVIL)
    assert not list(tree.iter("script"))
    assert text.count(EVIL) > 40


@pytest.mark.parametrize("kind", ["exact", "group", "near", "test_percent"])
def test_a_leak_is_the_first_thing_that_both_say(kind: str, run: Path) -> None:
    leaks = AUDIT["leaks"] | {kind: 41.5, "test_percent_if_split_at_random": None}
    change(run, "preprocess/audit", AUDIT | {"leaks": leaks})
    percent = leaks["test_percent"]
    text, _ = page(run)
    assert has(text, f"✗ Leak: {percent} % of the test photos have an exact duplicate")
    assert "No leak" not in text
    text = card(run)
    assert has(text, f"exact duplicate in training: {percent} %.")
    assert has(text, "1,234 test photos: the split leaks, so they are too good")
    assert "share no group" not in text


def test_ood_photos_are_shown_if_they_were_measured(run: Path) -> None:
    assert "Out-of-distribution" not in page(run)[0]
    assert has(card(run), "`evaluate.external_set` has no classes that")
    write(run, OOD_FILES)
    measured = "42.00 % of 1,203 photos of the set ood (odd tracks)", "AUROC: 0.9765"
    assert has(page(run)[0], *measured, "1,200 25.00 % 0.610 Stop 30 3 100.00 % 0.200 None")
    assert has(
        card(run),
        "42.0 % of 1,203 photos of the set `ood` (odd tracks)",
        "accepts 99 % of the test photos rejects 50.0 %",
        "25 %, read as Stop), 30 (100 %, read as None).\n\n## Limits",
    )


def test_external_set_and_ensemble_are_shown_if_they_were_measured(run: Path) -> None:
    before = page(run)[0] + card(run)
    assert not [what for what in ("External test set", "Ensemble") if what in before]
    external = TEST | {"images": 777, "accuracy": 0.9712}
    ensemble = TEST | {"classifiers": 1, "passes": 9, "accuracy": 0.9876}
    ensemble |= {"ood_rejection_at_99": None}  # not measured, so not shown
    more = {"external": external, "ensemble": ensemble | {"external_accuracy": 0.9912}}
    change(run, "evaluate/details", DETAILS | more)
    assert has(
        page(run)[0],
        "97.12 % of 777 photos of the set ood (odd tracks) are read right",
        "accuracy 98.77 % 98.76 %",
        "accuracy on the external test set 97.12 % 99.12 %",
        "networks 1 1 passes through a network for one photo 1 9",
    )
    assert "OOD photos rejected" not in page(run)[0]
    assert has(
        card(run),
        "97.12 % of 777 photos of the set `ood` (odd tracks) are read right",
        "mean prediction of 1 such classifier, in 9 passes",
    )


def test_what_integers_cost_is_shown_if_they_are_deployed(run: Path) -> None:
    assert "integers cost" not in page(run)[0]
    integers = {"accuracy": 0.9871, "ece": 0.0071, "accepted": 0.9851, "megabytes": 0.76}
    floats = {"accuracy": 0.9876, "ece": 0.0061, "accepted": 0.9901, "megabytes": 2.752}
    change(run, "evaluate/details", DETAILS | {"formats": {"int8": integers, "float32": floats}})
    assert has(
        page(run)[0],
        "What 8-bit integers cost",
        "accuracy 98.71 % 98.76 % ECE 0.0071 0.0061 accepted 98.51 % 99.01 % megabytes 0.76 2.75",
    )


def test_page_without_any_metrics_is_still_a_page(tmp_path: Path) -> None:
    text, tree = page(tmp_path)
    assert not list(tree.iter("img"))
    assert "Every class" in text
    assert "leak" not in text.lower()


def test_card_tells_all_numbers(run: Path) -> None:
    text = card(run)
    assert has(
        text,
        "fingerprint `0123abc`",
        "9,876 parameters, 1.3 MB as ONNX",
        "32x32 pixels rgb",
        "temperature 1.250",
        "confidence is below 0.750 or the energy score below 4.500",
        "Trained on 153,600 images in 12 epochs, seed 7",
        "4,170 files, 1,672 distinct photos in 1,281 groups",
        "1,326 train, 171 validation, 175 test; 3 classes have too few groups",
        "exact duplicate in training: 0.0 % (split at random: 84.6 %).",
        "## Results on 1,234 test photos that share no group with training",
        "| accuracy (95 % interval) | 98.77 % (97.00 % to 99.50 %) |",
        # The hardest class comes first; the one that is not tested has no recall.
        "| 1 Stop | 4 | 50.0 % | 20.0 % to 90.0 % |\n"
        f"| 0 {EVIL} | 40 | 90.0 % | 80.0 % to 100.0 % |\n\n",
        "| fog | 62.5 % | 37.5 % |",
        "| brightness | 85.0 % | 75.0 % |",
        "All photos are synthetic",
        "calibrated on 171 validation photos",
    )
    assert "are training photos, too" not in text
    assert "auxiliary outliers" not in text


def test_classes_may_have_any_name(run: Path) -> None:
    head = "class_id,name,test,recall,recall_low,recall_high\n"
    rows = "0,30,9,.9,.8,1\n1,a|b,4,.5,.2,.9\n2,None,5,.6,.2,.9\n"
    write(run, {"metrics/evaluate/classes.csv": head + rows})
    assert has(card(run), "| 1 a/b | 4", "| 2 None | 5", "| 0 30 | 9")


def test_card_says_what_was_not_asked_for(run: Path) -> None:
    (run / "metrics/evaluate/corruptions.csv").unlink()
    text = card(run, evaluate=settings()["evaluate"] | {"external_photos": 0})
    skipped = (f"Not measured (`evaluate.{kind}_photos: 0`)" for kind in ("corruption", "external"))
    assert has(text, *skipped)
    assert "AUROC" not in text


def test_card_declares_synthetic_photos_and_outliers(run: Path) -> None:
    change(run, "preprocess/audit", AUDIT | {"synthetic": {"photos": 58000, "classes": 58}})
    provenance = settings()["provenance"] | {"auxiliary_outliers": "No sign, Village"}
    text = card(run, dataset="signs", provenance=provenance)
    assert has(
        text,
        "58,000 synthetic photos of 58 classes are training photos, too.",
        "other signs (auxiliary outliers, synthetic): No sign, Village.",
    )
    assert "All photos are synthetic" not in text
