"""Bulk work with real Ray workers and a real S3 server."""

import argparse
import contextlib
import csv
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from signs import cli, params
from signs.data import decode, layouts
from signs.errors import UserError
from signs.params import ImageSettings
from signs.scale import bulk, bulk_job, shards
from signs.scale.bulk_work import Predict, Preprocess
from tests.conftest import photo, write_classifier
from tests.harness import BUCKET, ROOT, Ray

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

LOCAL_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.fixture(scope="module")
def store(running_s3) -> Iterator[None]:
    """This process finds the server as AWS' own variables name it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in running_s3.variables.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def cluster(store, tmp_path_factory) -> Iterator[psutil.Process]:
    """A Ray cluster of one head and two workers, which most tests use in turn."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | LOCAL_ONLY | token
    head = Ray(tmp_path_factory.mktemp("ray"), cores=2, environment=variables)
    process = head.start(90)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**token, "RAY_ADDRESS": head.cluster}.items():
            patch.setenv(name, value)
        yield psutil.Process(process.pid)
    head.kill()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "classifier"
    write_classifier(folder)
    return folder


def noisy(seed: int, side: int = 40) -> bytes:
    """A photo with a prediction of its own."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (side, side, 3)) * rng.uniform(0, 1, 3)
    return bytes(cv2.imencode(".png", image.astype(np.uint8))[1])


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """200 photos: single files, a zip archive, and three that cannot be read."""
    folder = tmp_path_factory.mktemp("photos") / "photos"
    (folder / "deeper").mkdir(parents=True)
    for i in range(120):
        (folder / "deeper" / f"{i}.png").write_bytes(noisy(i))
    with zipfile.ZipFile(folder / "more.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(120, 197):
            archive.writestr(f"x/{i}.png", noisy(i))
        archive.writestr("x/notes.txt", "no photo")
    (folder / "cut.png").write_bytes(noisy(0)[:-12])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.png").write_text("no photo")
    (folder / "notes.txt").write_text("no photo")
    return folder


def write_parquet(path: Path, cells: list[object], column: str = "image") -> None:
    pq.write_table(pa.table({"id": range(len(cells)), column: cells}), path, row_group_size=10)


def run(work, place: Path | str, output: Path | str, shard: int = 2048, **options) -> int:
    return bulk_job.run(bulk_job.Job(work, str(output), shard=shard), [str(place)], **options)


def rows(output: Path | str) -> list[dict[str, object]]:
    """All rows of the output, in the order of its files."""
    store, folder = shards.locate(str(output))
    found = store.get_file_info(shards.fs.FileSelector(folder))
    names = sorted(file.path for file in found if file.base_name.startswith("part-"))
    return pa.concat_tables([pq.read_table(name, filesystem=store) for name in names]).to_pylist()


def on_one_machine(model: Path, folder: Path, monkeypatch) -> list[dict[str, object]]:
    output = folder.parent / "predictions.csv"
    arguments = ["predict", "--classifier", str(model), "--output", str(output), str(folder)]
    monkeypatch.setattr(sys, "argv", ["signs", *arguments])
    with pytest.raises(SystemExit):
        cli.main()
    with output.open(newline="") as file:
        return list(csv.DictReader(file))


def as_text(found: list[dict[str, object]]) -> list[dict[str, object]]:
    return [{k: "" if v is None else str(v) for k, v in row.items()} for row in found]


def test_predictions_are_those_of_one_machine(
    cluster, model, photos, tmp_path, monkeypatch, capsys
) -> None:
    expected = on_one_machine(model, photos, monkeypatch)
    failed = run(Predict(model), photos, tmp_path / "out", shard=64)
    found = rows(tmp_path / "out")
    assert as_text(found) == expected
    assert len(found) == 200
    assert failed == 3
    assert len({row["confidence"] for row in found}) > 100
    assert "200 photos: " in capsys.readouterr().out


def test_from_a_bucket_into_a_bucket(cluster, s3, model, photos, tmp_path, monkeypatch) -> None:
    write_parquet(tmp_path / "p.parquet", [noisy(i) for i in range(40)])
    uploads = {f"in/{p.relative_to(photos)}": p for p in photos.rglob("*") if p.is_file()}
    for key, path in {**uploads, "in/p.parquet": tmp_path / "p.parquet"}.items():
        s3.client.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())
    address = f"s3://{BUCKET}"
    run(Predict(model), f"{address}/in", f"{address}/out", shard=30)
    found = as_text(rows(f"{address}/out"))
    table = [row for row in found if ".parquet/" in row["file"]]
    for row in found:
        row["file"] = row["file"].replace(f"{address}/in", str(photos))
    expected = on_one_machine(model, photos, monkeypatch)
    assert [row for row in found if row not in table] == expected
    single = {row["file"]: row for row in expected}
    for number, row in enumerate(table):
        assert row["file"] == f"{photos}/p.parquet/{number}"
        row["file"] = f"{photos}/deeper/{number}.png"
        assert row == single[row["file"]]


def test_arrays_are_those_of_the_stage(cluster, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for i in range(60):
        folder = tmp_path / f"data/mine/{i % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.png").write_bytes(noisy(i, 20 + i) if i else b"no photo")
    settings = ImageSettings(size=24, color="rgb", contrast="equalize", margin=0.05)
    dataset = layouts.read("mine")
    samples, _ = decode.decode_all(dataset, settings, tmp_path / "images.npy")
    images = np.load(tmp_path / "images.npy")

    assert run(Preprocess(settings), "data/mine", "out", shard=25) == 1
    found = {str(row["file"]).removeprefix("data/mine/"): row for row in rows("out")}
    assert len(found) == len(samples) == 60
    for expected, image in zip(samples.to_dict("records"), images, strict=True):
        row = found[expected["file"]]
        if not expected["digest"]:
            assert (row["image"], row["digest"]) == (None, None)
            assert "not an image of a known format" in row["error"]
            continue
        assert row["error"] is None
        assert row["image"] == image.tobytes()
        for column in ("digest", "height", "width"):
            assert row[column] == expected[column]


def test_a_killed_worker_loses_nothing(cluster, model, tmp_path) -> None:
    """It dies in the middle of a shard; each photo is there exactly once."""
    with zipfile.ZipFile(tmp_path / "large.zip", "w") as archive:
        content = photo("Red", side=3000)  # takes long to decode
        for i in range(40):
            archive.writestr(f"{i}.png", content)
    killed = []

    def kill() -> None:
        while not killed:
            time.sleep(0.02)
            for process in cluster.children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess, IndexError):
                    at_work = process.cmdline()[0].startswith("ray::MapBatches")
                    if at_work and list((tmp_path / "out").glob("part-*")):
                        process.send_signal(signal.SIGKILL)
                        killed.append(process.pid)
                        break

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    assert run(Predict(model), tmp_path / "large.zip", tmp_path / "out", shard=2) == 0
    assert killed
    found = rows(tmp_path / "out")
    assert [row["file"] for row in found] == [f"{tmp_path}/large.zip/{i}.png" for i in range(40)]


def test_a_stopped_job_continues(cluster, model, photos, tmp_path, capsys) -> None:
    output = tmp_path / "out"
    assert run(Predict(model), photos, output, shard=64) == 3
    expected = rows(output)
    parts = sorted(output.glob("part-*"))
    times = {part: part.stat().st_mtime_ns for part in parts}
    part = pq.read_table(parts[1])
    parts[1].unlink()
    capsys.readouterr()
    assert run(Predict(model), photos, output, shard=64) == len(part) - part["error"].null_count
    assert f"{len(parts) - 1} of {len(parts)} shards are there already." in capsys.readouterr().out
    assert rows(output) == expected
    assert [p for p in parts if p.stat().st_mtime_ns != times[p]] == parts[1:2]
    with pytest.raises(UserError, match=r"is complete already\. Name another --output"):
        run(Predict(model), photos, output, shard=64)
    other = Preprocess(params.load(ROOT / "params.yaml").images)
    with pytest.raises(UserError, match="holds the results of other photos or settings"):
        run(other, photos, output, shard=64)
    (photos / "deeper/0.png").rename(photos / "other.png")
    with pytest.raises(UserError, match="holds the results of other photos or settings"):
        run(Predict(model), photos, output, shard=64)
    (photos / "other.png").rename(photos / "deeper/0.png")


def test_parquet_of_many_shapes(cluster, model, tmp_path) -> None:
    """Bytes alone or in a struct; an empty cell; a damaged row group."""
    cells = [noisy(i) for i in range(30)]
    write_parquet(tmp_path / "a.parquet", [*cells[:5], None, *cells[6:]])
    write_parquet(tmp_path / "b.parquet", [{"bytes": c, "path": "x"} for c in cells])
    start = pq.ParquetFile(tmp_path / "b.parquet").metadata.row_group(1).column(1).data_page_offset
    content = bytearray((tmp_path / "b.parquet").read_bytes())
    content[start : start + 20] = bytes(20)
    (tmp_path / "b.parquet").write_bytes(content)
    run(Predict(model), tmp_path, tmp_path / "out", shard=1000)
    found = rows(tmp_path / "out")
    assert [row["file"] for row in found] == [
        f"{tmp_path}/{n}.parquet/{i}" for n in "ab" for i in range(30)
    ]
    assert found[5]["error"] == "the file is empty"
    broken = [i for i, row in enumerate(found) if row["error"]]
    assert broken == [5, *range(40, 60)]
    assert f"{tmp_path}/b.parquet cannot be read: " in found[40]["error"]


def test_says_what_is_wrong(store, model, tmp_path, nobody_listens, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("photo.png").write_bytes(photo())
    Path("cut.zip").write_bytes(b"PK")
    Path("cut.parquet").write_bytes(b"PAR1")
    write_parquet(Path("text.parquet"), ["a", "b"])
    write_parquet(Path("other.parquet"), [photo()], "photo")
    with zipfile.ZipFile("none.zip", "w") as archive:
        archive.writestr("notes.txt", "no photo")
    Path("full").mkdir()
    Path("full/notes.txt").touch()
    Path("file").touch()
    for place, output, sentence in [
        ("nowhere", "out", "^nowhere does not exist.$"),
        ("empty", "out", "^empty holds no photos .*, zip archives or Parquet files.$"),
        ("cut.zip", "out", "^cut.zip cannot be read as a zip archive: "),
        ("none.zip", "out", "^none.zip holds no photos "),
        ("cut.parquet", "out", "^cut.parquet cannot be read as a Parquet file: "),
        ("text.parquet", "out", "^text.parquet has no column 'image' with the bytes of photos"),
        ("other.parquet", "out", "it has id, photo. Name the right one: --column NAME.$"),
        (f"s3://{BUCKET}/nowhere", "out", f"^s3://{BUCKET}/nowhere does not exist.$"),
        ("s3://no-such-bucket/x", "out", "^s3://no-such-bucket/x does not exist.$"),
        ("photo.png", "full", "/full is not empty. Name another --output.$"),
        ("photo.png", "file", "/file cannot be written: "),
    ]:
        with pytest.raises(UserError, match=sentence):
            run(Predict(model), place, output)
    assert not Path("out").exists()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{nobody_listens}")
    shards.connect.cache_clear()
    with pytest.raises(UserError, match=r"^s3://other/x cannot be listed: .*connect"):
        run(Predict(model), "s3://other/x", "out")
    with pytest.raises(UserError, match=r"^s3://other/x cannot be written: .*connect"):
        run(Predict(model), "photo.png", "s3://other/x")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(UserError, match=r"^The cluster at RAY_ADDRESS has its own workers"):
        run(Predict(model), "photo.png", "out", workers=2)
    shards.connect.cache_clear()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["predict", "x", "--output", "y"], "Bulk work needs Ray, which is not installed"),
        (["preprocess", "x", "--output", "y"], "`make setup-ray`"),
        (["predict", "x"], "the following arguments are required: --output"),
        (["predict", "x", "--output", "y", "--shard", "0"], "argument --shard: invalid"),
    ],
)
def test_command_line_says_what_is_missing(arguments, sentence, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for module in ("bulk_job", "bulk_work", "shards"):
        monkeypatch.delitem(sys.modules, f"signs.scale.{module}", raising=False)
        monkeypatch.delattr(f"signs.scale.{module}", raising=False)
    parser = argparse.ArgumentParser()
    bulk.add_arguments(parser)
    with pytest.raises((SystemExit, UserError)) as end:
        bulk.run(parser.parse_args(arguments))
    assert sentence in f"{end.value} {capsys.readouterr().err}"


def test_on_one_machine_nobody_else_can_connect(model, photos, tmp_path) -> None:
    """The command starts Ray itself, which listens on the loopback interface alone."""
    command = [sys.executable, "-m", "signs", "bulk", "predict", "--workers", "2", str(photos)]
    process = subprocess.Popen(
        [*command, "--classifier", str(model), "--output", "out"],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    addresses = set()
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    found = child.net_connections("tcp")
                    addresses |= {c.laddr.ip for c in found if c.status == psutil.CONN_LISTEN}
        time.sleep(0.2)
    assert process.returncode == 1, process.communicate()[0]
    assert len(rows(tmp_path / "out")) == 200
    assert addresses
    assert {a.removeprefix("::ffff:") for a in addresses} == {"127.0.0.1"}
