"""Say on a page what photos show, and put them into the class folders of a data set.

    signs label kept --to data/mine      photos that the service kept (SIGNS_KEEP_PHOTOS)
    dvc exp run -S dataset=mine          the next training reads them

The classifier's suggestions are one key away. What it is least sure of comes first. Each label
moves one file at once, so nothing is lost if you stop, and the next start goes on with the rest.
Photos that show no sign go to the folder "no sign" beside the others.
"""

import argparse
from pathlib import Path

from signs import paths
from signs.errors import UserError
from signs.inference.classifier import Classifier
from signs.labelling import server, tray
from signs.labelling.class_folders import ClassFolders
from signs.operations.predict import add_classifier, chosen_folder

PORT = 3100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the photos to label")
    target = paths.DATA / "labelled"
    parser.add_argument(
        "--to", type=Path, default=target, metavar="FOLDER", help=f"the data set; default: {target}"
    )
    parser.add_argument("--port", type=int, default=PORT, help=f"0: a free one; default: {PORT}")
    add_classifier(parser)


def run(arguments: argparse.Namespace) -> int:
    """Show the page until Ctrl-C."""
    folder, target = arguments.folder, arguments.to
    inner, outer = sorted([folder.resolve(), target.resolve()], key=lambda path: -len(path.parts))
    if inner.is_relative_to(outer):
        raise UserError(
            f"{folder} and {target} must not be in one another: photos move to {target}."
        )
    found = tray.find(folder)
    classifier = Classifier(chosen_folder(arguments.classifier))
    metadata = classifier.metadata
    ids = dict(zip(metadata.names, metadata.class_ids, strict=True))
    shown = tray.Tray(folder, tray.by_doubt(found, classifier), ClassFolders(target, ids))
    try:
        served = server.Server(shown, arguments.port)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"Port {arguments.port} cannot be used ({error}): --port=0 finds one."
        ) from error
    print(
        f"{len(found):,} photos: http://{server.HOST}:{served.server_port}/ (Ctrl-C ends)",
        flush=True,
    )
    with served:
        try:
            served.serve_forever()
        except KeyboardInterrupt:
            print()
    done, left = shown.count(skipped=False), len(shown.waiting) + shown.count(skipped=True)
    print(f"{done:,} photos labelled, {left:,} still in {folder}. `signs label` continues.")
    return 0
