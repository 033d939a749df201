"""What a layout finds: signs on photos, before their classes have numbers."""

from dataclasses import dataclass, field
from typing import NamedTuple

from signs.data.images import Region

Problem = tuple[str, str]  # file, what is wrong with it

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLIT_NAMES = {
    **dict.fromkeys(["train", "training", "trn"], TRAIN),
    **dict.fromkeys(["val", "valid", "validation", "dev"], VALIDATION),
    **dict.fromkeys(["test", "testing", "tst"], TEST),
}


class Sign(NamedTuple):
    """A sign on a photo."""

    file: str
    label: str  # a class id, if the labels of all signs are numbers, else a class name
    split: str = ""  # train, validation or test; "" if the set does not say
    track: str = ""  # the same for photos of one physical sign; "" if unknown
    region: Region | None = None  # None: the whole photo


@dataclass
class Found:
    """All that a layout finds in a tree."""

    signs: list[Sign]
    names: dict[int, str] = field(default_factory=dict)  # of class ids, if the layout knows them
    problems: list[Problem] = field(default_factory=list)  # photos that cannot be used
    notes: list[Problem] = field(default_factory=list)  # what was left aside, and hurts nobody


def split_of(name: str) -> str:
    """The split that a folder, an archive or a table of this name holds; "" if it is none."""
    return SPLIT_NAMES.get(name.lower().removesuffix(".zip"), "")


def split_in(path: str) -> str:
    """The split that the folders of a file name; "" if none does."""
    return next(filter(None, map(split_of, path.split("/")[:-1])), "")
