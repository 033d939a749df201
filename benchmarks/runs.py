"""The DVC experiments behind the rows of a page, found or run, and the rows made of them.

A page of docs/ called `<name>.md` belongs to these files here:

    <name>.yaml  the experiments of each row, by its title
    <name>.csv   the rows, written by the runs; `processor` and `digest` of what a row was made with
    <name>.md    the text around them
"""

import argparse
import hashlib
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml

from signs import params, pipeline
from signs.commands import git
from signs.errors import UserError
from signs.files import write_text
from signs.paths import PARAMS, PIPELINE

FOLDER = Path(__file__).parent
DATA_SETS = ("data.dvc", "gtsrb.dvc")

Settings = dict[str, Any]  # dotted keys of params.yaml and their values


class Page(NamedTuple):
    """A page of docs/ with a table."""

    name: str
    stage: str  # the last one that the experiments run
    experiments: dict[str, dict[str, Settings]]  # of each row's title: by their own titles
    cells: Callable[[str, list[str]], dict[str, str]]  # title, git references → the row
    texts: dict[str, str]  # what else stands in <name>.md

    def make(self, description: str) -> None:
        """Run the experiments that are missing, unless `--table` is given, and write the page."""
        parser = argparse.ArgumentParser(description=description.partition("\n")[0])
        parser.add_argument("--table", action="store_true", help="run nothing, write the page only")
        run = not parser.parse_args().table
        for title, experiments in self.experiments.items():
            found = [find(name, each, self.stage, run) for name, each in experiments.items()]
            if all(found):
                self.keep(title, self.cells(title, found))
        write_text(Path(f"docs/{self.name}.md"), self.markdown())

    def keep(self, title: str, cells: dict[str, str]) -> None:
        """Write a row in place of the one of the same title."""
        table = self._rows()
        table.loc[title] = pd.Series(cells | {"digest": self._digest(title)})
        write_text(FOLDER / f"{self.name}.csv", table.to_csv())

    def markdown(self) -> str:
        """The text of the page, from the rows that are kept, made here or in another clone.

        Rows that are not listed any more come last: nobody shall try again what did not help. If
        the digest of a row's experiments would be another one now, it is "of earlier code".
        """
        table = self._rows()
        listed = [title for title in self.experiments if title in table.index]
        table = table.loc[[*listed, *table.index.difference(listed, sort=False)]]
        each = table.assign(commit=table["commit"].str.split(", ")).explode("commit")
        machines = each.groupby("processor", sort=False)["commit"].unique()
        processors = "; ".join(f"{kind} ({', '.join(ids)})" for kind, ids in machines.items())
        changed = table["digest"] != table.index.map(self._digest)
        table["commit"] += changed.map({True: ", of earlier code", False: ""})
        if "accuracy" in table:
            table["accuracy"] = "**" + table["accuracy"] + "**"
        table = table.drop(columns=["processor", "digest"]).reset_index()
        cells = [table.columns, ["---"] * len(table.columns), *table.to_numpy()]
        rows = "\n".join(f"| {' | '.join(row)} |" for row in cells)
        template = (FOLDER / f"{self.name}.md").read_text(encoding="utf-8")
        return template.format(rows=rows, processors=processors, **self.texts)

    def _rows(self) -> pd.DataFrame:
        path = FOLDER / f"{self.name}.csv"
        return pd.read_csv(path, index_col=0, dtype=str, keep_default_na=False)

    def _digest(self, title: str) -> str:
        settings = self.experiments.get(title, {}).values()
        return " ".join(digest(self.stage, each) for each in settings) or "not listed"


def listed(name: str) -> Any:
    """The content of `<name>.yaml`."""
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))


def variants(name: str, stage: str, metrics: Callable[[str], dict[str, str]]) -> Page:
    """A page whose rows are one experiment each: what `<name>.yaml` lists, each changing `base`."""
    base, changes = listed(name).values()
    experiments = {title: {f"{name} {title}": base | changes[title]} for title in changes}

    def cells(title: str, references: list[str]) -> dict[str, str]:
        return {"changes": _text(changes[title]), **metrics(references[0])}

    return Page(name, stage, experiments, cells, {"base": _text(base)})


def _text(settings: Settings) -> str:
    return ", ".join(f"`{key}={value}`" for key, value in settings.items()) or "–"


def find(title: str, settings: Settings, stage: str, run: bool) -> str:
    """The git reference of the experiment of this title, these settings and the present code.

    Args:
        title: of any characters; the experiment's name is made of it and of the digest.
        settings: what it changes.
        stage: the last stage that it runs. Code of later stages does not matter.
        run: run the experiment if there is none. Else the reference is empty then.

    Raises:
        UserError: the run failed, or code is not committed, so that nobody could say what ran.
    """
    name = re.sub(r"[^a-z0-9]+", "-", f"{title} {digest(stage, settings)}".lower())
    pattern = f"refs/exps/*/*/{name}"
    found = git("for-each-ref", "--count=1", "--format=%(refname)", pattern)
    if found or not run:
        return found
    code = (PARAMS, PIPELINE, *DATA_SETS, *pipeline.code(*_until(stage)))
    if changes := git("status", "--porcelain", "--", *map(str, code)):
        raise UserError(f"Commit these changes first, so that the run has a commit:\n{changes}")
    _run(name, settings, stage)
    return git("for-each-ref", "--count=1", "--format=%(refname)", pattern)


def read(reference: str, path: str) -> str:
    """A file of an experiment."""
    return git("show", f"{reference}:{path}")


def commit(reference: str) -> str:
    """The short commit that an experiment started from."""
    return git("rev-parse", "--short", f"{reference}^")


def digest(stage: str, settings: Settings) -> str:
    """Hash of what determines an experiment up to a stage, as it is in the working tree.

    That is declared code, locked packages, real data sets, and declared parameters.
    """
    content = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))
    params.assign(content, settings)
    network, declared = content["train"]["network"], pipeline.stages()
    data = [Path(path).read_text(encoding="utf-8") for path in DATA_SETS]
    parts = ""
    for name in _until(stage):
        keys = [key.replace("${train.network}", network) for key in declared[name]["params"]]
        parts += pipeline.fingerprint(name, data, {key: _get(content, key) for key in keys})
    return hashlib.sha256(parts.encode()).hexdigest()[:12]


def _until(stage: str) -> tuple[str, ...]:
    return pipeline.STAGES[: pipeline.STAGES.index(stage) + 1]


def _get(content: Any, key: str) -> Any:
    for part in key.split("."):
        content = content[part]
    return content


def _run(name: str, settings: Settings, stage: str) -> None:
    changes = [part for key, value in settings.items() for part in ("-S", f"{key}={value}")]
    # In a copy of the tree, so that the working tree and its models stay as they are.
    command = ["dvc", "exp", "run", "--temp", "--name", name, *changes, stage]
    print(f"\n{' '.join(command)}", flush=True)
    if subprocess.run([sys.executable, "-m", *command], check=False).returncode:
        raise UserError(f"The experiment {name} failed; see above. Run this again to go on there.")
