"""Sweep files: what they may hold, and that a mistake is refused before a trial runs."""

from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.trial import TrialState

from signs.params import ParamsError
from signs.scale import sweep, sweep_report

RATE = "train.compact.learning_rate"
GOOD: dict[str, Any] = {
    "metric": "validation_loss",
    "trials": 2,
    "settings": {"train.compact.epochs": 3},
    "space": {RATE: {"low": 0.001, "high": 0.01, "log": True}},
}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "example.yaml"
    path.write_text(yaml.safe_dump(GOOD | changes))
    return path


@pytest.mark.parametrize("path", sorted(Path("sweeps").glob("*.yaml")))
def test_the_examples_can_be_used(path):
    assert sweep.space(path, sweep.load(path))


def test_a_space_has_choices_integers_and_numbers(tmp_path):
    space = {
        "train.compact.schedule": ["cosine", "constant"],
        "train.compact.batch_size": {"low": 16, "high": 64, "step": 16},
        "train.compact.synthetic_share": {"low": 0.0, "high": 0.5},
    }
    path = write(tmp_path, space=space)
    found = sweep.space(path, sweep.load(path))
    kinds = {key: type(entry).__name__ for key, entry in found.items()}
    assert kinds == {
        "train.compact.schedule": "CategoricalDistribution",
        "train.compact.batch_size": "IntDistribution",
        "train.compact.synthetic_share": "FloatDistribution",
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "accuracy"}, "metric = 'accuracy': Input should be 'validation_loss' or"),
        ({"sampler": "magic"}, "sampler = 'magic': Input should be 'tpe' or 'random'"),
        ({"pruner": "magic"}, "pruner = 'magic': Input should be 'median', 'hyperband' or 'none'"),
        ({"trails": 3}, "trails: unknown key; allowed here: metric, trials"),
        ({"trials": 0}, "trials = 0"),
        ({"space": {}}, "space = {}"),
        ({"space": {RATE: []}}, f"space.{RATE} = []: must be a list of choices, or"),
        ({"space": {RATE: 0.1}}, f"space.{RATE} = 0.1: must be a list of choices, or"),
        ({"space": {RATE: {"low": 0.1}}}, "high: missing"),
        ({"space": {RATE: {"low": 0.2, "high": 0.1}}}, "low (0.2) must stay below high (0.1)"),
        ({"space": {RATE: {"low": 0.0, "high": 0.1, "log": True}}}, "`low > 0`"),
        ({"space": {RATE: {"low": 0.1, "high": 3.0}}}, f"{RATE} = 3.0: Input should be less"),
        ({"space": {"train.compact.schedule": ["sine"]}}, "train.compact.schedule = 'sine'"),
        ({"space": {"train.compact.rate": [1]}}, "train.compact.rate: unknown key; allowed here"),
        ({"space": {"train.seed.x": [1]}}, "train.seed = {'x': 1}"),
        ({"space": {"preprocess.split.fold": [0, 1]}}, "preprocess.split.fold cannot be searched"),
        ({"space": {"evaluate.tta_shift": [0, 1]}}, "evaluate.tta_shift cannot be searched"),
        ({"space": {"synthesize.blur": [1]}}, "synthesize.blur cannot be searched"),
        (
            {"space": {"train.compact.validation_images": [500, 5000]}},
            "train.compact.validation_images cannot be searched",
        ),
        ({"space": {"train.classic.warmup": [0.0, 0.1]}}, "as train.network is 'compact'"),
        ({"settings": {"train.rate": 1}}, "train.rate: unknown key; allowed here"),
    ],
)
def test_a_mistake_is_refused_with_what_is_allowed(tmp_path, changes, message):
    with pytest.raises(ParamsError) as refusal:
        sweep.load(write(tmp_path, **changes))
    assert message in str(refusal.value)


def test_the_report_needs_no_other_file(tmp_path):
    study = optuna.create_study(study_name="example", direction="minimize")
    study.set_user_attr("commit", "0123456789")
    for number in range(6):
        distributions = {
            "train.compact.synthetic_share": optuna.distributions.FloatDistribution(0, 1),
            "train.compact.schedule": optuna.distributions.CategoricalDistribution(["a", "<b>"]),
        }
        trial = study.ask(distributions)
        trial.report(1.0 - number / 10, 1)
        if number == 1:
            study.tell(trial, state=TrialState.PRUNED)
            continue
        for key in sweep_report.COLUMNS:
            trial.set_user_attr(key, number / 10)
        study.tell(trial, 1.0 - number / 10)
    sweep_report.write(study, "validation_loss", tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "example-005 is best" in page
    assert "5 complete, 1 pruned, 0 fail" in page
    assert "<b>" not in page
    assert page.count('src="data:image/png;base64,') == 5
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
