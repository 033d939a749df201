"""Ratios of the pipeline's speed to that of its bare ingredients, side by side in one run.

    make benchmark                        all of them, some minutes
    make benchmark ARGS=preprocess        one of them

synthesize  images/s of drawing and writing photos against bare cv2.warpPerspective of a drawing
            and cv2.imencode, of as many pixels on the same cores
preprocess  images/s of the whole stage's decoding against bare cv2.imdecode + cv2.resize of
            the same files on the same cores; needs a photo set (gtsrb if it is there)
train       images/s of the stage (drawing, augmentation, logging, checkpoints) against a bare
            model.fit of the same network on as many images that lie in memory
predict     images/s of `signs predict` on an archive against ONNX Runtime alone on prepared
            tensors, on the same cores; needs a classifier and GTSRB's archive, or the drawn one
pipeline    minutes and peak memory of the four stages of the default, run in a copy
repro       `dvc repro` with nothing to do: seconds, and whether it started any Python stage

Each figure is the median of REPEATS rounds in which the two sides take turns.
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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from signs import params
from signs.data import arrays, layouts
from signs.errors import UserError, run_stage
from signs.parallel import cores, ordered_map

REPEATS = 9
TRAIN_ROUNDS = 3
PREDICT_ROUNDS = 5
PREDICT_BATCH = 64  # the fastest on one core
CHUNK = 256
DRAWN_PER_CLASS = 300


def speed() -> None:
    """Run the chosen comparisons and print their ratios as JSON."""
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
    """Drawn photos, from nothing to the zip file, against bare warping and encoding."""
    from stages import synthesize

    settings = params.load().synthesize.model_copy(update={"images_per_class": DRAWN_PER_CLASS})
    classes = synthesize.all_classes("gtsrb")
    count = DRAWN_PER_CLASS * len(classes)
    # As the stage draws them: as many small ones as large ones on a logarithmic scale.
    low, high = settings.size.low, settings.size.high
    sides = [round(low * (high / low) ** (i / CHUNK)) for i in range(CHUNK)]
    tasks = [sides[: min(CHUNK, count - start)] for start in range(0, count, CHUNK)]
    bare_seconds, stage_seconds = [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(REPEATS):
            started = time.perf_counter()
            assert sum(ordered_map(_draw_bare, tasks, _one_thread)) == count
            bare_seconds.append(time.perf_counter() - started)
            started = time.perf_counter()
            synthesize.write_archive(Path(folder) / "images.zip", settings, classes)
            stage_seconds.append(time.perf_counter() - started)
    return {
        "images": count,
        "cores": cores(),
        "bare_images_per_second": round(count / statistics.median(bare_seconds)),
        "stage_images_per_second": round(count / statistics.median(stage_seconds)),
        "ratio": _median_ratio(bare_seconds, stage_seconds),
    }


def _one_thread() -> None:
    import cv2

    cv2.setNumThreads(1)


def _draw_bare(sides: list[int]) -> int:
    import cv2
    import numpy as np

    from signs.synthesis import render

    drawing = render.templates_of("gtsrb")[14][0]
    tile = render.rasterize(drawing, 64)[:, :, :3].astype(np.float32)
    for side in sides:
        matrix = np.diag([side / 64, side / 64, 1])
        photo = cv2.warpPerspective(tile, matrix, (side, side))
        cv2.imencode(".jpg", photo.astype(np.uint8))
    return len(sides)


def compare_preprocess() -> dict[str, Any]:
    """The stage's decoding, hashing and writing against bare decoding and resizing."""
    from stages import preprocess

    name = next((n for n in ("gtsrb", "signs", "synthetic") if (layouts.DATA / n).exists()), None)
    if name is None:
        raise UserError("There is no photo set under data/; run `dvc repro synthesize`.")
    dataset = layouts.read(name)
    settings = params.load().images
    files = dataset.table["file"].tolist()
    tasks = [files[i : i + CHUNK] for i in range(0, len(files), CHUNK)]
    bare_seconds, stage_seconds = [], []
    with tempfile.TemporaryDirectory() as folder:
        _copy_tree(Path(folder), name)
        if name == "synthetic":
            _link(Path(folder), name)
        seconds, memory = _run_stage(Path(folder), "preprocess")
        for _ in range(REPEATS):
            started = time.perf_counter()
            done = sum(
                ordered_map(_decode_bare, tasks, _open_bare, (dataset.folder, settings.size))
            )
            bare_seconds.append(time.perf_counter() - started)
            assert done == len(files)
            started = time.perf_counter()
            preprocess.decode_all(dataset, settings, Path(folder) / "images.npy")
            stage_seconds.append(time.perf_counter() - started)
    return {
        "dataset": name,
        "images": len(files),
        "cores": cores(),
        "bare_images_per_second": round(len(files) / statistics.median(bare_seconds)),
        "stage_images_per_second": round(len(files) / statistics.median(stage_seconds)),
        "ratio": _median_ratio(bare_seconds, stage_seconds),
        "whole_stage_images_per_second": round(len(files) / seconds),
        "largest_process_peak_mb": memory,
    }


_bare: dict[str, Any] = {}


def _open_bare(folder: Path, size: int) -> None:
    import cv2

    cv2.setNumThreads(1)
    _bare.update(reader=layouts.Reader(folder), size=(size, size))


def _decode_bare(files: list[str]) -> int:
    import cv2
    import numpy as np

    for file in files:
        content = np.frombuffer(_bare["reader"].read(file), np.uint8)
        cv2.resize(np.asarray(cv2.imdecode(content, cv2.IMREAD_COLOR)), _bare["size"])
    return len(files)


def compare_predict() -> dict[str, Any]:
    """Photos in an archive, to a file of answers, against the network alone."""
    from signs.data import images
    from signs.data.archives import Archive
    from signs.inference.classifier import Classifier

    candidates = [
        layouts.DATA / "gtsrb" / layouts.GTSRB_TRAINING,
        layouts.DATA / "synthetic/images.zip",
    ]
    path = next((path for path in candidates if path.exists()), None)
    if path is None:
        raise UserError("There is no archive of photos under data/; run `dvc repro synthesize`.")
    classifier = Classifier(threads=1)
    archive = Archive(path)
    members = [m for m in archive.sizes() if Path(m).suffix.lower() in images.SUFFIXES]
    prepared_photos = classifier.prepare([images.decode(archive.read(m)) for m in members])
    bare_seconds, command_seconds = [], []
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "signs", "predict", str(path)]
        command += ["--output", str(Path(folder) / "answers.csv")]
        for _ in range(PREDICT_ROUNDS):
            started = time.perf_counter()
            starts = range(0, len(members), PREDICT_BATCH)
            with ThreadPoolExecutor(cores()) as pool:
                batches = (prepared_photos[i : i + PREDICT_BATCH] for i in starts)
                assert sum(len(logits) for logits in pool.map(classifier.logits, batches))
            bare_seconds.append(time.perf_counter() - started)
            started = time.perf_counter()
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
            command_seconds.append(time.perf_counter() - started)
    return {
        "images": len(members),
        "cores": cores(),
        "bare_images_per_second": round(len(members) / statistics.median(bare_seconds)),
        "command_images_per_second": round(len(members) / statistics.median(command_seconds)),
        "ratio": _median_ratio(bare_seconds, command_seconds),
    }


def measure_pipeline() -> dict[str, Any]:
    """Time and peak memory of each stage of the default pipeline, run in a copy of the tree."""
    with tempfile.TemporaryDirectory() as folder:
        _copy_tree(Path(folder), params.load().dataset)
        stages = {
            name: _run_stage(Path(folder), name)
            for name in ("synthesize", "preprocess", "train", "evaluate")
        }
    return {
        "dataset": params.load().dataset,
        "minutes": round(sum(seconds for seconds, _ in stages.values()) / 60, 1),
        "largest_process_peak_mb": max(memory for _, memory in stages.values()),
        "stages": {
            name: {"seconds": round(seconds), "largest_process_peak_mb": memory}
            for name, (seconds, memory) in stages.items()
        },
    }


def _copy_tree(copy: Path, dataset: str) -> None:
    """What the stages need to run elsewhere; a photo set that is there is linked."""
    for name in ("signs", "stages"):
        shutil.copytree(name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    settings = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    settings["dataset"] = dataset
    if dataset != "synthetic":
        # The drawn photos that train beside others would count as their time.
        settings["train"]["compact"].update(synthetic_share=0.0, auxiliary_outlier_share=0.0)
    (copy / "params.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    (copy / "data").mkdir()
    if dataset != "synthetic":
        _link(copy, dataset)
    # DVCLive wants a repository with a commit.
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "benchmark"]):
        identity = ["-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost"]
        subprocess.run(["git", *identity, *command], cwd=copy, check=True)


def _link(copy: Path, dataset: str) -> None:
    (copy / "data" / dataset).symlink_to((layouts.DATA / dataset).resolve())


def _run_stage(copy: Path, stage: str) -> tuple[float, int]:
    """Seconds, and peak resident memory in MB of the stage's largest process."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", f"stages.{stage}"], cwd=copy)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise UserError(f"The stage {stage} failed; see above.")
    return time.perf_counter() - started, round(usage.ru_maxrss / 1024)


def compare_train() -> dict[str, Any]:
    """The stage's epochs against bare model.fit on arrays that lie in memory."""
    import tensorflow as tf
    from dvclive.live import Live

    from stages import train

    tf.config.experimental.enable_op_determinism()  # as the stage does; for both sides
    settings = params.load().train
    recipe = settings.recipe.model_copy(update={"epochs": TRAIN_ROUNDS + 1})
    settings = settings.model_copy(update={settings.network: recipe})
    data = arrays.load()
    images, targets = train.EpochSampler(data, recipe, settings.seed).draw(0)
    bare = train.build(settings.network, data, recipe)
    progress = train.Progress()
    bare_seconds: list[float] = []
    stage_seconds: list[float] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        Live(dir=str(train.METRICS), dvcyaml=None, report=None, save_dvc_exp=False) as live,
    ):
        model = train.build(settings.network, data, recipe)
        training = train.Training(model, progress, data, settings, Path("state"), live)
        for _ in range(TRAIN_ROUNDS + 1):
            started = time.perf_counter()
            bare.fit(images, targets, batch_size=recipe.batch_size, shuffle=False, verbose=0)
            bare_seconds.append(time.perf_counter() - started)
            before = progress.seconds - progress.validation_seconds
            training.run_epoch()
            stage_seconds.append(progress.seconds - progress.validation_seconds - before)
    # The first round compiles the networks.
    bare_seconds, stage_seconds = bare_seconds[1:], stage_seconds[1:]
    return {
        "network": settings.network,
        "images": len(images),
        "cores": cores(),
        "bare_images_per_second": round(len(images) / statistics.median(bare_seconds)),
        "stage_images_per_second": round(len(images) / statistics.median(stage_seconds)),
        "ratio": _median_ratio(bare_seconds, stage_seconds),
    }


def measure_repro() -> dict[str, Any]:
    """`dvc repro` when all is up to date."""
    seconds, started_stages = [], 0
    for _ in range(REPEATS):
        started = time.perf_counter()
        output = subprocess.run(["dvc", "repro"], check=True, capture_output=True, text=True).stdout
        seconds.append(time.perf_counter() - started)
        started_stages += output.count("Running stage")
    return {"seconds": round(statistics.median(seconds), 1), "stages_started": started_stages}


def _median_ratio(bare: list[float], ours: list[float]) -> float:
    return round(statistics.median(b / o for b, o in zip(bare, ours, strict=True)), 3)


if __name__ == "__main__":
    run_stage(speed)
