"""Bulk work: millions of photos to predictions or to prepared arrays, in Parquet (docs/scale.md).

    signs bulk predict photos archive.zip photos.parquet --output predictions
    signs bulk predict s3://bucket/photos --output s3://bucket/predictions
    signs bulk preprocess photos --output arrays

Ray runs it on this machine, or on the cluster that RAY_ADDRESS names.
"""

import argparse
from pathlib import Path

from signs import params, paths
from signs.errors import UserError
from signs.operations.predict import add_classifier, chosen_folder

ROOT = Path(__file__).resolve().parents[2]
SHARD = 2048  # photos: a worker that dies loses some seconds of work, and files are not tiny


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `signs bulk`."""
    kinds = parser.add_subparsers(required=True, metavar="WORK", dest="work")
    predict = kinds.add_parser("predict", help="name the signs on photos")
    preprocess = kinds.add_parser("preprocess", help="prepare photos as params.yaml says")
    for kind in (predict, preprocess):
        add = kind.add_argument
        add("paths", nargs="+", metavar="PATH", help="file, folder, zip, Parquet file or s3://...")
        add("--output", required=True, metavar="FOLDER", help="folder or s3://bucket/prefix")
        add("--column", default="image", help="of photos in Parquet files (image)")
        add("--shard", type=_count, default=SHARD, metavar="N", help=f"photos a task ({SHARD})")
        add("--workers", type=_count, metavar="N", help="processes here (one for each core)")
    add_classifier(predict)


def run(arguments: argparse.Namespace) -> int:
    """Do the work on all photos; 1 if a photo could not be used, else 0.

    Raises:
        UserError: Ray is not installed, or the work cannot be done.
    """
    try:  # here, so that `signs bulk --help` and this error need no Ray
        from signs.scale import bulk_job, bulk_work
    except ModuleNotFoundError as error:
        if error.name not in ("pyarrow", "ray"):
            raise
        raise UserError("Bulk work needs Ray, which is not installed: `make setup-ray`.") from error
    work: bulk_work.Work
    if arguments.work == "predict":
        work = bulk_work.Predict(chosen_folder(arguments.classifier))
    else:
        work = bulk_work.Preprocess(params.load(ROOT / paths.PARAMS).images)
    job = bulk_job.Job(work, arguments.output, arguments.column, arguments.shard)
    return 1 if bulk_job.run(job, arguments.paths, arguments.workers) else 0


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number
