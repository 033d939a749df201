"""What the start from a released classifier brings to a training on few photos.

    make transfer                    three sets, 5, 20 and 100 photos a class
    make transfer ARGS="--table"     train nothing, write docs/transfer.md only

Each set is prepared once, leak-free. Of its training photos, so many of each class stay, of as many
groups (tracks, physical signs) as there are. Both sides train on the same photos, with the same
settings and seed, and without synthetic photos of the classes: own classes often have no templates.
Rows are kept in benchmarks/transfer.csv, so a run that was cut off goes on where it was.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from signs import files
from signs.commands import git
from signs.data import arrays
from signs.errors import run_stage
from signs.inference.classifier import Classifier
from signs.machine import processor
from signs.paths import CLASSIFIER, PARAMS, PREPARED

FOLDER = Path(__file__).parent
TABLE, PAGE = FOLDER / "transfer.csv", Path("docs/transfer.md")
# The released classifier must not have seen the photos.
STARTS = {"signs": "gtsrb", "gtsrb": "signs", "sweden": "gtsrb"}
COUNTS = (5, 20, 100)  # training photos of a class
DRAWN = 150  # synthetic photos of a Swedish class
RECIPE = {"epochs": 8, "steps_per_epoch": 50, "synthetic_share": 0.0}
SEED = 1
Key = tuple[str, int, str]
KEYS = ["set", "photos a class", "start"]


def transfer() -> None:
    """Train what is missing in the table, and write the page."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--table", action="store_true", help="train nothing, write the page only")
    if not parser.parse_args().table:
        for name, start in STARTS.items():
            measure(name, start)
    files.write_text(PAGE, page())


def measure(name: str, start: str) -> None:
    """Add the rows of one set that are missing."""
    keys = [(name, count, which) for count in COUNTS for which in ("none", start)]
    missing = [key for key in keys if key not in kept()]
    if not missing:
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        workspace(root, name)
        stage(root, name, "none", "preprocess")
        prepared = root / PREPARED
        data = arrays.load(prepared)
        samples = data.samples
        for key in missing:
            _, count, which = key
            data.samples = thin(samples, count)
            arrays.write_tables(prepared, data.samples, data.labels)
            arrays.describe(prepared, name, data.settings, data.split, data.outlier_names)
            stage(root, name, which, "train")
            images = data.images[data.rows("test")]
            labels = data.samples["label"].to_numpy()[data.rows("test")]
            logits = Classifier(root / CLASSIFIER).logits(np.asarray(images))
            accuracy = float((logits.argmax(axis=1) == labels).mean())
            row = {
                "training photos": len(data.rows("train")),
                "test photos": len(labels),
                "accuracy": round(100 * accuracy, 2),
                "commit": git("rev-parse", "--short", "HEAD"),
                "processor": processor(),
            }
            table = kept() | {key: row}
            rows = [dict(zip(KEYS, at, strict=True)) | cells for at, cells in table.items()]
            files.write_text(TABLE, pd.DataFrame(rows).to_csv(index=False))
            print(*key, f"{accuracy:.2%} of {len(labels)} test photos", flush=True)


def workspace(root: Path, name: str) -> None:
    """A copy of the tracked files in an empty folder, with the photos of the set."""
    archive = subprocess.run(["git", "archive", "HEAD"], stdout=subprocess.PIPE, check=True).stdout
    subprocess.run(["tar", "-x", "-C", root], input=archive, check=True)
    (root / "data").mkdir(exist_ok=True)
    if name == "sweden":
        command = ["signs", "synthesize", "docs/sweden", "--output", "data/sweden"]
        command += ["--images-per-class", str(DRAWN)]
        subprocess.run([sys.executable, "-m", *command], cwd=root, check=True)
    for folder in ("data/signs", "data/gtsrb", "data/synthetic", "data/auxiliary_outliers"):
        if not (root / folder).exists():
            (root / folder).symlink_to(Path(folder).resolve())


def stage(root: Path, name: str, start: str, which: str) -> None:
    """Run a stage there, with the settings of this comparison."""
    settings = yaml.safe_load((root / PARAMS).read_text(encoding="utf-8"))
    settings["dataset"] = name
    settings["train"] |= {"start": start, "seed": SEED}
    settings["train"]["compact"] |= RECIPE
    (root / PARAMS).write_text(yaml.safe_dump(settings), encoding="utf-8")
    # git is asked for the commit; the copy has none.
    variables = os.environ | {"GIT_DIR": str(Path(".git").resolve()), "GIT_WORK_TREE": str(root)}
    command = [sys.executable, "-m", f"stages.{which}"]
    subprocess.run(command, cwd=root, env=variables, check=True)


def thin(samples: pd.DataFrame, count: int) -> pd.DataFrame:
    """The samples with at most `count` training photos of each class, of many groups."""
    rng = np.random.default_rng(SEED)
    train = samples[samples["split"] == "train"].sample(frac=1, random_state=rng)
    # The first photo of each group comes before the second of any.
    train["turn"] = train.groupby(["label", "group"]).cumcount()
    train = train.sort_values("turn", kind="stable")
    kept_rows = train.groupby("label").head(count).index
    thinned = samples.copy()
    thinned.loc[train.index.difference(kept_rows), "split"] = "unused"
    return thinned


def kept() -> dict[Key, dict[str, Any]]:
    """The rows so far: what was measured, by set, photos a class and start."""
    if not TABLE.exists():
        return {}
    table = pd.read_csv(TABLE, dtype={"commit": str}, keep_default_na=False)
    rows: list[dict[Any, Any]] = table.to_dict("records")
    return {(row.pop("set"), row.pop(KEYS[1]), row.pop("start")): row for row in rows}


def page() -> str:
    """docs/transfer.md."""
    table, lines = kept(), []
    for name, start in STARTS.items():
        for count in COUNTS:
            plain, pretrained = table.get((name, count, "none")), table.get((name, count, start))
            if plain is None or pretrained is None:
                continue
            gain = pretrained["accuracy"] - plain["accuracy"]
            cells = [f"`{name}`", count, plain["training photos"], plain["test photos"]]
            cells += [f"{plain['accuracy']:.2f}", f"{pretrained['accuracy']:.2f} (`{start}`)"]
            lines.append(f"| {' | '.join(map(str, cells))} | **{gain:+.2f}** |")
    template = (FOLDER / "transfer.md").read_text(encoding="utf-8")
    return template.format(
        rows="\n".join(lines),
        images=f"{RECIPE['epochs'] * RECIPE['steps_per_epoch'] * 128:,.0f}",
        commits=", ".join(sorted({row["commit"] for row in table.values()})),
        processors=", ".join(sorted({row["processor"] for row in table.values()})),
    )


if __name__ == "__main__":
    run_stage(transfer)
