"""Several classifiers that predict together, with test-time augmentation if wanted.

After B. Lakshminarayanan et al., "Simple and Scalable Predictive Uncertainty Estimation using Deep
Ensembles" (NIPS 2017), who average probabilities; averaged logits have an energy score, too.
D. Ciresan et al., "Multi-column deep neural network for traffic sign classification" (2012), won
GTSRB with 25.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from signs.errors import UserError
from signs.inference import revisions
from signs.inference.classifier import Classifier, Inputs, Logits, Metadata


class Ensemble:
    """Predicts with the mean of its members' logits.

    Attributes:
        metadata, prepare: the first member's.
        passes: how many times an image goes through a network.
    """

    def __init__(self, members: Sequence[Classifier], shift: int) -> None:
        """Join classifiers of the same classes and image settings.

        Test-time augmentation: each member sees a prepared image where it is and moved by `shift`
        pixels in 8 directions; 0: only where it is.
        """
        self._members, self._shift = members, shift
        self._moves = list(itertools.product(sorted({-shift, 0, shift}), repeat=2))
        self.passes = len(members) * len(self._moves)
        self.metadata, self.prepare = members[0].metadata, members[0].prepare

    def logits(self, prepared: Inputs) -> Logits:
        """Prepared images, uint8 (N, size, size, channels) → mean logits, float32 (N, classes).

        Each member's are divided by its temperature, so that all have the same weight.
        """
        size, most = prepared.shape[1], self._shift
        wide = np.pad(prepared, [(0, 0), (most, most), (most, most), (0, 0)], mode="edge")
        total = np.zeros((len(prepared), len(self.metadata.names)), np.float32)
        for down, right in self._moves:
            moved = wide[:, most + down :, most + right :][:, :size, :size]
            for member in self._members:
                total += member.logits(np.ascontiguousarray(moved)) / member.metadata.temperature
        return total / np.float32(self.passes)


def fetch(names: Sequence[str], same_as: Metadata, repository: str = ".") -> list[Classifier]:
    """The classifiers of these experiments, commits, branches or tags of a git repository.

    Photos, split, classes and image settings must be the `same_as` metadata's. With another
    split one of them might have trained on what the others are tested with.

    Raises:
        UserError: one is missing, damaged or was trained on something else.
    """
    members = []
    for revision in names:
        try:
            member = revisions.classifier_of(revision, repository)
        except UserError as error:
            raise UserError(f"evaluate.ensemble: {error}") from error
        if _background(member.metadata) != _background(same_as):
            raise UserError(
                f"evaluate.ensemble: the classifier of {revision!r} was trained on other photos, "
                "another split or other image settings, so it cannot join the ensemble."
            )
        members.append(member)
    return members


def _background(metadata: Metadata) -> tuple[object, ...]:
    data, split = metadata.provenance["data"], metadata.provenance["params"]["split"]
    return metadata.class_ids, metadata.images, data, split
