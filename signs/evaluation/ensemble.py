"""What an ensemble of classifiers, or test-time augmentation, gains and costs."""

import numpy as np
import numpy.typing as npt
import pandas as pd

from signs.data import splits
from signs.data.arrays import Prepared
from signs.evaluation import calibration, external, metrics, ood
from signs.inference.classifier import Classifier
from signs.inference.ensemble import Ensemble, fetch
from signs.inference.tables import predict_table
from signs.params import Evaluate
from signs.paths import DATA


def measure(
    model: Classifier, samples: pd.DataFrame, data: Prepared, settings: Evaluate
) -> dict[str, float]:
    """Metrics of the ensemble on the test photos and, if wanted, on the external test set.

    Args:
        model: the classifier under evaluation, the ensemble's first member.
        samples: the validation and test photos, one row each.
        data: the prepared images.
        settings: names of the other members, test-time augmentation, external test set.

    Returns:
        classifiers, passes (through a network for one photo), all of `metrics.compute`, and for
        the external test set external_accuracy, ood_rejection_at_99, ood_fpr95 and ood_auroc.

    Raises:
        UserError: a classifier is missing or was trained on something else.
    """
    members = [model, *fetch(settings.ensemble, model.metadata)]
    together = Ensemble(members, settings.tta_shift)
    _, logits = predict_table(
        together, DATA / data.dataset, samples, settings.batch_size, data.images
    )
    labels = samples["label"].to_numpy()
    test = (samples["split"] == splits.TEST).to_numpy()
    temperature = calibration.fit_temperature(logits[~test], labels[~test])
    found = {
        "classifiers": len(members),
        "passes": together.passes,
        **metrics.compute(labels[test], logits[test], temperature),
    }
    if settings.external_photos:
        found |= _on_external_set(together, logits[test], settings)
    return found


def _on_external_set(
    together: Ensemble, known: npt.NDArray[np.float32], settings: Evaluate
) -> dict[str, float]:
    rows, logits, _ = external.predict(together, settings)
    outside = (rows["label"] == external.OOD).to_numpy()
    found: dict[str, float] = {}
    if not outside.all():
        correct = logits[~outside].argmax(axis=1) == rows["label"][~outside]
        found["external_accuracy"] = correct.mean()
    if outside.any():
        found |= ood.scores(known, logits[outside])
    return metrics.rounded(found)
