"""The results of a sweep as one HTML page that needs no other file."""

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import optuna
from matplotlib import pyplot as plt
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization import matplotlib as plots

from signs import files
from signs.reporting import pages

# Columns of the table, axes of the Pareto pictures.
COLUMNS = {
    "validation_loss": "validation loss",
    "validation_accuracy": "validation accuracy",
    "minutes": "minutes of training",
    "megabytes": "model, MB",
    "milliseconds": "prediction, ms",
}
SHOWN = 20  # trials in the table


def write(study: optuna.Study, metrics: list[str], target: Path) -> None:
    """Write the page, and print the best trial; with several metrics those of the Pareto front."""
    complete = study.get_trials(states=[TrialState.COMPLETE])
    if not complete:
        return
    sign = -1 if study.directions[0] == StudyDirection.MAXIMIZE else 1
    ranked = sorted(complete, key=lambda trial: sign * trial.values[0])
    front = sorted(study.best_trials, key=ranked.index)
    best = ", ".join(trial.user_attrs["experiment"] for trial in front)
    states = ", ".join(
        f"{len(study.get_trials(states=[state]))} {state.name.lower()}"
        for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    )
    searched = list(ranked[0].params)
    rows = [
        [trial.user_attrs["experiment"]]
        + [cell(trial.user_attrs[key]) for key in COLUMNS]
        + [cell(trial.params[key]) for key in searched]
        for trial in ranked[:SHOWN]
    ]
    values = ", ".join(f"{value:.4f}" for value in front[0].values)
    with tempfile.TemporaryDirectory() as pictures:
        page = pages.render(
            "sweep.html",
            title=f"Sweep {study.study_name}: {best} is best",
            metric=", ".join(metrics),
            commit=study.user_attrs["commit"][:7],
            best=values,
            states=states,
            head=["experiment", *COLUMNS.values(), *searched],
            rows=rows,
            pictures=_draw(study, metrics, Path(pictures)),
        )
    files.write_text(target, page)
    print(f"Best: {best}, {', '.join(metrics)} {values} ({states}). Report: {target}")


def cell(value: Any) -> str:
    """A number with four significant digits; other values unchanged."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _draw(study: optuna.Study, metrics: list[str], folder: Path) -> dict[str, Path]:
    """The pictures of the page, by name; those of parameters if they can be compared."""
    complete = study.get_trials(states=[TrialState.COMPLETE])
    draw: dict[str, Callable[[], object]] = {"cost": lambda: _fronts(complete, metrics)}
    # Optuna's plots show one metric: the first.
    first = optuna.create_study(study_name=study.study_name, direction=study.directions[0])
    for trial in study.get_trials():
        trial.values = trial.values and trial.values[:1]
        first.add_trial(trial)
    if len(complete) > 1 and len(complete[0].params) > 1:
        draw["importance"] = lambda: plots.plot_param_importances(first)
        draw["parallel"] = lambda: plots.plot_parallel_coordinate(first, target_name=metrics[0])
    draw["history"] = lambda: plots.plot_optimization_history(first, target_name=metrics[0])
    draw["curves"] = lambda: plots.plot_intermediate_values(first)
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


def _fronts(complete: list[FrozenTrial], metrics: list[str]) -> None:
    """Plot validation accuracy, or the first of several metrics, against each cost."""
    quality, *costs = metrics if len(metrics) > 1 else ["validation_accuracy", *list(COLUMNS)[2:]]
    sign = -1 if quality == "validation_accuracy" else 1
    panels = plt.subplots(1, len(costs), sharey=True, squeeze=False)[1][0]
    for panel, cost in zip(panels, costs, strict=True):
        turn = -1 if cost == "validation_accuracy" else 1
        points = sorted(
            (turn * trial.user_attrs[cost], sign * trial.user_attrs[quality], trial)
            for trial in complete
        )
        front = [p for i, p in enumerate(points) if all(p[1] < q[1] for q in points[:i])]
        panel.scatter([turn * x for x, *_ in points], [sign * y for _, y, _ in points])
        panel.plot(
            [turn * x for x, *_ in front], [sign * y for _, y, _ in front], drawstyle="steps-post"
        )
        for x, y, trial in front:
            place = (turn * x, sign * y)
            name = trial.user_attrs["experiment"].rpartition("-")[2]
            panel.annotate(name, place, xytext=(4, 4), textcoords="offset points")
        panel.set_xlabel(COLUMNS[cost])
    panels[0].set_ylabel(COLUMNS[quality])
