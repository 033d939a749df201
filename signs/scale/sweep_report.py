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

# Columns of the table, axes of the Pareto pictures.
COLUMNS = {
    "validation_loss": "validation loss",
    "validation_accuracy": "validation accuracy",
    "minutes": "minutes of training",
    "megabytes": "model, MB",
    "milliseconds": "prediction, ms",
}
SHOWN = 20  # trials in the table
STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


def write(study: optuna.Study, metrics: list[str], commit: str, target: Path) -> None:
    """Write the page, and print the best trial; with several metrics those of the Pareto front."""
    complete = study.get_trials(states=[TrialState.COMPLETE])
    if not complete:
        return
    ranked = sorted(complete, key=lambda trial: _sign(metrics[0]) * trial.values[0])
    front = sorted(study.best_trials, key=ranked.index)
    best = ", ".join(trial.user_attrs["experiment"] for trial in front)
    values = ", ".join(f"{value:.4f}" for value in front[0].values)
    states = ", ".join(f"{len(study.get_trials(states=[s]))} {name}" for s, name in STATES.items())
    shown = [
        [trial.user_attrs[key] for key in ("experiment", *COLUMNS)] + [*trial.params.values()]
        for trial in ranked[:SHOWN]
    ]
    with tempfile.TemporaryDirectory() as pictures:
        page = pages.render(
            "sweep.html",
            title=f"Sweep {study.study_name}: {best} is best",
            metric=", ".join(metrics),
            commit=commit[:7],
            best=values,
            states=states,
            head=["experiment", *COLUMNS.values(), *ranked[0].params],
            rows=[[f"{v:.4g}" if isinstance(v, float) else str(v) for v in row] for row in shown],
            pictures=_draw(study, complete, metrics, Path(pictures)),
        )
    files.write_text(target, page)
    print(f"Best: {best}, {', '.join(metrics)} {values} ({states}). Report: {target}")


def _sign(metric: str) -> int:
    return -1 if metric == "validation_accuracy" else 1


def _draw(
    study: optuna.Study, complete: list[FrozenTrial], metrics: list[str], folder: Path
) -> dict[str, Path]:
    """The pictures of the page, by name; those of parameters if they can be compared."""
    # Optuna's plots show one metric: the first.
    first = optuna.create_study(study_name=study.study_name, direction=study.directions[0])
    for trial in study.get_trials():
        trial.values = trial.values and trial.values[:1]
        first.add_trial(trial)
    draw: dict[str, Callable[[], Any]] = {"cost": lambda: _fronts(complete, metrics)}
    if len(complete) > 1 and len(complete[0].params) > 1:
        draw["importance"] = lambda: plots.plot_param_importances(first)
        draw["parallel"] = lambda: plots.plot_parallel_coordinate(first, target_name=metrics[0])
    draw["history"] = lambda: plots.plot_optimization_history(first, target_name=metrics[0])
    draw["curves"] = lambda: plots.plot_intermediate_values(first)
    size: Any = {"figure.figsize": (9, 4.5), "backend": "agg"}
    for name, plot in draw.items():
        with warnings.catch_warnings(), mpl.rc_context(size):
            warnings.simplefilter("ignore")  # Optuna calls these plots experimental
            plot()
            plt.savefig(folder / f"{name}.png", dpi=120, bbox_inches="tight")
            plt.close("all")
    return {name: folder / f"{name}.png" for name in draw}


def _fronts(complete: list[FrozenTrial], metrics: list[str]) -> None:
    """Plot validation accuracy, or the first of several metrics, against each cost."""
    quality, *costs = metrics if len(metrics) > 1 else ["validation_accuracy", *list(COLUMNS)[2:]]
    panels = plt.subplots(1, len(costs), sharey=True, squeeze=False)[1][0]
    for panel, cost in zip(panels, costs, strict=True):
        trials = sorted(
            complete, key=lambda t: [_sign(key) * t.user_attrs[key] for key in (cost, quality)]
        )
        x, y = ([trial.user_attrs[key] for trial in trials] for key in (cost, quality))
        panel.scatter(x, y)
        best = [min(_sign(quality) * value for value in y[: i + 1]) for i in range(len(y))]
        front = [i for i in range(len(y)) if i == 0 or best[i] < best[i - 1]]
        panel.plot([x[i] for i in front], [y[i] for i in front], drawstyle="steps-post")
        for i in front:
            name = trials[i].user_attrs["experiment"].rpartition("-")[2]
            panel.annotate(name, (x[i], y[i]), xytext=(4, 4), textcoords="offset points")
        panel.margins(0.1)  # for the names at the edge
        panel.set_xlabel(COLUMNS[cost])
    panels[0].set_ylabel(COLUMNS[quality])
