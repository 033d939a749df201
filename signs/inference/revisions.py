"""Classifiers of other git revisions, from DVC's cache or remote."""

import subprocess
import tempfile
from pathlib import Path

from dvc.api import DVCFileSystem

from signs.errors import UserError
from signs.inference.classifier import FOLDER, Classifier, ClassifierError


def deployed() -> str | None:
    """The commit of what `make promote` last noted as in service; None: nothing ever was."""
    command = ["git", "tag", "--list", "classifier#production#*", "--sort=-version:refname"]
    tags = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return commit_of(tags[0]) if tags else None


def commit_of(branch: str) -> str:
    """The commit of a branch, tag or commit; where only the remote has the branch, of that.

    Raises:
        UserError: there is none.
    """
    for name in (branch, f"origin/{branch}"):
        command = ["git", "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return done.stdout.strip()
    raise UserError(f"git knows no {branch!r}, here or at origin; `git fetch` may bring it.")


def classifier_of(revision: str, repository: str = ".") -> Classifier:
    """The classifier that a revision's dvc.lock names.

    Args:
        revision: a commit, branch, tag, or the name of an experiment.
        repository: folder or address of the git repository.

    Raises:
        UserError: it is missing or damaged.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "classifier"
        try:
            DVCFileSystem(repository, rev=revision).get(
                FOLDER.as_posix(), str(target), recursive=True
            )
        except Exception as error:  # DVC's, its index's and git's have no other base
            raise UserError(
                f"there is no classifier of {revision!r} ({error}). "
                "`dvc exp list` names the experiments, which `dvc exp run --queue` or `--temp` "
                "do not see; `dvc exp pull` or `dvc fetch` brings their files."
            ) from error
        try:
            return Classifier(target)
        except ClassifierError as error:
            raise UserError(
                f"the classifier of {revision!r} cannot be used; train it again with the present "
                f"code. ({error})"
            ) from error
