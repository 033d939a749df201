"""The class names that come with the project."""

import csv
from pathlib import Path

import pytest

LABELS = Path(__file__).parents[2] / "signs/data/labels"


def _rows(name: str) -> list[dict[str, str]]:
    with (LABELS / f"{name}.csv").open(encoding="ascii", newline="") as file:
        return list(csv.DictReader(file, strict=True))


@pytest.mark.parametrize(
    ("name", "classes", "columns"),
    [("gtsrb", 43, ["ClassId", "Name"]), ("signs", 58, ["ClassId", "Name", "SourceName"])],
)
def test_every_class_has_one_name_of_its_own(name, classes, columns):
    rows = _rows(name)
    assert all(list(row) == columns for row in rows)
    assert [row["ClassId"] for row in rows] == [str(number) for number in range(classes)]
    assert all(value and value == value.strip() for row in rows for value in row.values())
    names = [row["Name"].casefold() for row in rows]
    assert len(set(names)) == classes
    assert not any("unknown" in text for text in names)


def test_names_say_what_the_photos_show_where_the_source_does_not():
    names = [row["Name"] for row in _rows("signs")]
    assert names[18] == "End of speed limit (40 km/h)"
    assert names[38:40] == ["Dangerous curve to the right", "Dangerous curve to the left"]
    assert names[52:54] == ["Stop", "No vehicles"]
    # Both sets use the same name for the same sign.
    shared = {row["Name"] for row in _rows("gtsrb")} & set(names)
    assert {"Stop", "Yield", "No entry", "No vehicles", "Keep right", "Roundabout"} <= shared
    assert {"Speed limit (30 km/h)", "Dangerous curve to the left", "Road works"} <= shared
