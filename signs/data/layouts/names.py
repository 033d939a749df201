"""The names of classes: from tables in the data set, or of label sets that are known."""

from pathlib import Path, PurePosixPath

from signs.data.layouts.tree import DatasetError, Tree

LABELS = Path(__file__).parents[1] / "labels"
ID = ("classid", "id", "classindex", "index", "label", "class")
NAME = ("name", "signname", "classname", "labelname", "description", "title")
OF_PHOTOS = {"filename", "file", "path", "filepath", "image", "imagepath", "imagename", "img"}
NAMED = {"labels", "signnames", "classes", "classnames", "names"}  # tables that must be readable


def read_labels(path: Path) -> dict[int, str]:
    """Class id → name from a CSV with the columns ClassId and Name; `DatasetError` otherwise."""
    return _read(Tree(path.parent), path.name)


def table_of_names(tree: Tree) -> str | None:
    """The file with the names of the classes, such as labels.csv or signnames.csv, if any.

    It lies where the folder, an archive or its only sub-folder begins.
    """
    top = min((file.count("/") for file in tree.photos), default=0)
    tables = [file for file in tree.named(".csv") if file.count("/") <= max(0, top - 1)]
    tables = [file for file in tables if not OF_PHOTOS & set(tree.columns(file))]
    named = [file for file in tables if PurePosixPath(file).stem.lower() in NAMED]
    fitting = [file for file in named or tables if named or _columns(tree, file)]
    return fitting[0] if fitting else None


def names_of(
    tree: Tree, labels: dict[int, str], of_layout: dict[int, str], layout: str
) -> dict[int, str]:
    """The name of each class id, whose label is given; `DatasetError` if one has none."""
    ids = sorted(labels)
    names, place = labels, None
    if table := table_of_names(tree):
        names, place = _read(tree, table), tree.folder / table
    elif of_layout:
        names, place = of_layout, tree.folder
    elif (known := LABELS / f"{tree.folder.name}.csv").exists():
        names, place = read_labels(known), known
    elif "GTSRB" in layout and max(ids) < 43:
        names, place = read_labels(LABELS / "gtsrb.csv"), LABELS / "gtsrb.csv"
    missing = [str(i) for i in ids if i not in names]
    if missing:
        raise DatasetError(f"{place} has no name for class {', '.join(missing)}.")
    return {i: names[i] for i in ids}


def _columns(tree: Tree, file: str) -> tuple[str, str] | None:
    columns = tree.columns(file)
    found = [next((name for name in names if name in columns), "") for names in (ID, NAME)]
    return (found[0], found[1]) if all(found) else None


def _read(tree: Tree, file: str) -> dict[int, str]:
    path = tree.folder / file
    columns = _columns(tree, file)
    if columns is None:
        head = tree.head(file)
        raise DatasetError(f"{path} must have the columns ClassId,Name; found {head or None}.")
    names: dict[int, str] = {}
    for row in tree.rows(file):
        class_id, name = (row.values[column] for column in columns)
        place = f"{path}, line {row.line}"
        if not class_id.isdecimal() or not name:
            raise DatasetError(f"{place}: a class id or name is wrong.")
        if int(class_id) in names:
            raise DatasetError(f"{place}: class {class_id} is named twice. Remove one of the rows.")
        names[int(class_id)] = name
    return names
