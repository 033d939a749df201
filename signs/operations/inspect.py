"""Say what a folder of photos is understood as, without training anything.

    signs inspect data/NAME
    signs inspect photos.zip --page seen.html

Prints the layout, splits, classes with counts, sizes, groups and what was left out, and what to
write into params.yaml. The page has photos of each class, too. docs/data.md names the layouts.
"""

import argparse
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from signs import files, paths
from signs.data import images, layouts
from signs.data.layouts import Dataset, Reader
from signs.errors import UserError
from signs.reporting import pages
from signs.reporting.grids import Line, Row, Tile, plot_grid

PAGE = Path("inspect.html")
SHOWN_CLASSES, SHOWN_PHOTOS, SHOWN_NOTES, SHOWN_FILES = 60, 8, 10, 200
SIZES_OF = 400  # photos, evenly spread
TILE, BAR = 48, 30  # side of a photo in units; letters of the longest bar


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("path", type=Path, metavar="PATH", help="a folder or a zip archive")
    parser.add_argument(
        "--page", type=Path, default=PAGE, metavar="FILE", help="default: %(default)s"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print what was understood, and write the page."""
    with opened(arguments.path) as folder:
        dataset = layouts.identify(folder)
        classes, facts = class_table(dataset), _facts(dataset)
        left = dataset.problems + dataset.notes
        print(f"{dataset.summary()}\n")
        print("\n".join(_bars(classes)))
        print("\n" + "\n".join(f"{name}: {value}" for name, value in facts.items()))
        for why, count in Counter(why for _, why in left).most_common(SHOWN_NOTES):
            print(f"  {count:,} x {why}")
        print(f"\n{advice(arguments.path)}")
        with tempfile.TemporaryDirectory() as pictures:
            picture = Path(pictures) / "classes.jpg"
            _plot_classes(dataset, classes, picture)
            page = pages.render(
                "inspect.html",
                title=str(arguments.path),
                summary=dataset.summary(),
                facts=list(facts.items()),
                head=["class", *classes.columns[1:]],
                rows=classes.astype(str).to_numpy().tolist(),
                picture=picture,
                left=left[:SHOWN_FILES],
            )
        files.write_text(arguments.page, page)
        print(f"Page with photos of each class: {arguments.page}")
    return 0


@contextmanager
def opened(path: Path) -> Iterator[Path]:
    """A folder, or one with a link to an archive; `UserError` if there is neither."""
    if path.is_dir():
        yield path
    elif path.is_file() and zipfile.is_zipfile(path):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / path.with_suffix(".zip").name).symlink_to(path.resolve())
            yield Path(folder)
    else:
        raise UserError(f"{path} is no folder and no zip archive.")


def class_table(dataset: Dataset) -> pd.DataFrame:
    """One row a class: id, name, photos, those of each given split, and tracks if there are any."""
    by_class = dataset.table.groupby("class_id")
    table = pd.DataFrame({"photos": by_class.size()})
    for part in layouts.SPLITS:
        given = dataset.table["fixed_split"] == part
        if given.any():
            table[part] = given.groupby(dataset.table["class_id"]).sum()
    tracks = dataset.table[dataset.table["track"] != ""]
    if len(tracks):
        table["tracks"] = tracks.groupby("class_id")["track"].nunique()
    table = table.fillna(0).astype(int).reset_index()
    table.insert(1, "name", table["class_id"].map(dataset.names))
    return table


def _bars(table: pd.DataFrame) -> list[str]:
    most, width = int(table["photos"].max()), min(40, max(map(len, table["name"])))
    rows = zip(table["class_id"], table["name"], table["photos"].tolist(), strict=True)
    lines = [
        f"{number:>5}  {name[:width]:<{width}} {photos:>7,}  "
        f"{'█' * max(1, round(BAR * photos / most))}"
        for number, name, photos in rows
    ]
    hidden = len(lines) - SHOWN_CLASSES
    return lines[:SHOWN_CLASSES] + [f"       and {hidden} classes more"] * (hidden > 0)


def _facts(dataset: Dataset) -> dict[str, str]:
    """What a person wants to know first; the sizes are those of some photos."""
    photos, sides = dataset.table["class_id"].value_counts(), _sides(dataset)
    lengths = f"{min(sides)} to {max(sides)} pixels, median {np.median(sides):.0f}"
    return {
        "sides of the photos": lengths,
        "photos of a class": f"{photos.min():,} to {photos.max():,}",
        "problems": f"{len(dataset.problems):,}",
        "left out": f"{len(dataset.notes) + dataset.litter:,}",
    }


def _sides(dataset: Dataset) -> list[int]:
    """Heights and widths of some photos that can be read."""
    chosen = np.unique(np.linspace(0, len(dataset.table) - 1, SIZES_OF).astype(int))
    reader = Reader(dataset.folder)
    photos = [read_photo(reader, file) for file in dataset.table["file"].iloc[chosen]]
    sides = [side for photo in photos if photo is not None for side in photo.shape[:2]]
    if not sides:
        raise UserError(f"No photo of {dataset.folder} can be read.")
    return sides


def read_photo(reader: Reader, file: str) -> images.Image | None:
    """A decoded photo; None if it cannot be read."""
    try:
        return images.decode(reader.read(file))
    except (images.ImageError, OSError, zipfile.BadZipFile):
        return None


def _plot_classes(dataset: Dataset, table: pd.DataFrame, path: Path) -> None:
    reader, rows = Reader(dataset.folder), []
    for class_id, name in zip(table["class_id"][:SHOWN_CLASSES], table["name"], strict=False):
        signs = dataset.table[dataset.table["class_id"] == class_id]
        chosen = np.unique(np.linspace(0, len(signs) - 1, SHOWN_PHOTOS).astype(int))
        signs = signs.iloc[chosen]
        tiles = []
        for file, region in zip(signs["file"], layouts.regions(signs), strict=True):
            photo = read_photo(reader, file)
            if photo is None:
                photo = np.zeros((TILE, TILE, 3), np.uint8)
            tiles.append(Tile(images.crop(photo, region, 0.1), [Line("")]))
        rows.append(Row(tiles, f"{class_id}  {name[:34]}"))
    plot_grid(rows, path, (TILE, TILE), 5)


def advice(path: Path) -> str:
    """How to train on a data set."""
    if path.is_dir() and path.resolve().parent == paths.DATA.resolve():
        return f"To train on it: dvc exp run -S 'dataset={path.resolve().name}'"
    return f"To train on it, put it below {paths.DATA}/NAME and run: dvc exp run -S dataset=NAME"
