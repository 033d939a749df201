"""What an ensemble of classifiers, or test-time augmentation, gains and costs."""

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
    """Metrics of the ensemble of a classifier and those that the settings name.

    `samples` are the validation and test photos. Returned are classifiers, passes (through a
    network for one photo), all of `metrics.compute` for the test photos, and for the external test
    set, if wanted, external_accuracy, ood_rejection_at_99, ood_fpr95 and ood_auroc.

    Raises:
        UserError: a classifier is missing or was trained on something else.
    """
    members = [model, *fetch(settings.ensemble, model.metadata)]
    together = Ensemble(members, settings.tta_shift)
    folder = DATA / data.dataset
    _, logits = predict_table(together, folder, samples, settings.batch_size, data.images)
    labels, test = samples["label"].to_numpy(), (samples["split"] == splits.TEST).to_numpy()
    temperature = calibration.fit_temperature(logits[~test], labels[~test])
    result: dict[str, float] = {"classifiers": len(members), "passes": together.passes}
    result |= metrics.compute(labels[test], logits[test], temperature, samples["group"][test])
    if settings.external_photos:
        rows, external_logits, _ = external.predict(together, settings)
        outside = (rows["label"] == external.OOD).to_numpy()
        if not outside.all():
            correct = external_logits.argmax(axis=1) == rows["label"]
            result |= metrics.rounded({"external_accuracy": correct[~outside].mean()})
        if outside.any():
            result |= metrics.rounded(ood.scores(logits[test], external_logits[outside]))
    return result
