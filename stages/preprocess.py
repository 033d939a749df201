"""Photos → arrays, leak-free splits and an audit of the data.

Run by `dvc repro preprocess`, or alone: python -m stages.preprocess
"""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm import tqdm

from signs import datasets, images, params, pictures, prepared, splits
from signs.errors import UserError, run_stage
from signs.parallel import ordered_map

METRICS = Path("metrics/preprocess")
CHUNK = 256  # files a task: few enough for a live progress bar, enough to hide its cost
SHOWN_GROUPS = 20
REGION = ["left", "top", "right", "bottom"]


@dataclass
class Decoded:
    """What decoding one chunk of n files gave; rows of unusable files are zero."""

    arrays: npt.NDArray[np.uint8]  # (n, size, size, channels)
    thumbnails: npt.NDArray[np.uint8]  # (n, 16, 16)
    digests: list[str]  # of the decoded pixels; "" for an unusable file
    shapes: list[tuple[int, int]]  # height, width
    problems: list[tuple[str, str]]  # file, what is wrong


def preprocess() -> None:
    """Decode the chosen photo set, split it without leaks, write arrays and audit."""
    settings = params.load()
    dataset = datasets.read(settings.dataset)
    METRICS.mkdir(parents=True, exist_ok=True)
    # A killed run must not leave half an array where training looks for a whole one.
    staging = prepared.FOLDER.with_name("prepared.tmp")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        samples, thumbnails = _decode_all(dataset, settings.images, staging / prepared.IMAGES)
        labels = _labels(dataset, samples)
        audit = _split(samples, thumbnails, settings.preprocess.split, dataset.problems)
        _write_audit(audit, samples, labels, dataset)
        _refuse_bad_data(audit, dataset.problems, settings.preprocess)
        samples.drop(columns=["digest", "track", "fixed_split"]).to_csv(
            staging / prepared.SAMPLES, index=False
        )
        labels.to_csv(staging / prepared.LABELS, index=False)
        prepared.describe(staging, settings.dataset, settings.images)
        shutil.rmtree(prepared.FOLDER, ignore_errors=True)
        staging.rename(prepared.FOLDER)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    print(_summary(audit))


def _decode_all(
    dataset: datasets.Dataset, settings: params.ImageSettings, path: Path
) -> tuple[pd.DataFrame, npt.NDArray[np.uint8]]:
    """Stream all images into one .npy file; returns the samples and their thumbnails."""
    samples = dataset.table.copy()
    thumbnails = np.zeros((len(samples), 16, 16), np.uint8)
    digests: list[str] = []
    shapes: list[tuple[int, int]] = []
    with (
        path.open("wb") as file,
        tqdm(total=len(samples), unit=" images", desc="preprocess", mininterval=0.5) as progress,
    ):
        _write_header(file, (len(samples), settings.size, settings.size, settings.channels))
        for decoded in ordered_map(
            _decode_chunk, _chunks(samples), _open_dataset, (dataset.folder, settings)
        ):
            # Plain writes report a full disk as an error; a memory map would die of it.
            file.write(decoded.arrays.tobytes())
            thumbnails[len(digests) : len(digests) + len(decoded.digests)] = decoded.thumbnails
            digests += decoded.digests
            shapes += decoded.shapes
            dataset.problems += decoded.problems
            progress.update(len(decoded.digests))
    samples["digest"] = digests
    samples[["height", "width"]] = shapes
    return samples, thumbnails


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _chunks(samples: pd.DataFrame) -> Iterator[list[tuple[str, tuple[float, ...]]]]:
    files = samples["file"].tolist()
    regions = [tuple(region) for region in samples[REGION].to_numpy().tolist()]
    for start in range(0, len(files), CHUNK):
        stop = start + CHUNK
        yield list(zip(files[start:stop], regions[start:stop], strict=True))


_worker: dict[str, Any] = {}


def _open_dataset(folder: Path, settings: params.ImageSettings) -> None:
    cv2.setNumThreads(1)
    _worker.update(reader=datasets.Reader(folder), settings=settings)


def _decode_chunk(chunk: list[tuple[str, tuple[float, ...]]]) -> Decoded:
    settings: params.ImageSettings = _worker["settings"]
    shape = (len(chunk), settings.size, settings.size, settings.channels)
    result = Decoded(
        np.zeros(shape, np.uint8), np.zeros((len(chunk), 16, 16), np.uint8), [], [], []
    )
    for row, (file, region) in enumerate(chunk):
        try:
            image = images.decode(_worker["reader"].read(file))
            whole = region[0] != region[0]
            result.arrays[row] = images.prepare(image, settings, None if whole else region)  # type: ignore[arg-type]
        except (images.ImageError, OSError, zipfile.BadZipFile) as error:
            result.problems.append((file, str(error)))
            result.digests.append("")
            result.shapes.append((0, 0))
            continue
        height, width = image.shape[:2]
        result.thumbnails[row] = images.thumbnail(image)
        digest = hashlib.blake2b(image.tobytes(), digest_size=16, salt=b"%d" % width)
        result.digests.append(digest.hexdigest())
        result.shapes.append((height, width))
    return result


def _labels(dataset: datasets.Dataset, samples: pd.DataFrame) -> pd.DataFrame:
    """Number the classes that have a usable image; adds the column `label` to samples."""
    used = sorted(samples.loc[samples["digest"] != "", "class_id"].unique())
    samples["label"] = samples["class_id"].map({c: i for i, c in enumerate(used)}).fillna(-1)
    samples["label"] = samples["label"].astype(int)
    return pd.DataFrame({"ClassId": used, "Name": [dataset.names[c] for c in used]})


def _split(
    samples: pd.DataFrame,
    thumbnails: npt.NDArray[np.uint8],
    settings: params.Split,
    problems: list[tuple[str, str]],
) -> dict[str, Any]:
    """Add the columns `group` and `split` to samples; returns the audit.

    Images that are not used (unusable, surplus duplicates, contradicting labels) get the
    split "unused"; with `group: none` duplicates are used, which is the leak.
    """
    digests = samples["digest"].to_numpy(dtype=str)
    labels = samples["label"].to_numpy()
    fixed_test = (samples["fixed_split"] == splits.TEST).to_numpy()
    usable = digests != ""

    conflicts = _conflicts(samples, problems)
    duplicate = samples["digest"].duplicated().to_numpy() & usable
    # An official test set stays whole; its twins among the training photos go.
    in_test = np.isin(digests, digests[fixed_test & usable])
    surplus = np.where(fixed_test, False, duplicate | (in_test & usable))
    distinct = usable & ~surplus & ~conflicts

    tracks = samples["track"].to_numpy(dtype=str)
    rows = np.flatnonzero(usable & ~duplicate)
    if samples["track"].eq("").all():
        near = rows[splits.near_duplicate_pairs(thumbnails[rows], labels[rows], settings.similarity)]
    else:
        # Frames of different physical signs look alike too; the set says which belong together.
        near = np.empty((0, 2), np.int64)
    pairs = [splits.same_value_pairs(digests), splits.same_value_pairs(tracks), near]
    group = splits.groups(len(samples), np.concatenate(pairs))

    leak_free = settings.group == "duplicates"
    used = distinct if leak_free else usable & ~conflicts
    split = np.full(len(samples), splits.UNUSED, dtype="<U10")
    own_group = np.arange(len(samples))
    split[used] = splits.assign(
        labels[used], (group if leak_free else own_group)[used], settings, fixed_test[used]
    )
    samples["group"], samples["split"] = group, split

    everything = usable & ~conflicts
    random_split = np.full(len(samples), splits.UNUSED, dtype="<U10")
    random_split[everything] = splits.assign(
        labels[everything], own_group[everything], settings, fixed_test[everything]
    )
    sizes = np.bincount(group[usable]) if usable.any() else np.zeros(1, int)
    return {
        "files": len(samples),
        "unusable": int((~usable).sum()),
        "distinct": int((usable & ~duplicate).sum()),
        "exact_duplicates": int(duplicate.sum()),
        "with_near_duplicate": len(np.unique(near)),
        "contradicting_labels": int(conflicts.sum()),
        "groups": int((sizes > 0).sum()),
        "largest_group": int(sizes.max()),
        "classes": len(np.unique(labels[usable])),
        "classes_not_tested": len(
            set(labels[used].tolist()) - set(labels[split == splits.TEST].tolist())
        ),
        **{name: int((split == name).sum()) for name in splits.SPLITS},
        "leaks": {
            "exact": _leaks(splits.count_twins(split, digests)),
            "group": _leaks(splits.count_twins(split, group.astype(str))),
            "near": _leaks(
                splits.count_near_twins(split, thumbnails, labels, settings.similarity)
                if samples["track"].eq("").all()
                else {}
            ),
            "test_percent": _percent(
                splits.count_twins(split, digests)[splits.TEST], (split == splits.TEST).sum()
            ),
            "test_percent_if_split_at_random": _percent(
                splits.count_twins(random_split, digests)[splits.TEST],
                (random_split == splits.TEST).sum(),
            ),
        },
    }


def _leaks(counts: dict[str, int]) -> int:
    return sum(counts.values())


def _percent(part: int, whole: int) -> float:
    return round(100 * float(part) / max(1, int(whole)), 2)


def _conflicts(samples: pd.DataFrame, problems: list[tuple[str, str]]) -> npt.NDArray[np.bool_]:
    """Images that are filed under several classes; which is right nobody can tell."""
    usable = samples[samples["digest"] != ""]
    classes = usable.groupby("digest")["class_id"].nunique()
    conflicting = samples["digest"].isin(classes[classes > 1].index)
    for digest, rows in samples[conflicting].groupby("digest"):
        del digest
        listed = ", ".join(f"{file} (class {c})" for file, c in zip(rows["file"], rows["class_id"], strict=True))
        problems += [(file, f"the same photo stands in several classes: {listed}") for file in rows["file"]]
    return conflicting.to_numpy()


def _write_audit(
    audit: dict[str, Any], samples: pd.DataFrame, labels: pd.DataFrame, dataset: datasets.Dataset
) -> None:
    """Write the audit, the tables of classes and problems, and the duplicates' picture."""
    (METRICS / "audit.json").write_text(json.dumps(audit, indent=2) + "\n", encoding="utf-8")
    pd.DataFrame(dataset.problems, columns=["file", "problem"]).to_csv(
        METRICS / "problems.csv", index=False
    )
    _class_table(samples, labels).to_csv(METRICS / "classes.csv", index=False)
    _draw_groups(samples, dataset)


def _class_table(samples: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    usable = samples[samples["digest"] != ""]
    by_label = usable.groupby("label")
    table = pd.DataFrame(
        {
            "class_id": labels["ClassId"],
            "name": labels["Name"],
            "files": by_label.size(),
            "distinct": by_label["digest"].nunique(),
            "groups": by_label["group"].nunique(),
        }
    )
    for name in splits.SPLITS:
        table[name] = (usable["split"] == name).groupby(usable["label"]).sum()
    table["note"] = np.where(table["test"] == 0, "not tested: too few distinct groups", "")
    return table


def _draw_groups(samples: pd.DataFrame, dataset: datasets.Dataset) -> None:
    """A contact sheet of the groups with the most images, from the photos themselves."""
    usable = samples[samples["digest"] != ""]
    sizes = usable["group"].value_counts()
    sizes = sizes[sizes > 1].sort_index().sort_values(ascending=False, kind="stable")
    reader = datasets.Reader(dataset.folder)
    rows = []
    for group in sizes.index[:SHOWN_GROUPS]:
        members = usable[usable["group"] == group]
        distinct = members["digest"].nunique()
        name = dataset.names[int(members["class_id"].iloc[0])]
        caption = f"{name[:38]}\n{len(members)} files, {distinct} distinct"
        photos = [images.decode(reader.read(file))[:, :, ::-1] for file in members["file"][:18]]
        rows.append((caption, photos))
    title = f"{dataset.folder.name}: the largest groups of images that show the same thing"
    pictures.contact_sheet(rows, METRICS / "duplicates.jpg", title if rows else "no duplicates")


def _refuse_bad_data(
    audit: dict[str, Any], problems: list[tuple[str, str]], settings: params.Preprocess
) -> None:
    """Raises UserError for too many problems, a leak, or nothing to learn or test with."""
    share = len(problems) / max(1, audit["files"])
    if problems:
        print(f"{len(problems)} problems, all listed in {METRICS / 'problems.csv'}:")
        print("\n".join(f"  {file}: {problem}" for file, problem in problems[:10]))
    if share > settings.max_problems:
        raise UserError(
            f"{len(problems)} of {audit['files']} files ({share:.1%}) cannot be used; "
            f"preprocess.max_problems allows {settings.max_problems:.1%}. "
            f"Repair or remove the files listed in {METRICS / 'problems.csv'}, or raise the limit."
        )
    if audit["classes"] < 2:
        raise UserError("There is nothing to tell apart: the set needs at least two classes.")
    for name in splits.SPLITS:
        if not audit[name]:
            raise UserError(
                f"No image is left for {name}: a class needs at least two groups of photos that "
                f"do not show the same thing to be tested, three to be validated too. "
                f"See {METRICS / 'classes.csv'}."
            )
    leaks = audit["leaks"]
    if settings.split.group == "duplicates" and leaks["exact"] + leaks["group"] + leaks["near"]:
        raise UserError(f"The split leaks: {leaks}. This is a defect of signs/splits.py.")


def _summary(audit: dict[str, Any]) -> str:
    leaks = audit["leaks"]
    return (
        f"{audit['files']:,} files, {audit['distinct']:,} distinct photos in "
        f"{audit['groups']:,} groups, {audit['classes']} classes "
        f"({audit['classes_not_tested']} with too few groups to be tested).\n"
        f"train {audit['train']:,}, validation {audit['validation']:,}, test {audit['test']:,}. "
        f"Test photos with an identical twin in training: {leaks['test_percent']} % "
        f"(split at random: {leaks['test_percent_if_split_at_random']} %)."
    )


if __name__ == "__main__":
    run_stage(preprocess)
