"""The results of a sweep as one HTML page that needs no other file."""

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import optuna
from matplotlib import pyplot as plt
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization import matplotlib as plots

from signs import files
from signs.reporting import pages

COLUMNS = {
    "validation_loss": "validation loss",
    "validation_accuracy": "validation accuracy",
    "best_epoch": "best epoch",
    "epochs": "epochs",
    "minutes": "minutes",
    "megabytes": "model, MB",
}
SHOWN = 20  # trials in the table


def write(study: optuna.Study, metric: str, folder: Path) -> None:
    """Write report.html into the sweep's folder, and print the best trial."""
    complete = study.get_trials(states=[TrialState.COMPLETE])
    if not complete:
        return
    maximized = study.direction == optuna.study.StudyDirection.MAXIMIZE
    ranked = sorted(complete, key=lambda trial: trial.values[0], reverse=maximized)
    states = ", ".join(
        f"{len(study.get_trials(states=[state]))} {state.name.lower()}"
        for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    )
    best = f"{study.study_name}-{ranked[0].number:03d}"
    searched = list(ranked[0].params)
    rows = [
        [f"{study.study_name}-{trial.number:03d}"]
        + [cell(trial.user_attrs[key]) for key in COLUMNS]
        + [cell(trial.params[key]) for key in searched]
        for trial in ranked[:SHOWN]
    ]
    with tempfile.TemporaryDirectory() as pictures:
        page = pages.render(
            "sweep.html",
            title=f"Sweep {study.study_name}: {best} is best",
            metric=metric,
            commit=study.user_attrs["commit"][:7],
            best=f"{ranked[0].values[0]:.4f}",
            states=states,
            head=["experiment", *COLUMNS.values(), *searched],
            rows=rows,
            pictures=_draw(study, complete, metric, Path(pictures)),
        )
    target = folder / "report.html"
    files.write_text(target, page)
    print(f"Best: {best}, {metric} {ranked[0].values[0]:.4f} ({states}). Report: {target}")


def cell(value: Any) -> str:
    """A number with four significant digits; other values unchanged."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _draw(
    study: optuna.Study, complete: list[FrozenTrial], metric: str, folder: Path
) -> dict[str, Path]:
    """The pictures of the page, by name; those of parameters if they can be compared."""
    draw: dict[str, Callable[[], object]] = {"cost": lambda: _fronts(complete)}
    if len(complete) > 1 and len(complete[0].params) > 1:
        draw["importance"] = lambda: plots.plot_param_importances(study)
        draw["parallel"] = lambda: plots.plot_parallel_coordinate(study, target_name=metric)
    draw["history"] = lambda: plots.plot_optimization_history(study, target_name=metric)
    draw["curves"] = lambda: plots.plot_intermediate_values(study)
    for name, plot in draw.items():
        with (
            warnings.catch_warnings(),
            mpl.rc_context({"figure.figsize": (9, 4.5), "backend": "agg"}),
        ):
            warnings.simplefilter("ignore")  # Optuna calls these plots experimental
            plot()
            plt.savefig(folder / f"{name}.png", dpi=120, bbox_inches="tight")
            plt.close("all")
    return {name: folder / f"{name}.png" for name in draw}


def _fronts(complete: list[FrozenTrial]) -> None:
    """Plot validation accuracy against minutes of training and megabytes of the model."""
    _, panels = plt.subplots(1, 2, sharey=True)
    for panel, (cost, label) in zip(
        panels, {"minutes": "minutes of training", "megabytes": "model, MB"}.items(), strict=True
    ):
        points = sorted(
            (trial.user_attrs[cost], -trial.user_attrs["validation_accuracy"], trial.number)
            for trial in complete
        )
        panel.scatter([x for x, _, _ in points], [-y for _, y, _ in points])
        front = [p for i, p in enumerate(points) if all(p[1] < q[1] for q in points[:i])]
        panel.plot([x for x, _, _ in front], [-y for _, y, _ in front], drawstyle="steps-post")
        for x, y, number in front:
            panel.annotate(f"{number:03d}", (x, -y), xytext=(4, 4), textcoords="offset points")
        panel.set_xlabel(label)
    panels[0].set_ylabel("validation accuracy")
