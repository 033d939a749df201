"""The lines of the gate: each refuses its own kind of bad challenger."""

import argparse
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, permutation_test

from signs import files, paths
from signs.inference.classifier import Classifier
from signs.operations import checks, gate
from tests.inference.small import (
    CLASS_IDS,
    MEANS,
    NAMES,
    PROVENANCE,
    load,
    model,
    plain,
    png,
    write,
    write_photos,
)
from tests.training.small import PARAMS, prepared

GATE = PARAMS.gate
NAMES_OF = dict(zip(CLASS_IDS, NAMES, strict=True))
AUDIT = {"leaks": {"exact": 0, "group": 0, "near": 0}, "unusable": 0, "files": 1000}


def predictions() -> pd.DataFrame:
    """Four classes of 100 photos, in groups of 4: 95 % right, 90 % accepted, calibrated."""
    table = pd.DataFrame({"class_id": np.repeat(CLASS_IDS, 100), "group": np.arange(400) // 4})
    place = np.arange(400) % 100
    table["correct"], table["accepted"] = place >= 5, place >= 10
    return table.assign(confidence=np.where(table["accepted"], 1.0, 0.5))


def refused(*tables: pd.DataFrame) -> list[str]:
    found = checks.of_predictions(tables, NAMES_OF, GATE)
    return [check.name for check in found if not check.passed]


def wrong_here_and_there(now: pd.DataFrame) -> None:
    """Every eighth sign is lost by two of its four frames; each class loses 6 %."""
    lost = (now.index % 32 < 2) & (now.index % 100 >= 10)
    now.loc[lost, ["correct", "accepted"]] = False
    now.loc[lost, "confidence"] = 0.0


def wrong_in_one_class(now: pd.DataFrame) -> None:
    """All frames of four signs, which chance may explain, but all of one class."""
    now.loc[20:35, ["correct", "accepted"]] = False
    now.loc[20:35, "confidence"] = 0.0


def too_sure(now: pd.DataFrame) -> None:
    now["confidence"] = 1.0


def accepts_mistakes(now: pd.DataFrame) -> None:
    now["accepted"] |= ~now["correct"]


def accepts_less(now: pd.DataFrame) -> None:
    now["accepted"] &= now.index % 10 > 0


@pytest.mark.parametrize(
    ("spoil", "names"),
    [
        (lambda _: None, []),
        (wrong_here_and_there, ["accuracy", "share accepted"]),
        (wrong_in_one_class, ["recall of a class"]),
        (too_sure, ["calibration (ECE)"]),
        (accepts_mistakes, ["precision of the accepted"]),
        (accepts_less, ["share accepted"]),
    ],
)
def test_predictions(spoil: Callable[[pd.DataFrame], None], names: list[str]) -> None:
    now, before = predictions(), predictions()
    spoil(now)
    assert refused(now, before) == names
    # The champion may be worse in all respects, and it may be absent.
    assert not refused(before, now)
    absolute = {"calibration (ECE)", "precision of the accepted"}
    assert refused(now) == [name for name in names if name in absolute]


def test_a_line_says_what_was_compared() -> None:
    now, before = predictions(), predictions()
    wrong_in_one_class(now)
    accuracy, recall, *_ = checks.of_predictions([now, before], NAMES_OF, GATE)
    assert (accuracy.challenger, accuracy.champion) == pytest.approx((364 / 400, 0.95))
    assert accuracy.compared_on == "400 photos in 100 groups: 0 photos won, 16 lost, p = 0.0625"
    assert recall.compared_on == "Red, 100 photos in 25 groups"
    assert (recall.challenger, recall.champion) == pytest.approx((0.79, 0.95))
    assert (recall.better, recall.allowed) == ("higher", "at most 0.1 below the champion’s")
    few = GATE.model_copy(update={"min_class_photos": 101})
    recall = checks.of_predictions([now, before], NAMES_OF, few)[1]
    assert (recall.passed, recall.compared_on) == (True, "no class has 101 photos")


def test_photos_of_one_sign_are_no_evidence_of_their_own() -> None:
    """30 lost photos refuse a challenger if they show 30 signs, and not if they show one."""
    before = pd.DataFrame({"class_id": 3, "correct": True, "accepted": True}, range(1000))
    before = before.assign(confidence=1.0)
    now = before.assign(correct=before.index >= 30)
    for size, passed in ((1, False), (30, True)):
        group = before.index // size
        pair = now.assign(group=group), before.assign(group=group)
        assert checks.of_predictions(pair, NAMES_OF, GATE)[0].passed == passed


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({}, None),
        ({"ood_rejection_rate": 0.84}, "OOD rejection rate"),
        ({"ood_fpr95": 0.16}, "OOD FPR at 95 % TPR"),
    ],
)
def test_ood(change: dict[str, float], name: str | None) -> None:
    before = {"ood_images": 1234, "ood_rejection_rate": 0.9, "ood_fpr95": 0.1}
    found = checks.of_ood([before | change, before], GATE)
    assert [check.name for check in found if not check.passed] == ([name] if name else [])
    assert found[0].compared_on == "1,234 OOD photos"
    assert all(check.passed for check in checks.of_ood([before, before | change], GATE))


def test_a_loss_of_exactly_the_limit_is_allowed() -> None:
    limits = GATE.model_copy(update={"max_corrupted_drop": 0.1})
    assert checks.of_corruptions([0.8, 0.9], 200, limits).passed
    assert not checks.of_corruptions([0.799, 0.9], 200, limits).passed
    assert checks.of_corruptions([1.0, 0.5], 200, limits).passed


def test_time() -> None:
    before = np.full(300, 0.001)
    slow, sometimes_slow = before * 1.6, before.copy()
    sometimes_slow[:6] = 0.0025
    for seconds, name in ((before, None), (slow, "median"), (sometimes_slow, "p99")):
        median, p99 = checks.of_time(np.array([seconds, before]), GATE)
        assert (median.passed, p99.passed) == (name != "median", name != "p99")
    assert (p99.challenger, p99.champion) == pytest.approx((2.5, 1.0))


@pytest.mark.parametrize(
    ("leaks", "unusable", "megabytes", "name"),
    [(0, 0, 1, None), (1, 0, 1, "no leak"), (0, 11, 1, "unusable files"), (0, 0, 4.1, "size, MB")],
)
def test_files(leaks: int, unusable: int, megabytes: float, name: str | None) -> None:
    audit = AUDIT | {"leaks": AUDIT["leaks"] | {"near": leaks}, "unusable": unusable}
    found = checks.of_files(audit, megabytes, PARAMS)
    assert [check.name for check in found if not check.passed] == ([name] if name else [])


# The sign-flip test.


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (0, 1), (3, 8), (8, 3), (0, 10)])
def test_single_photos_have_the_p_value_of_mcnemars_exact_test(won: int, lost: int) -> None:
    gained = np.repeat([1, -1, 0], [won, lost, 50])
    p = binomtest(lost, won + lost, alternative="greater").pvalue if won + lost else 1
    assert checks.p_of_loss(gained) == pytest.approx(p)


def test_three_groups_by_hand() -> None:
    """Of the sums of ±1 ±2 ±4, -7 and -5 are at most -5."""
    assert checks.p_of_loss(np.array([1, -2, -4])) == 2 / 8


def test_many_groups_are_drawn() -> None:
    rng = np.random.default_rng(6)
    gained = rng.integers(-5, 5, 16)
    expected = permutation_test(
        (gained,), np.sum, permutation_type="samples", alternative="less", n_resamples=2**16
    ).pvalue
    assert checks.p_of_loss(gained) == pytest.approx(expected, abs=0.02)
    assert checks.p_of_loss(gained) == checks.p_of_loss(gained)
    assert checks.p_of_loss(np.full(200, -3)) < 0.001


# The command, with real classifiers of a few bytes.

Gate = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def run_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Runs the gate on photos of three colours; those of other signs are nearly black."""
    monkeypatch.chdir(tmp_path)
    samples = write_photos(Path("data/colors"), 8).assign(split="test")
    labels = pd.DataFrame({"ClassId": CLASS_IDS, "Name": NAMES})
    data = dataclasses.replace(prepared(), samples=samples, labels=labels, dataset="colors")
    data.digest = "digest"
    for name in ("Horn", "Village"):
        Path("data/other", name).mkdir(parents=True)
        for grey in (3, 6):
            photo = png(plain((grey, grey, grey), size=20)[0])
            Path("data/other", name, f"{grey}.png").write_bytes(photo)
    paths.AUDIT.parent.mkdir(parents=True)
    files.write_json(paths.AUDIT, AUDIT)
    monkeypatch.setattr(gate.arrays, "load", lambda: data)
    monkeypatch.setattr(gate, "_time", lambda *_: 0.001)

    def run(champion: Classifier | None, **settings: Any) -> tuple[int, dict[str, Any]]:
        changes = {"external_set": "other", "external_photos": 9, "corruption_photos": 3}
        evaluate = PARAMS.evaluate.model_copy(update=changes | settings)
        changed = PARAMS.model_copy(update={"evaluate": evaluate})
        monkeypatch.setattr(gate.params, "load", lambda: changed)
        monkeypatch.setattr(
            gate.revisions, "classifier_of", lambda _, threads: {1: champion}[threads]
        )
        revision = "v1" if champion else "none"
        status = gate.run(argparse.Namespace(champion=revision))
        return status, json.loads(gate.VERDICT.read_bytes())

    return run


def names_of(verdict: dict[str, Any], passed: bool) -> list[str]:
    return [check["name"] for check in verdict["checks"] if check["passed"] == passed]


def test_an_equal_challenger_passes(run_gate: Gate) -> None:
    """The champion's classes have another order, and one OOD class was in its training."""
    write(paths.CLASSIFIER)
    order = [2, 0, 3, 1]
    champion = load(
        Path("champion"),
        model(MEANS[..., order], (0, 0, 1, 0)),
        class_ids=[CLASS_IDS[i] for i in order],
        names=[NAMES[i] for i in order],
        provenance=PROVENANCE | {"auxiliary_outliers": ["horn"]},
    )
    status, verdict = run_gate(champion)
    assert (status, names_of(verdict, passed=False)) == (0, [])
    for check in verdict["checks"][3:]:
        assert check["champion"] == pytest.approx(check["challenger"], abs=1e-6), check
    compared_on = {check["name"]: check["compared_on"] for check in verdict["checks"]}
    assert compared_on["accuracy"].startswith("24 photos in 24 groups: 0 photos won, 0 lost")
    assert compared_on["OOD rejection rate"] == "2 OOD photos"
    assert compared_on["corrupted accuracy"] == "3 photos, corrupted"
    text = gate.TEXT.read_text()
    assert "May be deployed" in text
    assert "| ✓ | OOD rejection rate | 2 OOD photos | 1 | 1 | higher | at most 0.05 below" in text


def test_a_challenger_that_accepts_what_it_does_not_know(run_gate: Gate) -> None:
    write(paths.CLASSIFIER, energy_threshold=-9.0, threshold=0.0)
    status, verdict = run_gate(load(Path("champion")))
    assert (status, names_of(verdict, passed=False)) == (1, ["OOD rejection rate"])
    assert "REFUSED" in gate.TEXT.read_text()


def test_a_challenger_that_reads_no_corrupted_photo(run_gate: Gate) -> None:
    """Only the brightest colours are not taken for grey."""
    brittle = model(bias=(0, 0, 0, 15.5))
    write(paths.CLASSIFIER, brittle, temperature=0.05, energy_threshold=16.0)
    status, verdict = run_gate(load(Path("champion")))
    assert (status, names_of(verdict, passed=False)) == (1, ["corrupted accuracy"])


def test_a_slow_challenger(run_gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    write(paths.CLASSIFIER)
    champion = load(Path("champion"))
    monkeypatch.setattr(gate, "_time", lambda used, *_: 0.001 if used is champion else 0.0019)
    status, verdict = run_gate(champion)
    assert (status, names_of(verdict, passed=False)) == (1, ["time for a photo, median, ms"])


def test_what_is_not_measured_is_said(run_gate: Gate) -> None:
    write(paths.CLASSIFIER)
    champion = load(Path("champion"))
    status, verdict = run_gate(champion, external_photos=0, corruption_photos=0)
    assert status == 0
    rows = {check["name"]: check for check in verdict["checks"]}
    assert rows["OOD"]["compared_on"] == "not measured (evaluate.external_photos: 0)"
    corrupted = rows["corrupted accuracy"]
    assert corrupted["compared_on"] == "not measured (evaluate.corruption_photos: 0)"
    assert (corrupted["challenger"], corrupted["champion"]) == (None, None)
    knows = PROVENANCE | {"auxiliary_outliers": ["Horn", "Village"]}
    shutil.copytree("data/colors/Red", "data/other/Red")
    _, verdict = run_gate(load(Path("other_champion"), provenance=knows))
    reason = "not measured: no photo is OOD for both classifiers"
    assert reason in [check["compared_on"] for check in verdict["checks"]]


def test_the_first_classifier_needs_only_absolute_limits(run_gate: Gate) -> None:
    write(paths.CLASSIFIER)
    status, verdict = run_gate(None)
    absolute = ["no leak", "unusable files", "size, MB"]
    absolute += ["calibration (ECE)", "precision of the accepted"]
    assert (status, names_of(verdict, passed=True)) == (0, absolute)
    assert verdict["notes"] == ["There is no champion to compare with."]
