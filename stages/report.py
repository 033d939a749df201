"""The report, the model card and all pictures, from what the other stages measured.

Run by `dvc repro report`, or alone: python -m stages.report
Nothing is computed anew: a change of a picture or a page re-runs this stage and no other.
"""

import pandas as pd

from signs import files, params, paths
from signs.errors import run_stage
from signs.inference import classifier
from signs.reporting import pictures, results
from signs.reporting.report import write_card, write_page


def report() -> None:
    """Write metrics/report, report.html and docs/model_card.md."""
    folder = paths.CLASSIFIER
    metadata = classifier.Metadata.model_validate_json((folder / classifier.METADATA).read_bytes())
    settings = results.settings(params.load().evaluate, metadata)
    # What this run did not measure must not look as if it had.
    files.make_empty(paths.PICTURES)
    pictures.write(metadata, paths.PICTURES)
    labels = pd.DataFrame({"ClassId": metadata.class_ids, "Name": metadata.names})
    write_page(paths.METRICS, settings, labels, paths.REPORT)
    onnx_bytes = (folder / classifier.MODEL).stat().st_size
    write_card(paths.METRICS, settings, onnx_bytes, paths.MODEL_CARD)
    print(f"Report: {paths.REPORT}")


if __name__ == "__main__":
    run_stage(report)
