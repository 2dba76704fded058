"""Data files on a real web server that sends them only from their beginning."""

from __future__ import annotations

import gzip
import io
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from sweeps.data.readers.record import Record
from sweeps.data.sources import own_data
from sweeps.errors import UserInputError

pytest.importorskip("aiohttp", reason="fsspec reads http:// with aiohttp")

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]

LINES = b'{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n'


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_every_format_is_read_from_a_server_without_ranges(address: str, tmp_path: Path) -> None:
    packed, table = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("d.jsonl", LINES)
    parquet.write_table(pyarrow.table({"text": ["a", "b"], "label": ["x", "y"]}), table)
    contents = {
        "d.jsonl": LINES,
        "large.jsonl": LINES + b"\n" * 9_000_000,  # more than one block
        "d.jsonl.gz": gzip.compress(LINES),
        "d.zip": packed.getvalue(),
        "d.parquet": table.getvalue(),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        records = list(own_data(f"{address}/{name}").parts["train"]())
        assert [record.fields["text"] for record in records if isinstance(record, Record)] == ["a", "b"], name


def test_a_missing_file_and_a_missing_server_have_their_reasons(address: str) -> None:
    with pytest.raises(UserInputError, match="no such file or folder"):
        own_data(f"{address}/nothing.csv")
    with pytest.raises(UserInputError, match="http:// cannot be read: ClientConnectorError"):
        own_data("http://127.0.0.1:9/d.csv")
