"""Photos a second of bulk work on Ray beside the same work on one machine, in turns.

    make benchmark-scale                               half an hour on two cores
    make benchmark-scale ARGS="--rounds 1 --workers 1"

predict     `signs bulk predict` against `signs predict`
preprocess  `signs bulk preprocess` against what the preprocess stage does with photos

Both sides are whole commands, bound to as many cores as there are workers. More workers than cores
share the cores: that shows what coordination costs, not what more cores would bring.
Needs a classifier, and GTSRB's archive or the synthetic photos.

A command needs time to start, whatever the number of photos, and time for the photos. So each runs
with few photos and with many. The rate belongs to the difference, and the rest is the start.
Figures are medians of the rounds; the ratio is the median of the rounds' ratios.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

from benchmarks import photos
from signs.data.sources import is_photo
from signs.errors import UserError, run_stage
from signs.paths import CLASSIFIER

FEW = 8192
# Copies of each photo in the large archive: preparing a photo takes a tenth of a prediction's time.
COPIES = {"predict": 1, "preprocess": 6}
SHARD = 2048  # photos; GTSRB gives 20 shards
STAGE = """
import sys
from pathlib import Path

from signs import params
from signs.data import decode, layouts

dataset = layouts.read("few", Path(sys.argv[1]))
decode.decode_all(dataset, params.load().images, Path(sys.argv[2]))
"""


def measure() -> None:
    """Run all rounds and print the medians as JSON."""
    parser = argparse.ArgumentParser(description="Bulk work on Ray beside one machine.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--work", nargs="+", default=["predict", "preprocess"])
    parser.add_argument("--classifier", type=Path, default=CLASSIFIER)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for work in arguments.work:
            few, many = _archives(Path(folder) / work, COPIES[work])
            for workers in arguments.workers:
                figures = _compare(work, workers, arguments, Path(folder), few, many)
                print(json.dumps({"work": work, "workers": workers, **figures}), flush=True)


def _archives(folder: Path, copies: int) -> tuple[tuple[Path, int], tuple[Path, int]]:
    """Archives with few and with all photos of a set, and how many photos they hold."""
    with zipfile.ZipFile(photos.archive()) as archive:
        members = [name for name in archive.namelist() if is_photo(name)]
        result = []
        for size, chosen in (("few", members[:FEW]), ("many", members * copies)):
            place = folder / size / "few" / "photos.zip"
            place.parent.mkdir(parents=True)
            with zipfile.ZipFile(place, "w") as copy:
                for number, member in enumerate(chosen):
                    parent, _, base = member.rpartition("/")
                    name = f"{parent}/{number // len(members)}-{base}"
                    copy.writestr(name, archive.read(member))
            result.append((place, len(chosen)))
    return result[0], result[1]


def _compare(
    work: str,
    workers: int,
    arguments: argparse.Namespace,
    folder: Path,
    few: tuple[Path, int],
    many: tuple[Path, int],
) -> dict[str, Any]:
    output = folder / "output"
    model = ["--classifier", str(arguments.classifier)] if work == "predict" else []
    signs = [sys.executable, "-m", "signs"]

    def ray(archive: Path) -> list[str]:
        counts = ["--workers", str(workers), "--shard", str(SHARD), "--output", str(output)]
        return [*signs, "bulk", work, *model, *counts, str(archive)]

    def one_machine(archive: Path) -> list[str]:
        if work == "predict":
            return [*signs, work, *model, "--output", str(output), str(archive)]
        data = str(archive.parent.parent)
        return [sys.executable, "-c", STAGE, data, str(output)]

    sides = {"one_machine": one_machine, "ray": ray}
    seconds: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for _ in range(arguments.rounds):
        for side, command in sides.items():
            seconds[side].append(
                (_time(command(few[0]), workers, output), _time(command(many[0]), workers, output))
            )
    rates = {
        side: [(many[1] - few[1]) / (long - short) for short, long in times]
        for side, times in seconds.items()
    }
    starts = {
        side: [short - few[1] / rate for (short, _), rate in zip(times, rates[side], strict=True)]
        for side, times in seconds.items()
    }
    ratios = [ours / bare for ours, bare in zip(rates["ray"], rates["one_machine"], strict=True)]
    return {
        "cores": len(_cores(workers)),
        "photos": many[1],
        "rounds": arguments.rounds,
        **{f"{side}_photos_per_second": round(statistics.median(rates[side])) for side in sides},
        **{f"{side}_start_seconds": round(statistics.median(starts[side]), 1) for side in sides},
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in sorted(ratios)],
    }


def _cores(workers: int) -> list[int]:
    return sorted(os.sched_getaffinity(0))[:workers]


def _time(command: list[str], workers: int, output: Path) -> float:
    started = time.perf_counter()
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    done = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: os.sched_setaffinity(0, _cores(workers)),
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        raise UserError(f"{' '.join(command)} failed: {done.stderr or done.stdout}")
    shutil.rmtree(output) if output.is_dir() else output.unlink()
    return seconds


if __name__ == "__main__":
    run_stage(measure)
