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
        ({"metric": "accuracy"}, "metric.0 = 'accuracy': Input should be 'validation_loss', "),
        ({"metric": []}, "metric: the first must be validation_loss or validation_accuracy"),
        ({"metric": ["minutes", "megabytes"], "pruner": "none"}, "metric: the first must be val"),
        ({"metric": ["validation_loss"] * 2}, "metric: each may be named once"),
        ({"metric": ["validation_loss", "megabytes"]}, "pruner: must be none with several"),
        ({"sampler": "magic"}, "sampler = 'magic': Input should be 'tpe' or 'random'"),
        ({"pruner": "median"}, "pruner = 'median': Input should be 'asha' or 'none'"),
        ({"warmup": 0}, "warmup = 0"),
        ({"folds": 11}, "folds = 11, but preprocess.split.folds is 10."),
        ({"gpus_per_trial": 1.5}, "gpus_per_trial: above 1 it must be a whole number"),
        ({"cores_per_trial": 0}, "cores_per_trial = 0"),
        ({"trails": 3}, "trails: unknown key; allowed here: metric, trials"),
        ({"trials": 0}, "trials = 0"),
        ({"space": {}}, "space = {}"),
        ({"space": {RATE: []}}, f"space.{RATE} = []: must be a list of choices, or"),
        ({"space": {RATE: 0.1}}, f"space.{RATE} = 0.1: must be a list of choices, or"),
        ({"space": {RATE: {"low": 0.1}}}, "or low and high, with log and step if need be."),
        ({"space": {RATE: {"low": 0.2, "high": 0.1}}}, "`low <= high` must hold"),
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


@pytest.mark.parametrize("metrics", [["validation_loss"], ["validation_accuracy", "megabytes"]])
def test_the_report_needs_no_other_file(tmp_path, metrics):
    maximized = metrics[0] == "validation_accuracy"
    directions = ["maximize" if maximized else "minimize", "minimize"][: len(metrics)]
    study = optuna.create_study(study_name="example", directions=directions)
    distributions = {
        "train.compact.synthetic_share": optuna.distributions.FloatDistribution(0, 1),
        "train.compact.schedule": optuna.distributions.CategoricalDistribution(["a", "<b>"]),
    }
    for number in range(6):
        pruned = number == 1
        values = dict.fromkeys(sweep_report.COLUMNS, 1.0 - number / 10)
        study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
                values=None if pruned else [values[metric] for metric in metrics],
                params={
                    "train.compact.synthetic_share": number / 10,
                    "train.compact.schedule": "<b>",
                },
                distributions=distributions,
                user_attrs={**values, "experiment": f"example-{number:03d}"},
                intermediate_values={1: 1.0 - number / 10},
            )
        )
    sweep_report.write(study, metrics, "0123456789", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    # With two metrics all are on the front: what is more accurate is larger.
    names = [f"example-{number:03d}" for number in (0, 2, 3, 4, 5)]
    assert f"{', '.join(names) if maximized else names[-1]} is best" in page
    assert "5 complete, 1 pruned, 0 fail" in page
    assert "<b>" not in page
    assert page.count('src="data:image/png;base64,') == 5
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


def test_a_trial_whose_checkpoint_is_gone_begins_again(tmp_path):
    # Not above: Ray reads its variables when it is imported, and test_bulk.py sets them first.
    from ray import tune
    from ray.tune.trainable.trainable import _TrainingResult

    from signs.scale.trial import Training

    # The state of a sweep whose machine died may name one that a newer one has replaced.
    trial = Training.__new__(Training)
    gone = tune.Checkpoint.from_directory(tmp_path / "gone")
    trial.restore(_TrainingResult(gone, {"training_iteration": 7}))
    assert trial.iteration == 0
