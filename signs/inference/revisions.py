"""Classifiers of other git revisions, from DVC's cache or remote."""

import tempfile
from pathlib import Path

from dvc.api import DVCFileSystem

from signs.errors import UserError
from signs.inference.classifier import Classifier, ClassifierError
from signs.paths import CLASSIFIER


def classifier_of(revision: str, repository: str = ".", threads: int = 0) -> Classifier:
    """The classifier that the dvc.lock of a commit, branch, tag or experiment names.

    `threads` as `Classifier` has them.

    Raises:
        UserError: it is missing or damaged.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "classifier"
        try:
            files = DVCFileSystem(repository, rev=revision)
            files.get(CLASSIFIER.as_posix(), str(target), recursive=True)
        except Exception as error:  # DVC's, its index's and git's have no other base
            raise UserError(
                f"there is no classifier of {revision!r} ({error}). "
                "`dvc exp list` names the experiments, which `dvc exp run --queue` or `--temp` "
                "do not see; `dvc exp pull` or `dvc fetch` brings their files."
            ) from error
        try:
            return Classifier(target, threads)
        except ClassifierError as error:
            raise UserError(
                f"the classifier of {revision!r} cannot be used; train it again with the present "
                f"code. ({error})"
            ) from error
