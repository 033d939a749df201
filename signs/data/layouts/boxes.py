"""Layouts of detection sets: boxes on photos. Each box is a sign, with its region."""

import re
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from xml.etree import ElementTree

import yaml

from signs.data.layouts.found import Found, Sign, split_in, split_of
from signs.data.layouts.tables import as_json, listed, pixel_region
from signs.data.layouts.tree import Tree


class Box(NamedTuple):
    """A box as an annotation file has it."""

    photo: str  # as the file calls it
    label: str
    edges: tuple[float, ...]  # left, top, right, bottom in pixels; () for a label of the whole photo
    size: tuple[int, int] = (0, 0)  # width and height of the photo; zeros if the file does not say
    split: str = ""


def yolo(tree: Tree) -> Found | None:
    """A text file for each photo: class, centre and size of each box, in shares of the photo.

        images/train/a.jpg      labels/train/a.txt: 0 0.5 0.4 0.2 0.3
        data.yaml or classes.txt: names of the classes

    LabelImg, CVAT and Roboflow write it, too; text files may lie beside the photos.
    """
    found, texts = Found([]), set(tree.named(".txt"))
    for photo in tree.photos if texts else ():
        path = PurePosixPath(photo)
        folder = re.sub(r"(^|/)images(/|$)", r"\1labels\2", str(path.parent))
        names = [f"{place}/{path.stem}.txt".removeprefix("./") for place in (folder, path.parent)]
        text = next((name for name in names if name in texts), None)
        boxes = _yolo_boxes(tree, text) if text else []
        if boxes is None:
            return None
        if not boxes:
            found.notes.append((photo, "has no box"))
        for label, (x, y, width, height) in boxes:
            region = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
            try:
                inside = pixel_region(tree, photo, region, (1, 1))
                found.signs.append(Sign(photo, label, split_in(photo), "", inside))
            except ValueError as error:
                found.problems.append((photo, f"a box in {text} cannot be used ({error})"))
    found.names = _yolo_names(tree)
    return found if found.signs else None


def coco(tree: Tree) -> Found | None:
    """COCO's JSON: images, annotations with `bbox` (left, top, width, height), categories.

        train/_annotations.coco.json or annotations/instances_train.json
        train/a.jpg
    """

    def boxes() -> Iterator[Box]:
        for file in tree.named(".json"):
            content = as_json(tree, file)
            if not (isinstance(content, dict) and {"images", "annotations", "categories"} <= set(content)):
                continue
            names = {each["id"]: str(each["name"]) for each in content["categories"]}
            photos = {each["id"]: each for each in content["images"]}
            for each in content["annotations"]:
                photo = photos[each["image_id"]]
                left, top, width, height = each["bbox"]
                size = int(photo.get("width", 0)), int(photo.get("height", 0))
                edges = left, top, left + width, top + height
                yield Box(photo["file_name"], names[each["category_id"]], edges, size, _split(file))

    return _found(tree, boxes(), "a COCO file")


def pascal_voc(tree: Tree) -> Found | None:
    """An XML file for each photo: its size, and name and `bndbox` of each object.

        Annotations/a.xml      JPEGImages/a.jpg      ImageSets/Main/train.txt: a
        train/a.xml            train/a.jpg
    """
    splits = {
        name.split()[0]: split_of(PurePosixPath(file).stem)
        for file in tree.named(".txt")
        if "imagesets" in file.lower()
        for name in listed(tree, file)
    }

    def boxes() -> Iterator[Box]:
        for file, root in _xml(tree, "annotation"):
            photo = root.findtext("filename") or f"{PurePosixPath(file).stem}"
            size = int(root.findtext("size/width", "0")), int(root.findtext("size/height", "0"))
            split = splits.get(PurePosixPath(file).stem, "") or split_in(file)
            for each in root.iter("object"):
                sides = ("xmin", "ymin", "xmax", "ymax")
                edges = tuple(float(each.findtext(f"bndbox/{side}", "nan")) for side in sides)
                yield Box(photo, each.findtext("name", ""), edges, size, split)

    return _found(tree, boxes(), "a Pascal VOC file")


def cvat(tree: Tree) -> Found | None:
    """CVAT's own XML: an `image` for each photo, with a `box` or a `tag` for each label.

        annotations.xml      images/a.jpg
    """

    def boxes() -> Iterator[Box]:
        for _, root in _xml(tree, "annotations"):
            for image in root.iter("image"):
                size = int(image.get("width", 0)), int(image.get("height", 0))
                split = split_of(image.get("subset", ""))
                for each in image.iter("box"):
                    sides = ("xtl", "ytl", "xbr", "ybr")
                    edges = tuple(float(each.get(side, "nan")) for side in sides)
                    yield Box(image.get("name", ""), each.get("label", ""), edges, size, split)
                for each in image.iter("tag"):
                    yield Box(image.get("name", ""), each.get("label", ""), (), size, split)

    return _found(tree, boxes(), "a CVAT file")


def label_studio(tree: Tree) -> Found | None:
    """Label Studio's JSON: a list of tasks, with boxes in percent or choices.

        export.json: [{"data": {"image": "/upload/a.jpg"}, "annotations": [{"result": [...]}]}]
        images/a.jpg
    """

    def boxes() -> Iterator[Box]:
        for file in tree.named(".json"):
            content = as_json(tree, file)
            for task in content if isinstance(content, list) else ():
                if not (isinstance(task, dict) and isinstance(task.get("data"), dict)):
                    continue
                photo = str(next(iter(task["data"].values()), ""))
                for result in (r for a in task.get("annotations", []) for r in a.get("result", [])):
                    value = result.get("value", {})
                    for label in value.get("rectanglelabels", []):
                        x, y, width, height = (value[k] for k in ("x", "y", "width", "height"))
                        yield Box(photo, label, (x, y, x + width, y + height), (100, 100))
                    for label in value.get("choices", []):
                        yield Box(photo, label, ())

    return _found(tree, boxes(), "a Label Studio file")


def label_me(tree: Tree) -> Found | None:
    """LabelMe's JSON: a file for each photo, with points for each shape.

        a.json: {"imagePath": "a.jpg", "shapes": [{"label": "stop", "points": [[1, 2], [9, 8]]}]}
        a.jpg
    """

    def boxes() -> Iterator[Box]:
        for file in tree.named(".json"):
            content = as_json(tree, file)
            if isinstance(content, dict) and {"shapes", "imagePath"} <= set(content):
                size = int(content.get("imageWidth") or 0), int(content.get("imageHeight") or 0)
                for shape in content["shapes"]:
                    x, y = zip(*shape["points"], strict=True)
                    edges = min(x), min(y), max(x), max(y)
                    yield Box(content["imagePath"], shape["label"], edges, size, _split(file))

    return _found(tree, boxes(), "a LabelMe file")


def create_ml(tree: Tree) -> Found | None:
    """Apple's Create ML: a list of photos with centre and size of each box in pixels.

        _annotations.createml.json: [{"image": "a.jpg", "annotations": [{"label": "stop",
            "coordinates": {"x": 5, "y": 5, "width": 8, "height": 8}}]}]
        a.jpg
    """

    def boxes() -> Iterator[Box]:
        for file in tree.named(".json"):
            content = as_json(tree, file)
            for photo in content if isinstance(content, list) else ():
                if not (isinstance(photo, dict) and isinstance(photo.get("image"), str)):
                    continue
                for each in photo.get("annotations", []):
                    x, y, width, height = (each["coordinates"][k] for k in ("x", "y", "width", "height"))
                    edges = x - width / 2, y - height / 2, x + width / 2, y + height / 2
                    yield Box(photo["image"], each["label"], edges, (0, 0), _split(file))

    return _found(tree, boxes(), "a Create ML file")


def kitti(tree: Tree) -> Found | None:
    """KITTI's and TAO's text files: name, three values, edges in pixels, seven more values.

        images/a.png      labels/a.txt: stop 0.00 0 0.00 10.0 12.0 30.0 33.0 0 0 0 0 0 0 0
    """

    def boxes() -> Iterator[Box]:
        for file in tree.named(".txt"):
            for line in listed(tree, file):
                values = line.split()
                if len(values) < 15 or not all(map(_is_number, values[1:15])):
                    break
                edges = tuple(map(float, values[4:8]))
                yield Box(PurePosixPath(file).stem, values[0], edges, (0, 0), split_in(file))

    return _found(tree, boxes(), "a KITTI file")


def _found(tree: Tree, boxes: Iterable[Box], kind: str) -> Found | None:
    """The signs of boxes; photos without one are noted. None if there are no boxes."""
    found = Found([])
    for box in boxes:
        file = tree.find(box.photo, box.photo)
        if file is None:
            found.problems.append((box.photo, f"listed in {kind} but not there"))
            continue
        try:
            region = pixel_region(tree, file, box.edges, box.size) if box.edges else None
        except ValueError as error:
            found.problems.append((file, f"a box in {kind} cannot be used ({error})"))
            continue
        found.signs.append(Sign(file, box.label, box.split or split_in(file), "", region))
    if not found.signs:
        return None
    with_sign = {sign.file for sign in found.signs}
    found.notes += [(file, "has no box") for file in tree.photos if file not in with_sign]
    return found


def _xml(tree: Tree, kind: str) -> Iterator[tuple[str, Any]]:
    """The XML files whose root is called so; what is no XML is left to other layouts."""
    for file in tree.named(".xml"):
        try:
            root = ElementTree.fromstring(tree.text(file))
        except ElementTree.ParseError:
            continue
        if root.tag == kind:
            yield file, root


def _yolo_boxes(tree: Tree, file: str) -> list[tuple[str, tuple[float, ...]]] | None:
    """Class number, centre and size of each box; None if the file holds something else."""
    boxes = []
    for line in listed(tree, file):
        label, *values = line.split()
        if not (label.isdecimal() and len(values) >= 4 and all(map(_is_number, values))):
            return None
        numbers = [float(value) for value in values]
        if max(numbers) > 1.5:
            return None
        if len(numbers) >= 6 and len(numbers) % 2 == 0:  # the corners of a polygon
            x, y = numbers[::2], numbers[1::2]
            left, top, right, bottom = min(x), min(y), max(x), max(y)
            numbers = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
        boxes.append((label, tuple(numbers[:4])))
    return boxes


def _yolo_names(tree: Tree) -> dict[int, str]:
    for file in tree.named(".yaml", ".yml"):
        content = yaml.safe_load(tree.text(file))
        names = content.get("names") if isinstance(content, dict) else None
        if names:
            pairs = names.items() if isinstance(names, dict) else enumerate(names)
            return {int(number): str(name) for number, name in pairs}
    lists = [*tree.named("classes.txt"), *tree.named(".names")]
    return dict(enumerate(listed(tree, lists[0]))) if lists else {}


def _split(file: str) -> str:
    """The split that an annotation file is for: by its folders, or by its name."""
    words = re.split(r"[^a-z]+", PurePosixPath(file).stem.lower())
    return split_in(file) or next(filter(None, map(split_of, words)), "")


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?\d*\.?\d+(e[+-]?\d+)?", text.lower()) is not None
