"""A bulk job on Ray Data: one task and one output file for each shard of the photos.

An output file bears its shard's number and appears when it is complete. So a shard whose worker was
killed is done again, no photo is there twice, and the same command continues a job that was
stopped. Only names and counts travel through Ray: workers read the photos themselves.
"""

import functools
import hashlib
import json
import logging
import os
import time
import uuid
from collections import Counter
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from signs.errors import UserError
from signs.progress import bar
from signs.scale import cluster, shards
from signs.scale.bulk_work import Work
from signs.scale.shards import Shard

METADATA = "_job.json"  # readers of Parquet folders ignore names that begin with _


@dataclass(frozen=True)
class Job:
    """What to do, and where the results go.

    Attributes:
        work: what to do with photos.
        output: folder or address, which gets a Parquet file for each shard.
        column: of Parquet files, the one with the photos.
        shard: photos of a task and an output file, at least; an archive in a store is one shard.
    """

    work: Work
    output: str
    column: str = "image"
    shard: int = 2048


def run(job: Job, places: list[str], workers: int | None = None) -> int:
    """Do a job on this machine, or on the cluster that RAY_ADDRESS names.

    Args:
        job: what to do.
        places: files, folders, zip archives and Parquet files, or addresses (s3://...) of them.
        workers: processes on this machine; None: one for each core.

    Returns:
        The number of photos that could not be used.

    Raises:
        UserError: Ray is not installed, photos cannot be found, or the output cannot be written
            or belongs to another job.
    """
    if workers and "RAY_ADDRESS" in os.environ:
        raise UserError("The cluster at RAY_ADDRESS has its own workers. Leave out --workers.")
    ray = cluster.load()
    output = job.output if "://" in job.output else str(Path(job.output).absolute())
    found = shards.find(places, job.column, job.shard)
    waiting = _waiting(job.work, found, output)
    if len(waiting) < len(found):
        print(f"{len(found) - len(waiting)} of {len(found)} shards are there already.")
    cluster.start(workers)
    data = import_module("ray.data")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    data.DataContext.get_current().enable_progress_bars = False
    started = time.perf_counter()
    counts = _run_tasks(ray, Job(job.work, output, job.column), waiting)
    seconds = time.perf_counter() - started
    missing = len({_name(shard) for shard in found} - _names(output))
    if missing:
        raise UserError(
            f"{missing} of {len(found)} shards are not in {output}: workers on other machines "
            "wrote to their own folder of that name. Name a folder that all share, or s3://..."
        )
    print(
        f"{counts['photos']:,} photos: {counts['unknown']:,} unknown, {counts['errors']:,} not "
        f"readable; {counts['photos'] / seconds:,.0f} photos/s. Results: {output}"
    )
    return counts["errors"]


def _waiting(work: Work, found: list[Shard], output: str) -> list[Shard]:
    """The shards without results; METADATA in the output says to which job it belongs."""
    digest = hashlib.sha256(json.dumps([vars(shard) for shard in found]).encode()).hexdigest()
    identity = {**work.describe(), "shards": len(found), "sha256": digest}
    metadata = json.dumps(identity, indent=2)
    try:
        names = _names(output)
        if METADATA in names:
            if shards.read(f"{output}/{METADATA}", "").decode() != metadata:
                raise UserError(
                    f"{output} holds the results of other photos or settings, or of another "
                    "classifier. Name another --output."
                )
        elif names:
            raise UserError(f"{output} is not empty. Name another --output.")
        else:
            _write(output, METADATA, metadata.encode())
    except shards.UNREADABLE as error:
        raise UserError(f"{output} cannot be written: {error}.") from error
    waiting = [shard for shard in found if _name(shard) not in names]
    if not waiting:
        raise UserError(f"{output} is complete already. Name another --output.")
    return waiting


def _names(output: str) -> set[str]:
    store, folder = shards.locate(output)
    entries = store.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    return {entry.base_name for entry in entries}


def _name(shard: Shard) -> str:
    return f"part-{shard.number:07}.parquet"


def _run_tasks(ray: Any, job: Job, waiting: list[Shard]) -> Counter[str]:
    """Run all tasks, with a progress bar; the sums of their counts."""
    counts: Counter[str] = Counter()
    items = [vars(shard) for shard in waiting]
    task = functools.partial(_task, job, str(Path.cwd()))
    tasks = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        task, batch_size=1, batch_format="pyarrow", num_cpus=1
    )
    try:
        with bar(sum(shard.photos for shard in waiting), "photos", " photos") as progress:
            for row in tasks.iter_rows():
                counts.update(row)
                progress.update(row["photos"])
    except ray.exceptions.RayError as error:
        why = str(error).strip().splitlines()[-1]
        raise UserError(
            f"The job stopped ({why}). Give the same command again to continue."
        ) from error
    finally:
        ray.shutdown()
    return counts


def _task(job: Job, folder: str, rows: pa.Table) -> pa.Table:
    """Do one shard, whose relative paths begin in `folder`; its counts."""
    cv2.setNumThreads(1)
    (row,) = rows.to_pylist()
    shard = Shard(**row)
    chunks = shards.chunks(shard, folder, job.column)
    table = pa.concat_tables([job.work.table(chunk) for chunk in chunks])
    content = pa.BufferOutputStream()
    # Arrays hardly repeat, and nobody searches for the smallest one.
    pq.write_table(table, content, use_dictionary=["name", "model"], write_statistics=False)
    _write(job.output, _name(shard), content.getvalue())
    errors = len(table) - table["error"].null_count
    known = table["known"].to_pylist() if "known" in table.column_names else []
    return pa.table({"photos": [len(table)], "errors": [errors], "unknown": [known.count(False)]})


def _write(folder: str, name: str, content: bytes | pa.Buffer) -> None:
    """Write a file that appears when it is complete, as an object in a store always does."""
    store, path = shards.locate(folder)
    if not isinstance(store, fs.LocalFileSystem):
        with store.open_output_stream(f"{path}/{name}") as file:
            file.write(content)
        return
    # Not files.replaced: if a worker was only thought dead, two write the same shard.
    unfinished = Path(path, f".{name}.{uuid.uuid4().hex}")
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    unfinished.write_bytes(content)
    unfinished.replace(Path(path, name))
