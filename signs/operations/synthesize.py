"""Make a data set of synthetic photos of any country's signs, from drawings.

    signs synthesize docs/sweden --output data/sweden
    signs synthesize FOLDER --output data/NAME --images-per-class 200

FOLDER has a square SVG file for each class, transparent where the sign is not: 0.svg, 1.svg, ... A
second design of class 1 is 1b.svg. labels.csv beside them has the columns ClassId,Name. The output
is an archive and labels.csv, as all data sets may be; light, weather and camera are those of
`synthesize` in params.yaml.
"""

import argparse
import re
from pathlib import Path

from signs import params
from signs.data import layouts
from signs.data.layouts.names import table_of_names
from signs.data.layouts.tree import Tree
from signs.errors import UserError
from signs.operations.inspect import advice
from signs.synthesis import sets, svg
from signs.synthesis.sets import SyntheticSet

TEMPLATE = re.compile(r"\d+[b-h]?\.svg")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="SVG files and labels.csv")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="new or empty: data/NAME"
    )
    parser.add_argument(
        "--images-per-class", type=int, metavar="N", help="default: as in params.yaml"
    )


def run(arguments: argparse.Namespace) -> int:
    """Render all photos; tell how to train with them."""
    settings = params.load().synthesize
    folder, output = arguments.folder.resolve(), arguments.output
    if arguments.images_per_class is not None:
        if arguments.images_per_class < 1:
            raise UserError("--images-per-class must be 1 or more.")
        settings = settings.model_copy(update={"images_per_class": arguments.images_per_class})
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise UserError(f"{output} exists and is not empty. Name another folder, or remove it.")
    names = read(folder)
    templates = {class_id: (str(folder), class_id) for class_id in names}
    sets.write(output, SyntheticSet(settings, templates, names))
    photos = settings.images_per_class * len(names)
    print(f"{output}: {photos:,} photos of {len(names)} classes.\n{advice(output)}")
    return 0


def read(folder: Path) -> dict[int, str]:
    """Class id → name of a folder of drawings.

    Raises:
        UserError: a drawing or a name is missing, or cannot be used.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder.")
    drawn = [path for path in sorted(folder.iterdir()) if path.suffix.lower() == ".svg"]
    drawn = [path for path in drawn if not path.name.startswith(".")]
    if not drawn:
        raise UserError(f"{folder} has no SVG files. Put 0.svg, 1.svg, ... there, one for a class.")
    if wrong := [path.name for path in drawn if not TEMPLATE.fullmatch(path.name)]:
        raise UserError(
            f"{folder} has {', '.join(wrong)}, which names no class: call a file by its class id, "
            "as 14.svg, and a second design of that class 14b.svg."
        )
    table = table_of_names(Tree(folder))
    if table is None:
        raise UserError(f"{folder} has no labels.csv. Give it the columns ClassId,Name.")
    names, templates = layouts.read_labels(folder / table), svg.templates_of(str(folder))
    if missing := [f"{i} ({name})" for i, name in names.items() if i not in templates]:
        raise UserError(f"{folder} has no SVG file for class {', '.join(missing)} of {table}.")
    if nameless := [str(i) for i in templates if i not in names]:
        raise UserError(f"{folder / table} has no name for class {', '.join(nameless)}.")
    for path in drawn:
        svg.rasterize(path)
        if "<text" in path.read_text(encoding="utf-8"):
            raise UserError(f"{path} has text, which no font here would show. Make paths of it.")
    return names
