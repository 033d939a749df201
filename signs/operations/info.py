"""Which classifier this is: version, data, image settings, thresholds and classes.

    signs info                                   of models/classifier
    signs info --json                            all of classifier.json
    signs info --classifier build/classifier     of another folder

Reads nothing but the two files of that folder.
"""

import argparse
import json

from signs.inference.classifier import Classifier
from signs.operations.predict import add_classifier, chosen_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("--json", action="store_true", help="print all of classifier.json")
    add_classifier(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print it."""
    metadata = Classifier(chosen_folder(arguments.classifier)).metadata
    if arguments.json:
        print(json.dumps(metadata.model_dump(), indent=2, ensure_ascii=False))
        return 0
    settings, origin = metadata.images, metadata.provenance
    data = f"{origin.get('dataset')} (md5 {origin.get('data')})"
    images = f"{settings.size}x{settings.size}, {settings.color}, contrast: {settings.contrast}"
    accepted = f"from confidence {metadata.threshold:.3f} and energy score "
    lines = {
        "version": metadata.version,
        "data set": data,
        "fingerprint": origin.get("fingerprint"),
    }
    lines |= {"images": images, "accepted": f"{accepted}{metadata.energy_threshold:.2f}"}
    if validation := origin.get("validation"):
        accuracy, photos = validation["accuracy"], validation["images"]
        lines["validation"] = f"{100 * accuracy:.2f}% of {photos:,} photos"
    lines["classes"] = len(metadata.names)
    for name, value in lines.items():
        print(f"{name:11}  {value}")
    for class_id, name in zip(metadata.class_ids, metadata.names, strict=True):
        print(f"{class_id:>10}   {name}")
    return 0
