"""Ratios of the pipeline's speed to that of its bare ingredients, side by side in one run.

    make benchmark                        all of them, some minutes
    make benchmark ARGS=preprocess        one of them

synthesize  images/s of rendering and writing photos against bare cv2.warpPerspective of a template
            and cv2.imencode, of as many pixels on the same cores
preprocess  images/s of the stage's decoding against bare cv2.imdecode + cv2.resize of the same
            files on the same cores; needs a data set (gtsrb if it is there)
train       images/s of the stage (sampling, augmentation, logging, checkpoints) against a bare
            model.fit of the same network with the layers of Keras, on as many images in memory
predict     images/s of `signs predict` on an archive against ONNX Runtime alone on prepared
            tensors, on the same cores; needs a classifier and an archive of photos
pipeline    minutes and peak memory of each stage of the default pipeline, run in a copy
repro       `dvc repro` with nothing to do: seconds, and how many stages it started

Each figure is the median of some rounds in which the two sides take turns.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from benchmarks import photos
from signs import params, pipeline
from signs.data import arrays, decode, layouts
from signs.errors import UserError, run_stage
from signs.machine import cores
from signs.parallel import ordered_map
from signs.paths import DATA, PARAMS, TRAIN_METRICS

REPEATS = 9
TRAIN_ROUNDS = 3
PREDICT_ROUNDS = 5
PREDICT_BATCH = 64  # the fastest on one core
CHUNK = 256
PHOTOS_PER_CLASS = 300

# One side of a comparison: does the work, and gives its seconds if not all of it counts.
Side = Callable[[], float | None]


def speed() -> None:
    """Run the chosen comparisons and print their figures as JSON."""
    comparisons: dict[str, Callable[[], dict[str, Any]]] = {
        "synthesize": compare_synthesize,
        "preprocess": compare_preprocess,
        "train": compare_train,
        "predict": compare_predict,
        "pipeline": measure_pipeline,
        "repro": measure_repro,
    }
    parser = argparse.ArgumentParser(description="Ratios of speed, side by side.")
    parser.add_argument("which", nargs="*", default="all", choices=["all", *comparisons])
    which = parser.parse_args().which
    for name in comparisons if "all" in which else which:
        print(json.dumps({name: comparisons[name]()}, indent=2), flush=True)


def compare_synthesize() -> dict[str, Any]:
    """Synthetic photos, from templates to the zip file, against bare warping and encoding."""
    from signs.synthesis import sets

    settings = params.load().synthesize.model_copy(update={"images_per_class": PHOTOS_PER_CLASS})
    content = sets.plan(settings, "gtsrb")["synthetic"]
    count = PHOTOS_PER_CLASS * len(content.templates)
    # As many small photos as large ones on a logarithmic scale, as the stage renders them.
    low, high = settings.size.low, settings.size.high
    sides = [round(low * (high / low) ** (i / CHUNK)) for i in range(CHUNK)]
    tasks = [sides[: min(CHUNK, count - start)] for start in range(0, count, CHUNK)]
    with tempfile.TemporaryDirectory() as folder:

        def bare() -> None:
            assert sum(ordered_map(_render_bare, tasks, _one_thread)) == count

        def stage() -> None:
            sets.write_archive(Path(folder) / "images.zip", content)

        return _compare(bare, stage, count, REPEATS)


def _one_thread() -> None:
    import cv2

    cv2.setNumThreads(1)


def _render_bare(sides: list[int]) -> int:
    import cv2
    import numpy as np

    from signs.synthesis import svg

    template = svg.templates_of("gtsrb")[14][0]
    tile = svg.rasterize(template, 64)[:, :, :3].astype(np.float32)
    for side in sides:
        matrix = np.diag([side / 64, side / 64, 1])
        photo = cv2.warpPerspective(tile, matrix, (side, side))
        cv2.imencode(".jpg", photo.astype(np.uint8))
    return len(sides)


def compare_preprocess() -> dict[str, Any]:
    """The stage's decoding, hashing and writing against bare decoding and resizing."""
    name = photos.photo_set()
    dataset, settings = layouts.read(name), params.load().images
    files = dataset.table["file"].tolist()
    tasks = [files[i : i + CHUNK] for i in range(0, len(files), CHUNK)]
    with tempfile.TemporaryDirectory() as folder:
        # Synthetic photos that train beside others would count as the time of this data set.
        shares = ("train.compact.synthetic_share", "train.compact.auxiliary_outlier_share")
        _copy_tree(Path(folder), {"dataset": name} | dict.fromkeys(shares, 0.0), name)
        seconds, memory = _run_stage(Path(folder), "preprocess")

        def bare() -> None:
            start = (dataset.folder, settings.size)
            assert sum(ordered_map(_decode_bare, tasks, _open_bare, start)) == len(files)

        def stage() -> None:
            decode.decode_all(dataset, settings, Path(folder) / "images.npy")

        return {
            "dataset": name,
            **_compare(bare, stage, len(files), REPEATS),
            "whole_stage_images_per_second": round(len(files) / seconds),
            "largest_process_peak_mb": memory,
        }


_bare: dict[str, Any] = {}


def _open_bare(folder: Path, size: int) -> None:
    _one_thread()
    _bare.update(reader=layouts.Reader(folder), size=(size, size))


def _decode_bare(files: list[str]) -> int:
    import cv2
    import numpy as np

    for file in files:
        content = np.frombuffer(_bare["reader"].read(file), np.uint8)
        cv2.resize(np.asarray(cv2.imdecode(content, cv2.IMREAD_COLOR)), _bare["size"])
    return len(files)


def compare_predict() -> dict[str, Any]:
    """`signs predict` on an archive, to a file of predictions, against the network alone."""
    from signs.data import images
    from signs.data.archives import Archive
    from signs.inference.classifier import Classifier

    path = photos.archive()
    classifier = Classifier(threads=1)
    archive = Archive(path)
    members = [m for m in archive.sizes() if Path(m).suffix.lower() in images.SUFFIXES]
    prepared = classifier.prepare([images.decode(archive.read(m)) for m in members])
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "signs", "predict", str(path)]
        command += ["--output", str(Path(folder) / "predictions.csv")]

        def bare() -> None:
            starts = range(0, len(members), PREDICT_BATCH)
            with ThreadPoolExecutor(cores()) as pool:
                batches = (prepared[i : i + PREDICT_BATCH] for i in starts)
                assert sum(map(len, pool.map(classifier.logits, batches))) == len(members)

        def ours() -> None:
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)

        return _compare(bare, ours, len(members), PREDICT_ROUNDS)


def measure_pipeline() -> dict[str, Any]:
    """Time and peak memory of each stage of the default pipeline, run in a copy of the tree."""
    dataset = params.load().dataset
    with tempfile.TemporaryDirectory() as folder:
        _copy_tree(Path(folder), {}, "" if dataset == "synthetic" else dataset)
        stages = {name: _run_stage(Path(folder), name) for name in pipeline.STAGES}
    return {
        "dataset": dataset,
        "minutes": round(sum(seconds for seconds, _ in stages.values()) / 60, 1),
        "largest_process_peak_mb": max(memory for _, memory in stages.values()),
        "stages": {
            name: {"seconds": round(seconds), "largest_process_peak_mb": memory}
            for name, (seconds, memory) in stages.items()
        },
    }


def _copy_tree(copy: Path, settings: Mapping[str, Any], photo_set: str) -> None:
    """What the stages need in another folder, with changed settings and a link to a data set."""
    for name in ("signs", "stages", "requirements"):
        shutil.copytree(name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy("dvc.yaml", copy)
    content = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))
    params.assign(content, settings)
    (copy / PARAMS).write_text(yaml.safe_dump(content), encoding="utf-8")
    for folder in ("data", "docs"):
        (copy / folder).mkdir()
    if photo_set:
        (copy / DATA / photo_set).symlink_to((DATA / photo_set).resolve())
    # DVCLive wants a repository with a commit.
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "benchmark"]):
        identity = ["-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost"]
        subprocess.run(["git", *identity, *command], cwd=copy, check=True)


def _run_stage(copy: Path, stage: str) -> tuple[float, int]:
    """Seconds, and peak resident memory in MB of the stage's largest process."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", f"stages.{stage}"], cwd=copy)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise UserError(f"The stage {stage} failed; see above.")
    return time.perf_counter() - started, round(usage.ru_maxrss / 1024)


def compare_train() -> dict[str, Any]:
    """The stage's epochs against bare model.fit on arrays in memory."""
    import tensorflow as tf
    from dvclive.live import Live

    from signs.training.checkpoint import Progress
    from signs.training.compile import build
    from signs.training.loop import Training, _batches
    from signs.training.normalization import plain
    from signs.training.sampler import EpochSampler

    tf.config.experimental.enable_op_determinism()  # as the stage does; for both sides
    settings = params.load().train
    recipe = settings.recipe.model_copy(update={"epochs": TRAIN_ROUNDS + 1})
    settings = settings.model_copy(update={settings.network: recipe})
    data = arrays.load()
    images, targets = EpochSampler(data, recipe, settings.seed).sample(0)
    compiled = build(settings.network, data, recipe)
    network = plain(compiled)
    network.compile_from_config(compiled.get_compile_config())
    batches = _batches((images, targets), recipe.batch_size)
    progress = Progress()
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        Live(dir=str(TRAIN_METRICS), dvcyaml=None, report=None, save_dvc_exp=False) as live,
    ):
        model = build(settings.network, data, recipe)
        training = Training(model, progress, data, settings, Path("state"), live)

        def bare() -> None:
            network.fit(batches, shuffle=False, verbose=0)

        def stage() -> float:
            before = progress.seconds - progress.validation_seconds
            training.run_epoch()
            return progress.seconds - progress.validation_seconds - before

        for traced in (bare, stage):
            traced()
        figures = _compare(bare, stage, len(images), TRAIN_ROUNDS)
    return {"network": settings.network, **figures}


def measure_repro() -> dict[str, Any]:
    """`dvc repro` when all is up to date."""
    seconds, started_stages = [], 0
    for _ in range(REPEATS):
        started = time.perf_counter()
        command = [sys.executable, "-m", "dvc", "repro"]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        seconds.append(time.perf_counter() - started)
        started_stages += output.count("Running stage")
    return {"seconds": round(statistics.median(seconds), 1), "stages_started": started_stages}


def _compare(bare: Side, ours: Side, images: int, rounds: int) -> dict[str, Any]:
    """Images/s of both sides, and the median of the rounds' ratios; above 1: ours is faster."""
    seconds = [(_time(bare), _time(ours)) for _ in range(rounds)]
    bare_seconds, our_seconds = zip(*seconds, strict=True)
    return {
        "images": images,
        "cores": cores(),
        "bare_images_per_second": round(images / statistics.median(bare_seconds)),
        "images_per_second": round(images / statistics.median(our_seconds)),
        "ratio": round(statistics.median(b / o for b, o in seconds), 3),
    }


def _time(side: Side) -> float:
    started = time.perf_counter()
    counted = side()
    return time.perf_counter() - started if counted is None else counted


if __name__ == "__main__":
    run_stage(speed)
