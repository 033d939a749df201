"""Train other people's classifiers on the photos of docs/results.md, and write docs/peers.md.

    make peers                    less than an hour on two cores
    make peers BUDGET=819200      as many images as the row of docs/results.md: hours
    make peers BUDGET=3000        a trial: each training sees some 3,000 images
    make peers ARGS=mobilenet     one of them: ours, yolo, mobilenet, hog
    make peers ARGS=--table       only the page, from the rows that exist

Each of them sees as many images in training as ours, and is judged by `signs judge` on the same
validation and test photos. A row that exists for the present code is not made again. The files of
a run, a trial's page among them, are in build/peers/BUDGET.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks import exports, results, runs
from benchmarks.peers import photos
from signs import machine
from signs.data import arrays
from signs.errors import UserError, run_stage
from signs.files import make_empty, write_text
from signs.paths import CLASSIFIER, DATA, PREPARED

ROW = "gtsrb, compact, held-out quarter of the tracks"
STEPS, BATCH = 100, 128  # of an epoch in ours
IMAGES = 8 * STEPS * BATCH  # an eighth of the row's training
OTHER_CLASSES = DATA / "signs"
BUILD, HERE, LOCK = Path("build/peers"), Path(__file__).parent, Path("requirements/peers.txt")

OURS = "ours"
TITLES = {
    OURS: "`compact`, ours, 32 pixels",
    "yolo": "YOLO11n-cls of Ultralytics, 64 pixels",
    "mobilenet": "MobileNetV3-small of keras.applications, 64 pixels",
    "hog": "HOG and a linear discriminant, 40 pixels",
}
# Each takes the training photos, the ONNX file to write, and the number of images.
UV = [str(Path(sys.executable).parent / "uv"), "run", "--isolated", "--no-project", "--python"]
TRAINERS = {
    "yolo": [*UV, sys.executable, "--with-requirements", str(LOCK), "python", f"{HERE}/yolo.py"],
    "mobilenet": [sys.executable, "-m", "benchmarks.peers.mobilenet"],
    "hog": [sys.executable, "-m", "benchmarks.peers.hog"],
}


def compare() -> None:
    """Make the rows that are missing, and write the page."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("which", nargs="*", metavar="NAME", help="default: all")
    parser.add_argument("--budget", type=int, default=IMAGES, help="images that each training sees")
    parser.add_argument("--table", action="store_true", help="run nothing, write the page only")
    arguments = parser.parse_args()
    if unknown := set(arguments.which) - set(TITLES):
        raise UserError(f"{', '.join(unknown)} is none of: {', '.join(TITLES)}.")
    if arguments.budget < BATCH:
        raise UserError(f"BUDGET must be {BATCH} images or more.")
    build = BUILD / str(arguments.budget)
    page, table = build / "peers.md", build / "peers.csv"
    if arguments.budget == IMAGES:
        page, table = Path("docs/peers.md"), runs.FOLDER / "peers.csv"
    if not arguments.table:
        _make_rows(arguments.which or list(TITLES), arguments.budget, build, table)
    write_text(page, _markdown(_rows(table), arguments.budget))
    print(f"The table is in {page}.")


def _make_rows(names: list[str], budget: int, build: Path, table: Path) -> None:
    experiment, settings = next(iter(results.page().experiments[ROW].items()))
    steps = min(STEPS, budget // BATCH)
    epochs = {"epochs": budget // (steps * BATCH), "steps_per_epoch": steps}
    settings |= {f"train.compact.{key}": value for key, value in epochs.items()}
    build.mkdir(parents=True, exist_ok=True)
    reference = runs.find(experiment, settings, "evaluate", run=True)
    with exports.fetched(reference) as made:
        prepared = arrays.load(made / PREPARED)
        data = _photos(prepared)
        for name in names:
            code = [(HERE / f"{name}.py").read_text(), LOCK.read_text()] if name != OURS else []
            parts = [*code, runs.digest("evaluate", settings), prepared.digest, str(budget)]
            digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
            rows = _rows(table)
            if name in rows.index and rows["digest"][name] == digest:
                continue
            print(f"\n{TITLES[name]}", flush=True)
            try:
                if name == OURS:
                    model, took = made / CLASSIFIER, _timing(reference, settings)
                else:
                    model, took = _train(name, data / photos.TRAINING, build, budget)
                cells = _cells(took, _judge(model, took["scale"], data, build / f"{name}-judged"))
                cells |= {"digest": digest}
            except UserError as error:
                # Tried again the next time.
                cells = {"error": str(error)}
            rows = pd.DataFrame.from_dict(rows.to_dict("index") | {name: cells}, orient="index")
            write_text(table, rows.to_csv())


def _photos(prepared: arrays.Prepared) -> Path:
    """The folder with the photos of a split, written once."""
    folder = BUILD / f"photos-{prepared.digest[:12]}"
    if not (folder / photos.NAMES).exists():
        make_empty(folder)
        photos.write(prepared, folder)
    return folder


def _timing(reference: str, settings: runs.Settings) -> dict[str, Any]:
    timing = json.loads(runs.read(reference, "metrics/timing.json"))
    epochs = settings["train.compact.epochs"]
    steps = settings.get("train.compact.steps_per_epoch", STEPS)
    return {"images": epochs * steps * BATCH, "minutes": timing["minutes"], "scale": None}


def _train(name: str, training: Path, build: Path, budget: int) -> tuple[Path, dict[str, Any]]:
    """The ONNX file, and what its training says of itself: images, minutes, scale."""
    model = build / f"{name}.onnx"
    _run([*TRAINERS[name], str(training), str(model), str(budget)])
    return model, json.loads(model.with_suffix(".json").read_text(encoding="utf-8"))


def _judge(model: Path, scale: str | None, data: Path, target: Path) -> dict[str, Any]:
    """What `signs judge` measures."""
    report = target.with_suffix(".json")
    options = ["--names", data / photos.NAMES, "--ood", OTHER_CLASSES, "--json", report]
    options += ["--page", target.with_suffix(".html"), *(["--scale", scale] if scale else [])]
    command = [sys.executable, "-m", "signs", "judge", model, data / photos.JUDGED, *options]
    _run([str(part) for part in command])
    found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return found


def _run(command: list[str]) -> None:
    """Run a program and show its output; its last line is the error's text if it fails."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    last = ""
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
        last = line.strip() or last
    if process.wait():
        raise UserError(last.removeprefix("ERROR: "))


def _cells(took: dict[str, Any], found: dict[str, Any]) -> dict[str, str]:
    def percent(key: str, digits: int = 2) -> str:
        return f"{100 * found[key]:.{digits}f}"

    interval = f"{percent('accuracy_low')} to {percent('accuracy_high')}"
    return {
        "accuracy": f"{percent('accuracy')} ({interval})",
        "ECE": f"{found['ece']:.4f}",
        "accepted": percent("accepted", 1),
        "precision of these": percent("accepted_precision"),
        "OOD rejected": percent("ood_rejection_at_99", 1),
        "corrupted": percent("corrupted_accuracy"),
        "ms": f"{found['milliseconds']:.2f}",
        "MB": f"{found['megabytes']:.2f}",
        "training images": f"{took['images']:,}",
        "minutes": f"{took['minutes']:.1f}",
        "images/s": f"{took['images'] / took['minutes'] / 60:,.0f}",
        "processor": machine.processor(),
    }


def _rows(table: Path) -> pd.DataFrame:
    if not table.exists():
        return pd.DataFrame(columns=["digest", "error"], dtype=str)
    return pd.read_csv(table, index_col=0, dtype=str, keep_default_na=False)


def _markdown(rows: pd.DataFrame, budget: int) -> str:
    """The page; a classifier that could not be made is named with its error."""
    rows = rows.reindex([name for name in TITLES if name in rows.index]).fillna("")
    rows["error"] = rows.get("error", "")
    rows.index = rows.index.map(TITLES)
    failed = rows["error"][rows["error"] != ""]
    made = rows.drop(index=failed.index)
    processors = ", ".join(made["processor"].unique()) if len(made) else "–"
    shown = made.drop(columns=["digest", "error", "processor"], errors="ignore")
    shown.insert(0, "classifier", shown.index)
    lines = [list(shown.columns), ["---"] * shown.shape[1], *shown.to_numpy().tolist()]
    template = (runs.FOLDER / "peers.md").read_text(encoding="utf-8")
    return template.format(
        rows="\n".join(f"| {' | '.join(line)} |" for line in lines),
        failed="".join(f"- {name} could not be made: {why}\n" for name, why in failed.items()),
        budget=f"{budget:,}",
        processors=processors,
    )


if __name__ == "__main__":
    run_stage(compare)
