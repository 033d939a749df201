"""Each layout that people have, as the tools write it; and what is around the photos."""

import json
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from signs.data import layouts
from signs.data.layouts import DatasetError
from tests.data.test_layouts import HEADER, lay, pack, photo

PNG = photo(1, ".png")  # 12 x 10 pixels
BOX = (0.25, 0.2, 0.75, 0.7)  # 3 to 9 of 12 pixels, 2 to 7 of 10

# What `identify` finds: file → name of the class, split, region.
Signs = list[tuple[str, str, str, tuple[float, ...] | None]]


def signs(folder: Path) -> Signs:
    dataset = layouts.identify(folder)
    table = dataset.table
    names = [dataset.names[i] for i in table["class_id"]]
    regions = [region and tuple(round(x, 6) for x in region) for region in layouts.regions(table)]
    return sorted(zip(table["file"], names, table["fixed_split"], regions, strict=True))


KAGGLE = "Width,Height,Roi.X1,Roi.Y1,Roi.X2,Roi.Y2,ClassId,Path"
COCO = {
    "images": [{"id": 7, "file_name": "a.png", "width": 12, "height": 10}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 3, "bbox": [3, 2, 6, 5]},
        {"id": 2, "image_id": 7, "category_id": 4, "bbox": [0, 0, 12, 10]},
    ],
    "categories": [{"id": 3, "name": "stop"}, {"id": 4, "name": "yield"}],
}
VOC = """<annotation><filename>a.png</filename><size><width>12</width><height>10</height>
<depth>3</depth></size><object><name>stop</name><bndbox><xmin>3</xmin><ymin>2</ymin>
<xmax>9</xmax><ymax>7</ymax></bndbox></object></annotation>"""
CVAT = """<annotations><version>1.1</version><image id="0" name="a.png" width="12" height="10">
<box label="stop" xtl="3" ytl="2" xbr="9" ybr="7"/></image></annotations>"""
STUDIO = [
    {
        "data": {"image": "/data/upload/1/a.png"},
        "annotations": [
            {
                "result": [
                    {
                        "type": "rectanglelabels",
                        "value": {"x": 25, "y": 20, "width": 50, "height": 50, "rectanglelabels": ["stop"]},
                    }
                ]
            }
        ],
    }
]
LABEL_ME = {
    "imagePath": "a.png",
    "imageWidth": 12,
    "imageHeight": 10,
    "shapes": [{"label": "stop", "points": [[3, 2], [9, 7]], "shape_type": "rectangle"}],
}
CREATE_ML = [
    {
        "image": "a.png",
        "annotations": [{"label": "stop", "coordinates": {"x": 6, "y": 4.5, "width": 6, "height": 5}}],
    }
]
ONE_STOP = [("a.png", "stop", "", BOX)]

KINDS: dict[str, tuple[dict[str, Any], Signs]] = {
    "Ultralytics": (
        {"train/stop/1.png": PNG, "val/stop/2.png": PNG, "test/yield/3.png": PNG},
        [
            ("test/yield/3.png", "yield", "test", None),
            ("train/stop/1.png", "stop", "train", None),
            ("val/stop/2.png", "stop", "validation", None),
        ],
    ),
    "Kaggle's GTSRB": (
        {
            "Train.csv": f"{KAGGLE}\n12,10,3,2,8,6,14,Train/14/00014_00000_00000.png\n",
            "Test.csv": f"{KAGGLE}\n12,10,0,0,11,9,1,Test/00000.png\n",
            "Meta.csv": "Path,ClassId,ShapeId,ColorId,SignId\nMeta/14.png,14,4,0,r\n",
            **dict.fromkeys(["Train/14/00014_00000_00000.png", "Test/00000.png", "Meta/14.png"], PNG),
        },
        [
            ("Test/00000.png", "Speed limit (30 km/h)", "test", (0, 0, 1, 1)),
            ("Train/14/00014_00000_00000.png", "Stop", "", BOX),
        ],
    ),
    "GTSRB unpacked": (
        {
            "00014/GT-00014.csv": f"{HEADER}\n00000_00000.ppm;12;10;3;2;8;6;14\n",
            "00014/00000_00000.ppm": PNG,
        },
        [("00014/00000_00000.ppm", "Stop", "", BOX)],
    ),
    "a flat folder and a table": (
        {"labels.csv": "filename,label\na.png,stop\nb.png,yield\n", "images/a.png": PNG, "images/b.png": PNG},
        [("images/a.png", "stop", "", None), ("images/b.png", "yield", "", None)],
    ),
    "a table with splits, separated by ;": (
        {"data.csv": "Image;Class;Split\na.png;stop;train\nb.png;stop;valid\n", "a.png": PNG, "b.png": PNG},
        [("a.png", "stop", "train", None), ("b.png", "stop", "validation", None)],
    ),
    "a table without suffixes": (
        {"train.csv": "id,label\na,stop\n", "train/a.png": PNG},
        [("train/a.png", "stop", "train", None)],
    ),
    "Roboflow, one column a class": (
        {
            "train/_classes.csv": "filename, stop, Give way\na.png, 0, 1\n",
            "valid/_classes.csv": "filename, stop, Give way\na.png, 1, 0\n",
            "train/a.png": PNG,
            "valid/a.png": PNG,
        },
        [("train/a.png", "Give way", "train", None), ("valid/a.png", "stop", "validation", None)],
    ),
    "Roboflow, boxes as a table": (
        {
            "train/_annotations.csv": "filename,width,height,class,xmin,ymin,xmax,ymax\n"
            "a.png,12,10,stop,3,2,9,7\n",
            "train/a.png": PNG,
        },
        [("train/a.png", "stop", "train", BOX)],
    ),
    "Label Studio, choices as a table": (
        {"export.csv": "image,id,choice\n/data/upload/1/a.png,1,stop\n", "upload/a.png": PNG},
        [("upload/a.png", "stop", "", None)],
    ),
    "YOLO": (
        {
            "data.yaml": "names: [stop, yield]\nnc: 2\n",
            "images/train/a.png": PNG,
            "labels/train/a.txt": "0 0.5 0.45 0.5 0.5\n1 0.5 0.5 1 1\n",
            "images/val/b.png": PNG,
            "labels/val/b.txt": "1 0.25 0.2 0.75 0.2 0.75 0.7 0.25 0.7\n",
        },
        [
            ("images/train/a.png", "stop", "train", BOX),
            ("images/train/a.png", "yield", "train", (0, 0, 1, 1)),
            ("images/val/b.png", "yield", "validation", BOX),
        ],
    ),
    "LabelImg, YOLO beside the photos": (
        {"a.png": PNG, "a.txt": "1 0.5 0.45 0.5 0.5\n", "classes.txt": "yield\nstop\n"},
        ONE_STOP,
    ),
    "COCO": (
        {"train/_annotations.coco.json": COCO, "train/a.png": PNG},
        [("train/a.png", "stop", "train", BOX), ("train/a.png", "yield", "train", (0, 0, 1, 1))],
    ),
    "COCO, by the name of the file": (
        {"annotations/instances_val2017.json": COCO, "images/a.png": PNG},
        [("images/a.png", "stop", "validation", BOX), ("images/a.png", "yield", "validation", (0, 0, 1, 1))],
    ),
    "Pascal VOC": (
        {
            "Annotations/a.xml": VOC,
            "JPEGImages/a.png": PNG,
            "ImageSets/Main/test.txt": "a\n",
        },
        [("JPEGImages/a.png", "stop", "test", BOX)],
    ),
    "CVAT": ({"annotations.xml": CVAT, "images/a.png": PNG}, [("images/a.png", "stop", "", BOX)]),
    "Label Studio": ({"export.json": STUDIO, "a.png": PNG}, ONE_STOP),
    "LabelMe": ({"a.json": LABEL_ME, "a.png": PNG}, ONE_STOP),
    "Create ML": ({"_annotations.createml.json": CREATE_ML, "a.png": PNG}, ONE_STOP),
    "KITTI": (
        {"labels/a.txt": "stop 0.00 0 0.00 3.0 2.0 9.0 7.0 0 0 0 0 0 0 0\n", "images/a.png": PNG},
        [("images/a.png", "stop", "", BOX)],
    ),
    "FiftyOne": (
        {"labels.json": {"classes": ["stop", "yield"], "labels": {"a": 1}}, "data/a.png": PNG},
        [("data/a.png", "yield", "", None)],
    ),
    "Hugging Face": (
        {"train/metadata.jsonl": '{"file_name": "a.png", "label": "stop"}\n', "train/a.png": PNG},
        [("train/a.png", "stop", "train", None)],
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("packed", ["", "all.zip", "all.zip/my set"])
def test_what_tools_write_is_read(kind: str, packed: str, tmp_path: Path) -> None:
    files, expected = KINDS[kind]
    content = {n: json.dumps(c) if isinstance(c, dict | list) else c for n, c in files.items()}
    if packed:
        _, _, wrapper = packed.partition("/")
        pack(tmp_path / "own/all.zip", {f"{wrapper}/{n}".lstrip("/"): c for n, c in content.items()})
    else:
        lay(tmp_path / "own", content)
    prefix = f"{packed}/" if packed else ""
    assert signs(tmp_path / "own") == [(f"{prefix}{file}", *rest) for file, *rest in expected]


def test_the_training_archive_of_torchvision_under_any_name(tmp_path: Path) -> None:
    files = {
        "GTSRB/Training/00014/GT-00014.csv": f"{HEADER}\n00001_00002.ppm;12;10;3;2;8;6;14\n",
        "GTSRB/Training/00014/00001_00002.ppm": PNG,
        "GTSRB/Readme-Images.txt": "",
    }
    pack(tmp_path / "own/GTSRB-Training_fixed.zip", files)
    dataset = layouts.identify(tmp_path / "own")
    assert dataset.names == {14: "Stop"}
    assert dataset.table["track"].tolist() == ["14/00001"]


def test_tracks_of_kaggles_copy_are_in_its_names(tmp_path: Path) -> None:
    names = [f"Train/{c}/{c:05d}_{t:05d}_{f:05d}.png" for c in (1, 2) for t in (0, 1) for f in (0, 1)]
    rows = [f"12,10,3,2,8,6,{name.split('/')[1]},{name}" for name in names]
    lay(tmp_path / "own", {"Train.csv": "\n".join([KAGGLE, *rows]), **dict.fromkeys(names, PNG)})
    table = layouts.identify(tmp_path / "own").table
    assert table.groupby("track").size().to_dict() == {"1/00000": 2, "1/00001": 2, "2/00000": 2, "2/00001": 2}


def test_litter_is_left_out_and_counted(tmp_path: Path) -> None:
    litter = ["0/.ipynb_checkpoints/a-checkpoint.png", "0/._a.png", "0/Thumbs.db", "desktop.ini"]
    litter += ["1/.DS_Store", "@eaDir/x.png", "~$labels.xlsx"]
    lay(tmp_path / "own", dict.fromkeys(["0/a.png", "1/b.png", *litter], PNG))
    pack(tmp_path / "own/more.zip", dict.fromkeys(["__MACOSX/0/._c.png", "0/c.png"], PNG))
    dataset = layouts.identify(tmp_path / "own")
    assert dataset.table["file"].tolist() == ["0/a.png", "more.zip/0/c.png", "1/b.png"]
    assert dataset.problems == []
    assert dataset.litter == len(litter) + 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.csv", "ClassId;Name\n0;Stop\n1;Yield\n"),
        ("Labels.csv", "CLASSID,NAME\n0,Stop\n1,Yield\n"),
        ("labels.csv", "class_id\tname\n0\tStop\n1\tYield\n".encode("utf-16")),
        ("signnames.csv", "ClassId,SignName\n0,Stop\n1,Yield\n"),
        ("classes.csv", "id,name\n0,Stop\n1,Yield\n"),
    ],
)
def test_names_are_read_from_tables_as_people_save_them(name, content, tmp_path: Path) -> None:
    lay(tmp_path / "own", {"0/a.png": PNG, "1/b.png": PNG, name: content})
    dataset = layouts.identify(tmp_path / "own")
    assert dataset.names == {0: "Stop", 1: "Yield"}
    assert dataset.problems == []


def test_two_layouts_that_fit_are_refused(tmp_path: Path) -> None:
    lay(tmp_path / "own", {"a.png": PNG, "coco.json": json.dumps(COCO), "a.xml": VOC})
    with pytest.raises(DatasetError, match=r"can be read in 2 ways: .*COCO.*VOC") as caught:
        layouts.identify(tmp_path / "own")
    assert "*.xml  (1)" in str(caught.value)


def test_no_layout_that_fits_shows_the_tree_and_what_is_read(tmp_path: Path) -> None:
    lay(tmp_path / "own", {"photos/readme.txt": "", "loose.png": PNG})
    with pytest.raises(DatasetError, match="holds no images") as caught:
        layouts.identify(tmp_path / "own")
    for part in ("photos/*.txt  (1)", "*.png  (1)", *layouts.LAYOUTS[1]):
        assert part in str(caught.value)


@pytest.mark.parametrize("box", ["0 1.2 0.5 0.1 0.1", "0 0.5 0.5 0 0"])
def test_a_box_outside_of_its_photo_is_a_problem(box: str, tmp_path: Path) -> None:
    files = {"a.png": PNG, "a.txt": f"0 0.5 0.5 0.2 0.2\n{box}\n", "classes.txt": "stop\n"}
    lay(tmp_path / "own", files)
    dataset = layouts.identify(tmp_path / "own")
    assert len(dataset.table) == 1
    assert dataset.problems[0][0] == "a.png"


def test_photos_that_are_listed_but_absent_are_problems(tmp_path: Path) -> None:
    rows = "filename,label\na.png,stop\nb.png,stop\nc.png,stop\n"
    lay(tmp_path / "own", {"list.csv": rows, "a.png": PNG, "b.png": PNG})
    dataset = layouts.identify(tmp_path / "own")
    assert len(dataset.table) == 2
    assert dataset.problems == [("c.png", "listed in list.csv, line 4, but not there")]


def test_photos_without_a_box_are_noted(tmp_path: Path) -> None:
    files = {"a.png": PNG, "a.txt": "0 0.5 0.5 0.2 0.2\n", "b.png": PNG, "b.txt": "", "c.png": PNG}
    lay(tmp_path / "own", files | {"classes.txt": "stop\n"})
    notes = layouts.identify(tmp_path / "own").notes
    assert notes == [("b.png", "has no box"), ("c.png", "has no box")]


def test_a_region_in_pixels_scales_with_a_photo_whose_size_no_file_tells(tmp_path: Path) -> None:
    large = cv2.imencode(".png", np.zeros((100, 200, 3), np.uint8))[1].tobytes()
    lay(tmp_path / "own", {"boxes.csv": "image,label,xmin,ymin,xmax,ymax\na.png,stop,20,10,60,60\n", "a.png": large})
    assert signs(tmp_path / "own") == [("a.png", "stop", "", (0.1, 0.1, 0.3, 0.6))]


def test_an_archive_of_an_archive_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "own/all.zip"
    pack(path, {"0/a.png": PNG})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("more.zip", b"")
    problems = layouts.identify(tmp_path / "own").problems
    assert problems[0][0] == "all.zip/more.zip"
