"""Vector templates → the embedded data set and two sets of other signs.

Run by `dvc repro synthesize`, or alone: python -m stages.synthesize
Each folder under data/ gets images.zip and labels.csv: `synthetic` shows the classes of the label
set, `auxiliary_outliers` what a network learns to be unsure of, and `ood` what tests whether it is.
"""

from signs import params
from signs.errors import run_stage
from signs.paths import DATA
from signs.synthesis import sets, svg


def synthesize() -> None:
    """Render all three sets, on all cores."""
    settings = params.load()
    labels = svg.label_set(settings.dataset)
    for folder, content in sets.plan(settings.synthesize, labels).items():
        sets.write(DATA / folder, content)
    archive = DATA / "synthetic/images.zip"
    print(f"{archive}: {archive.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    run_stage(synthesize)
