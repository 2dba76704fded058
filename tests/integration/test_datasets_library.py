"""The real `datasets` library on local directories, and the hub probe against local servers."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from backends.hugging_face import why_unavailable
from sweeps.data import DataSpec, prepare
from sweeps.data.hub import open_saved, row_records
from sweeps.data.readers.record import Record
from sweeps.data.sources import on_disk
from sweeps.errors import UserInputError

pytestmark = pytest.mark.integration

datasets = pytest.importorskip("datasets")

LABELS = ["entailment", "neutral", "contradiction"]


def snli_table(part: str, size: int, unlabelled: int = 0):
    features = datasets.Features(
        premise=datasets.Value("string"), hypothesis=datasets.Value("string"), label=datasets.ClassLabel(names=LABELS)
    )
    columns = {
        "premise": [f"{part} {number}." for number in range(size)],
        "hypothesis": [f"{part} {number}?" for number in range(size)],
        "label": [-1 if number < unlabelled else number % 3 for number in range(size)],
    }
    return datasets.Dataset.from_dict(columns, features=features)


@pytest.fixture
def saved(tmp_path) -> Path:
    parts = {"train": snli_table("train", 150, 2), "validation": snli_table("v", 9, 1), "test": snli_table("t", 9)}
    datasets.disable_progress_bars()
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    return tmp_path / "saved"


def test_a_saved_copy_of_snli_is_read_with_class_names(saved, tmp_path):
    prepared = prepare(DataSpec(source="snli"), tmp_path, saved)
    assert (prepared.name, prepared.source) == ("snli", f"snli (saved data set in {saved})")
    assert prepared.dataset.labels == (" contradiction\n", " entailment\n", " neutral\n")
    assert [sum(counts.values()) for counts in prepared.label_counts.values()] == [148, 8, 9]
    dropped = [finding for finding in prepared.findings if finding.code == "no-gold-label"]
    assert [(finding.place, finding.count) for finding in dropped] == [(f"{saved} train:1", 2), (f"{saved} valid:1", 1)]


def test_in_a_saved_data_set_a_row_without_class_is_an_error(saved, tmp_path):
    spec = DataSpec(source=str(saved), prompt="{premise}|{hypothesis}\n", completion=" {label}")
    with pytest.raises(UserInputError) as raised:
        prepare(spec, tmp_path)
    assert [(problem.place, problem.message) for problem in raised.value.problems] == [
        (f"{saved} {place}", "the field 'label' is null") for place in ("train:1", "train:2", "valid:1")
    ]


def test_a_single_saved_table_is_split_and_read_in_its_order(tmp_path):
    table = snli_table("one", 100).shuffle(seed=1)
    table.save_to_disk(str(tmp_path / "one"))
    records = list(row_records(open_saved(tmp_path / "one")["train"], "one"))
    assert [record.fields["premise"] for record in records if isinstance(record, Record)] == list(table["premise"])
    spec = DataSpec(source=str(tmp_path / "one"), prompt="{premise}{hypothesis}", completion=" {label}")
    assert prepare(spec, tmp_path).dataset.train.examples == 80


def test_a_directory_of_parquet_files_is_read_like_a_clone_of_the_hub(tmp_path):
    home = tmp_path / "clone"
    (home / "data").mkdir(parents=True)
    snli_table("train", 30).to_parquet(str(home / "data" / "train-00000-of-00001.parquet"))
    snli_table("v", 6).to_parquet(str(home / "data" / "validation-00000-of-00001.parquet"))
    parts = {part: list(read()) for part, read in on_disk(home).parts.items()}
    assert {part: len(records) for part, records in parts.items()} == {"train": 30, "valid": 6}
    file = str(home / "data" / "validation-00000-of-00001.parquet")
    assert parts["valid"][0] == Record({"premise": "v 0.", "hypothesis": "v 0?", "label": "entailment"}, file, 1)


def test_an_arrow_file_of_the_library_is_read_without_it(tmp_path):
    snli_table("s", 3).save_to_disk(str(tmp_path / "saved"))
    (file,) = (tmp_path / "saved").glob("*.arrow")
    (tmp_path / "alone.arrow").write_bytes(file.read_bytes())
    records = on_disk(tmp_path / "alone.arrow").parts["train"]()
    assert [record.fields["label"] for record in records if isinstance(record, Record)] == LABELS


def test_a_damaged_saved_data_set_is_an_error_and_does_not_use_the_fallback(saved, tmp_path):
    (saved / "train" / "state.json").write_text("{")
    with pytest.raises(UserInputError, match="datasets cannot load it"):
        prepare(DataSpec(source="snli", fallback="builtin:nli"), tmp_path, saved)


def test_a_saved_data_set_with_other_columns_is_not_snli(saved, tmp_path):
    table = snli_table("train", 9).rename_column("premise", "text")
    table.save_to_disk(str(tmp_path / "other"))
    with pytest.raises(UserInputError, match="the train part has no column 'premise'"):
        prepare(DataSpec(source="snli"), tmp_path, tmp_path / "other")


def test_a_data_set_without_a_training_part_is_an_error(tmp_path):
    datasets.DatasetDict({"a": snli_table("a", 3), "b": snli_table("b", 3)}).save_to_disk(str(tmp_path / "ab"))
    with pytest.raises(UserInputError, match="the data set has no training part, only: a, b"):
        prepare(DataSpec(source=str(tmp_path / "ab")), tmp_path)


# ------------------------------------------------------------------------------------------ the hub
def offline(tmp_path: Path, source: str, fallback: str | None = "builtin:nli") -> tuple[dict, float]:
    """Prepare in a separate process whose hub is a closed port, so that it never uses a network."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    script = (
        "import json, sys, time, pathlib\n"
        "from sweeps.data import DataSpec, prepare\n"
        "start = time.monotonic()\n"
        f"spec = DataSpec(source={source!r}, fallback={fallback!r}, train_examples=60, valid_examples=15, test=0,\n"
        "                prompt='{premise} {hypothesis}\\n##\\n', completion=' {label}')\n"
        f"made = prepare(spec, pathlib.Path({str(tmp_path)!r}))\n"
        "size, messages = made.dataset.train.examples, [finding.message for finding in made.findings]\n"
        "print(json.dumps({'name': made.name, 'fallback_from': made.fallback_from, 'train': size,\n"
        "                  'messages': messages, 's': time.monotonic() - start}))\n"
    )
    environment = {
        "HF_ENDPOINT": f"http://127.0.0.1:{port}",
        "HF_HOME": str(tmp_path / "hf"),
        "PATH": "",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment, timeout=120
    )
    assert ran.stderr == ""
    found = json.loads(ran.stdout)
    return found, found["s"]


def test_without_a_hub_the_fallback_is_chosen_within_seconds_and_quietly(tmp_path):
    found, took_s = offline(tmp_path, "snli")
    assert (found["name"], found["fallback_from"]) == ("builtin:nli", "snli")
    assert any("SNLI is unavailable (the hub is unreachable" in message for message in found["messages"])
    # 2 s on an idle machine, of which most is the library's import; its own retries take 23 s
    assert took_s < 20


@pytest.mark.parametrize("source", ["hf:owner/pairs", "hf:owner/pairs:default"])
def test_without_a_hub_the_cache_of_an_earlier_download_is_used(tmp_path, source):
    cache = tmp_path / "hf" / "datasets"
    path = tmp_path / "pairs.parquet"
    snli_table("p", 90).to_parquet(str(path))
    datasets.load_dataset("parquet", data_files=str(path), cache_dir=str(cache))
    (built,) = (cache / "parquet").glob("*/*/*/dataset_info.json")
    home = cache / "owner___pairs" / "default" / "0.0.0" / "abc"
    built.parent.rename(_made(home))
    info = json.loads((home / "dataset_info.json").read_text())
    info |= {"config_name": "default", "dataset_name": "pairs"}
    (home / "dataset_info.json").write_text(json.dumps(info))
    (home / "parquet-train.arrow").rename(home / "pairs-train.arrow")
    found, _ = offline(tmp_path, source)
    assert (found["name"], found["fallback_from"], found["train"]) == ("owner/pairs", None, 60)


def _made(home: Path) -> Path:
    home.parent.mkdir(parents=True)
    return home


@contextmanager
def served(status: int, body: bytes) -> Iterator[str]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, b'{"id": "owner/pairs", "sha": "abc", "tags": [], "siblings": []}', None),
        (404, b"{}", "the hub has no data set 'owner/pairs', or it is private (HTTP 404)"),
        (401, b"{}", "the hub has no data set 'owner/pairs', or it is private (HTTP 401)"),
        (503, b"", "the hub refused the request (HTTP 503)"),
        (200, b"<html>log in to the hotel</html>", "the answer did not come from the hub"),
    ],
)
def test_each_answer_of_the_hub_has_its_reason(status, body, expected):
    with served(status, body) as endpoint:
        assert why_unavailable("dataset", "owner/pairs", 20, endpoint) == expected


def test_an_invalid_name_is_a_reason():
    with served(200, b"{}") as endpoint:
        assert why_unavailable("dataset", "a/b/c", 20, endpoint) == "'a/b/c' is not the name of a data set (owner/name)"


def test_a_server_that_never_answers_is_given_up_after_the_time_limit():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        reason = why_unavailable("dataset", "owner/pairs", 1.0, f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert reason is not None
        assert time.monotonic() - start < 5
