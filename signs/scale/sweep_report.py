"""What a sweep found, as one HTML page that holds all it shows."""

import html
import string
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

from signs.reporting import report

COLUMNS = {
    "validation_loss": "validation loss",
    "validation_accuracy": "validation accuracy",
    "best_epoch": "best epoch",
    "epochs": "epochs",
    "minutes": "minutes",
    "megabytes": "model, MB",
}
SHOWN = 20


def write(study: optuna.Study, metric: str, folder: Path) -> None:
    """Write report.html into the sweep's folder, and say which trials were best."""
    complete = study.get_trials(states=[TrialState.COMPLETE])
    if not complete:
        return
    downwards = study.direction == optuna.study.StudyDirection.MAXIMIZE
    ranked = sorted(complete, key=lambda found: found.values[0], reverse=downwards)
    counts = {
        state.name.lower(): len(study.get_trials(states=[state]))
        for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    }
    best = f"{study.study_name}-{ranked[0].number:03d}"
    searched = list(ranked[0].params)
    rows = [
        [f"{study.study_name}-{found.number:03d}"]
        + [cell(found.user_attrs[key]) for key in COLUMNS]
        + [cell(found.params[key]) for key in searched]
        for found in ranked[:SHOWN]
    ]
    head = ["experiment", *COLUMNS.values(), *searched]
    caption = f"By {metric}, on validation photos; the test photos were not looked at"
    states = ", ".join(f"{count} {state}" for state, count in counts.items())
    title = f"Sweep {study.study_name}: {best} is best"
    body = (
        f'<p class="kicker">{html.escape(metric)}, from commit {study.user_attrs["commit"][:7]}</p>'
        f"<h1>{html.escape(title)}</h1>\n"
        f'<p class="lead">{metric} {ranked[0].values[0]:.4f}. Trials: {states}.</p>\n'
        + _section("Best trials", report.html_table(caption, head, rows, range(1, len(head))))
        + _section(
            "Cost",
            _picture(
                lambda: _fronts(complete),
                "Accuracy against cost; the line joins the trials "
                "that no other beats in both. Times compare if as many trials ran side by "
                "side on the same machine.",
            ),
        )
    )
    if len(complete) > 1 and len(searched) > 1:
        importance = (
            "How much of what sets good trials apart each parameter explains (PED-ANOVA; with few "
            "trials a guess)."
        )
        body += _section(
            "Parameters",
            _picture(lambda: plots.plot_param_importances(study), importance)
            + _picture(
                lambda: plots.plot_parallel_coordinate(study, target_name=metric),
                "Each line is a trial.",
            ),
        )
    body += _section(
        "Course",
        _picture(
            lambda: plots.plot_optimization_history(study, target_name=metric), "Trial by trial."
        )
        + _picture(
            lambda: plots.plot_intermediate_values(study),
            f"{metric} by epoch; lines that end early were pruned.",
        ),
    )
    page = string.Template(report.TEMPLATE.read_text(encoding="utf-8"))
    target = folder / "report.html"
    target.write_text(page.substitute(title=html.escape(title), body=body), encoding="utf-8")
    print(f"Best: {best}, {metric} {ranked[0].values[0]:.4f} ({states}). Report: {target}")


def cell(value: Any) -> str:
    """A number with four digits, other values as they are."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _section(title: str, content: str) -> str:
    return f"<section>\n<h2>{title}</h2>\n{content}</section>\n"


def _picture(draw: Callable[[], Any], caption: str) -> str:
    with (
        tempfile.TemporaryDirectory() as folder,
        warnings.catch_warnings(),
        mpl.rc_context({"figure.figsize": (9, 4.5), "backend": "agg"}),
    ):
        warnings.simplefilter("ignore")  # Optuna calls its pictures experimental
        draw()
        path = Path(folder) / "picture.png"
        plt.savefig(path, dpi=120, bbox_inches="tight")
        plt.close("all")
        return report.html_picture(path, caption, caption)


def _fronts(complete: list[FrozenTrial]) -> None:
    """Validation accuracy against minutes of training and megabytes of the model."""
    _, panels = plt.subplots(1, 2, sharey=True)
    for panel, (cost, label) in zip(
        panels, {"minutes": "minutes of training", "megabytes": "model, MB"}.items(), strict=True
    ):
        points = sorted(
            (found.user_attrs[cost], -found.user_attrs["validation_accuracy"], found.number)
            for found in complete
        )
        panel.scatter([x for x, _, _ in points], [-y for _, y, _ in points])
        front = [p for i, p in enumerate(points) if all(p[1] < q[1] for q in points[:i])]
        panel.plot([x for x, _, _ in front], [-y for _, y, _ in front], drawstyle="steps-post")
        for x, y, number in front:
            panel.annotate(f"{number:03d}", (x, -y), xytext=(4, 4), textcoords="offset points")
        panel.set_xlabel(label)
    panels[0].set_ylabel("validation accuracy")
