"""The store, and data files, in a bucket of a real S3 server on this computer (moto)."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

s3fs = pytest.importorskip("s3fs", reason="the extra `s3` is not installed")
pytest.importorskip("moto", reason="moto is not installed")

from sweeps.data import DataSpec, prepare  # noqa: E402
from sweeps.data.readers.record import Record  # noqa: E402
from sweeps.data.sources import own_data  # noqa: E402
from sweeps.errors import SweepError, UserInputError  # noqa: E402
from sweeps.file_store.run_archive import Manifest, RunArchive, SupersededError, stored_files  # noqa: E402
from sweeps.file_store.store import FileStore, digest  # noqa: E402

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]

PORT_LINE = "Running on http://"


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("s3") / "log.txt"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", "0"],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        give_up_at = time.monotonic() + 120
        while PORT_LINE not in log.read_text():
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < give_up_at, "the S3 server did not start"
            time.sleep(0.1)
        url = "http://" + log.read_text().split(PORT_LINE)[1].split()[0]
        urlopen(url, timeout=60).close()
        yield url
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def store(endpoint: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> FileStore:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test-secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().makedirs("sweeps", exist_ok=True)
    return FileStore(f"s3://sweeps/{abs(hash(request.node.name))}")


def test_a_bucket_keeps_files_as_a_folder_does(store: FileStore, tmp_path: Path) -> None:
    store.check()
    (tmp_path / "large").write_bytes(os.urandom(12_000_000))
    store.upload(tmp_path / "large", "runs/a/large")
    store.download("runs/a/large", tmp_path / "copy", digest(tmp_path / "large"))
    assert digest(tmp_path / "copy") == digest(tmp_path / "large")
    store.write("runs/a/small", b"1")
    store.write("runs/a/small", b"2")
    assert store.read("runs/a/small") == b"2"
    assert store.size("runs/a/large") == 12_000_000
    assert store.names("runs/a") == ["large", "small"]
    assert store.names("runs") == ["a"]
    assert store.names("nothing") == []
    assert store.read("nothing") is None
    store.delete("runs/a")
    store.delete("runs/a")
    assert store.names("runs") == []


def test_a_run_moves_to_another_machine_through_the_bucket(store: FileStore, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    (one / "jobs" / "r" / "model").mkdir(parents=True)
    (one / "jobs" / "r" / "model" / "weights").write_bytes(b"weights")
    (one / "jobs" / "r" / "resume").write_bytes(b"position")
    archive = RunArchive(store, "r")
    first = archive.begin("one", one, None)
    files = stored_files([one / "jobs" / "r" / "resume", one / "jobs" / "r" / "model"], one)
    model = stored_files([one / "jobs" / "r" / "model"], one)
    first.save(Manifest("one", (str(one),), "1", files, str(one / "jobs/r/model"), model), one)

    latest = archive.latest()
    assert latest is not None
    second = archive.begin("two", two, latest[1])
    archive.restore(latest[0], latest[1].checkpoint, two)
    assert (two / "jobs" / "r" / "resume").read_bytes() == b"position"
    with pytest.raises(SupersededError):
        first.save(first.saved, one)
    second.save(Manifest("two", (str(one), str(two)), "2", files, str(two / "jobs/r/model"), model), two)
    assert len(store.names("runs/r")) == 1, "the first attempt is no longer needed"

    assert archive.fetch_model(tmp_path / "driver" / "jobs" / "r" / "model", tmp_path / "driver")
    assert (tmp_path / "driver" / "jobs" / "r" / "model" / "weights").read_bytes() == b"weights"
    archive.discard()
    assert not archive.fetch_model(tmp_path / "driver" / "jobs" / "r" / "model", tmp_path / "driver")


def test_a_missing_bucket_and_a_dead_server_are_one_error_each(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SweepError, match="cannot write to the store s3://nowhere"):
        FileStore("s3://nowhere/at/all").check()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(SweepError, match="cannot write to the store") as raised:
        FileStore("s3://sweeps/x").check()
    assert raised.value.hint
    assert "test-secret" not in raised.value.message


# --------------------------------------------------------------------------------------- data files
def test_examples_in_a_bucket_are_prepared_like_those_on_disk(store: FileStore, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for part, size in (("train", 60), ("valid", 12), ("test", 12)):
        rows = "".join(f"{part} text {number},{'ab'[number % 2]}\n" for number in range(size))
        content = f"text,label\n{rows}".encode()
        (folder / f"{part}.csv.gz").write_bytes(gzip.compress(content))
        store.upload(folder / f"{part}.csv.gz", f"set/{part}.csv.gz")
    keys = {"prompt": "{text}", "completion": " {label}", "checks": "quick"}
    on_disk = prepare(DataSpec(source=str(folder), **keys), tmp_path)
    in_bucket = prepare(DataSpec(source=f"{store.url}/set", **keys), tmp_path)
    assert in_bucket.digests == on_disk.digests
    assert in_bucket.source == f"{store.url}/set (train.csv.gz, valid.csv.gz, test.csv.gz)"
    single = DataSpec(
        source=f"{store.url}/set/train.csv.gz", validation=f"{store.url}/set/valid.csv.gz", test=0, **keys
    )
    assert prepare(single, tmp_path).digests == {part: on_disk.digests[part] for part in ("train", "valid")}


def test_a_large_file_in_a_bucket_is_streamed(store: FileStore, tmp_path: Path) -> None:
    text = "word " * 400
    with (tmp_path / "train.jsonl").open("w") as file:
        file.writelines(f'{{"text": "{number} {text}"}}\n' for number in range(15_000))
    store.upload(tmp_path / "train.jsonl", "large/train.jsonl")
    records = own_data(f"{store.url}/large/train.jsonl").parts["train"]()
    tracemalloc.start()
    try:
        assert sum(isinstance(record, Record) for record in records) == 15_000
        assert tracemalloc.get_traced_memory()[1] < 25_000_000, "the file has 30 MB"
    finally:
        tracemalloc.stop()


def test_data_that_is_not_in_the_bucket_is_unavailable_and_the_fallback_takes_its_place(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserInputError, match="is unavailable: no such file or folder"):
        prepare(DataSpec(source=f"{store.url}/nothing.csv"), tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    spec = DataSpec(source=f"{store.url}/train.csv", fallback="builtin:nli", train_examples=60, checks="quick")
    prepared = prepare(spec, tmp_path)
    assert prepared.fallback_from == f"{store.url}/train.csv"
    assert "test-secret" not in str(prepared.findings)
