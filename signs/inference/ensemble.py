"""Several classifiers that predict together, with test-time augmentation if wanted.

Averaging networks that differ in nothing but their seeds helps both accuracy and confidence:
B. Lakshminarayanan et al., "Simple and Scalable Predictive Uncertainty Estimation using Deep
Ensembles" (NIPS 2017), who average probabilities. Here logits are averaged, so that the mean has
an energy score too. D. Ciresan et al., "Multi-column deep neural network for traffic sign
classification" (2012) won GTSRB with 25.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from signs.data import images
from signs.errors import UserError
from signs.inference import revisions
from signs.inference.classifier import Classifier, Metadata


class Ensemble:
    """Predicts with the mean of its members' logits."""

    def __init__(self, members: Sequence[Classifier], shift: int) -> None:
        """Join classifiers.

        Args:
            members: classifiers of the same classes and image settings.
            shift: test-time augmentation, in pixels of the prepared image: each member sees it
                where it is and moved by this much in 8 directions; 0: only where it is.
        """
        self._members, self._shift = members, shift
        steps = (-shift, 0, shift) if shift else (0,)
        self._moves = [(down, right) for down in steps for right in steps]
        self.metadata = members[0].metadata

    @property
    def passes(self) -> int:
        """How many times an image goes through a network: the cost, in those of one network."""
        return len(self._members) * len(self._moves)

    def logits(self, prepared: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Prepared images, uint8 (N, size, size, channels) → mean logits, float32 (N, classes).

        Each member's are divided by its temperature, so that all have the same weight.
        """
        size, most = prepared.shape[1], self._shift
        edges = [(0, 0), (most, most), (most, most), (0, 0)]
        wide = np.pad(prepared, edges, mode="edge")
        total = np.zeros((len(prepared), len(self.metadata.names)), np.float32)
        for down, right in self._moves:
            moved = wide[:, most + down :, most + right :][:, :size, :size]
            for member in self._members:
                total += member.logits(np.ascontiguousarray(moved)) / member.metadata.temperature
        return total / np.float32(self.passes)

    def prepare(
        self, photos: Sequence[images.Image], regions: Sequence[images.Region | None] | None = None
    ) -> npt.NDArray[np.uint8]:
        """As `Classifier.prepare`."""
        return self._members[0].prepare(photos, regions)


def fetch(names: Sequence[str], same_as: Metadata, repository: str = ".") -> list[Classifier]:
    """The classifiers of experiments or git revisions, from DVC's cache or remote.

    Args:
        names: of experiments, commits, branches or tags.
        same_as: what they must share: photos, split, classes and image settings. With another
            split one of them might have trained on what the others are tested with.
        repository: folder or address of the git repository.

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
    provenance = metadata.provenance
    split = provenance["params"]["split"]
    return metadata.class_ids, metadata.images, provenance["data"], split
