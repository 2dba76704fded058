"""A scoring function of the user: what it receives, what it may return, and every way to fail."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from backends import codec
from backends.contract import BackendError, Failure, FailureKind
from backends.metrics import scorer_client
from backends.metrics.contract import Answers, Scores
from backends.metrics.python_function import PythonFunction, PythonOptions

ANSWERS = Answers(("a", "b", "c"), (("a",), ("x",), ("c",)), ({"n": 1}, {"n": 2}, {"n": "ü"}))

pytestmark = pytest.mark.unit


def opened(folder: Path, source: str, function: str = "score", **options: Any) -> PythonFunction:
    (folder / "scoring.py").write_text(textwrap.dedent(source), encoding="utf-8")
    written = PythonOptions.model_validate({"function": f"scoring.py:{function}", **options})
    return PythonFunction.open(PythonFunction.prepare(written, folder), folder / "workspace")


def scores_of(folder: Path, source: str, **options: Any) -> Scores:
    with closing(opened(folder, source, **options)) as metric:
        return metric.score(ANSWERS)


def failure_of(folder: Path, source: str, **options: Any) -> Failure:
    with pytest.raises(BackendError) as raised, closing(opened(folder, source, **options)) as metric:
        metric.score(ANSWERS)
    assert raised.value.failure.kind is FailureKind.USER
    return raised.value.failure


def wait_until(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


# ---------------------------------------------------------------------------------------- arguments
def test_the_function_receives_predictions_references_and_rows(tmp_path: Path) -> None:
    source = """
        import json, pathlib
        def score(predictions, references, rows):
            pathlib.Path("received.json").write_text(json.dumps([predictions, references, rows]))
            return [float(left == right) for left, right in zip(predictions, references)]
    """
    assert scores_of(tmp_path, source) == Scores(2 / 3, (1, 0, 1))
    received = json.loads((tmp_path / "received.json").read_text())
    assert received == [["a", "b", "c"], ["a", "x", "c"], [{"n": 1}, {"n": 2}, {"n": "ü"}]]


def test_references_may_be_lists(tmp_path: Path) -> None:
    source = "def score(predictions, references, rows): return [len(texts) for texts in references]"
    several = Answers(("a", "b"), (("a", "c"), ("b",)), ({}, {}))
    with closing(opened(tmp_path, source, references="list")) as metric:
        assert list(metric.problems(several)) == []
        assert metric.score(several).per_example == (2, 1)
    with closing(opened(tmp_path, source)) as metric:
        [problem] = metric.problems(several)
        assert problem.startswith("example 1 has several acceptable texts, but scoring.py:score receives one a row")
        with pytest.raises(BackendError, match="set `references: list`"):
            metric.score(several)


@pytest.mark.parametrize(
    ("result", "scores"),
    [
        ("0.25", Scores(0.25)),
        ("1", Scores(1.0)),
        ("True", Scores(1.0)),
        ("[True, False, 1]", Scores(2 / 3, (1, 0, 1))),
        ("(0.5, 0.5, 2)", Scores(1, (0.5, 0.5, 2))),
        ("np.array([1, 0, 1])", Scores(2 / 3, (1, 0, 1))),
        ("np.float32(0.5)", Scores(0.5)),
        ("[np.float64(1), np.int64(0), np.bool_(True)]", Scores(2 / 3, (1, 0, 1))),
        ("Fraction(1, 4)", Scores(0.25)),
        ("Decimal('0.25')", Scores(0.25)),
    ],
)
def test_results(tmp_path: Path, result: str, scores: Scores) -> None:
    imports = "import numpy as np\nfrom fractions import Fraction\nfrom decimal import Decimal\n"
    assert scores_of(tmp_path, f"{imports}def score(predictions, references, rows): return {result}") == scores


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("None", "returned None, of the type NoneType"),
        ("'0.5'", "returned '0.5', of the type str"),
        ("{'score': 1}", "returned {'score': 1}, of the type dict"),
        ("[1, None, 1]", "returned None, of the type NoneType"),
        ("[1, '1', 1]", "returned '1', of the type str"),
        ("[[1], [1], [1]]", "returned [1], of the type list"),
        ("1j", "returned 1j, of the type complex"),
        ("[1, 1]", "returned 2 numbers for 3 rows"),
        ("[]", "returned 0 numbers for 3 rows"),
        ("float('nan')", "returned nan; a score must be finite"),
        ("[1, float('-inf'), 1]", "returned -inf for row 2; a score must be finite"),
        ("10 ** 400", "returned inf; a score must be finite"),
        ("[1, 1.5, 1]", "returned 1.5 for row 2, outside the declared range from 0.0 to 1.0"),
        ("-1", "returned -1, outside the declared range from 0.0 to 1.0"),
    ],
)
def test_bad_results(tmp_path: Path, result: str, message: str) -> None:
    failure = failure_of(tmp_path, f"def score(predictions, references, rows): return {result}", low=0, high=1)
    assert failure.message == f"score() of scoring.py {message}"
    assert failure.detail.startswith("Return a number, or")


def test_the_declaration_is_that_of_the_options() -> None:
    declared = PythonFunction.describe(PythonOptions(function="s.py:f", direction="minimize", low=0))
    assert (declared.direction, declared.low, declared.high) == ("minimize", 0, None)


# ----------------------------------------------------------------------------------------- failures
def test_an_exception_is_shown_with_file_and_line(tmp_path: Path) -> None:
    source = """\
        def half(text):
            return 1 / len(text.strip("a"))

        def score(predictions, references, rows):
            return [half(text) for text in predictions]
    """
    failure = failure_of(tmp_path, source)
    assert failure.message == "score() of scoring.py raised ZeroDivisionError: division by zero (scoring.py:2)"
    lines = failure.detail.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1] == f'  File "{tmp_path}/scoring.py", line 5, in score'
    assert '    return 1 / len(text.strip("a"))' in lines
    assert lines[-1] == "ZeroDivisionError: division by zero"
    assert "scorer_process" not in failure.detail


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("exit(3)", "score() of scoring.py called exit(3)"),
        ("raise KeyboardInterrupt", "score() of scoring.py raised KeyboardInterrupt (scoring.py:4)"),
        ("raise BaseException('x')", "score() of scoring.py raised BaseException: x (scoring.py:4)"),
        ("raise Unprintable", "its message is unreadable, because its __str__ raised"),
        ("return Infinite()", "the result of score() of scoring.py raised ValueError: no list (scoring.py:9)"),
        ("score(p, r, w)", "score() of scoring.py raised RecursionError: "),
        ("print('last words'); os._exit(4)", "scoring.py ended its process with the exit code 4"),
        ("ctypes.string_at(0)", "scoring.py ended its process by the signal SIGSEGV"),
        ("os.kill(os.getpid(), 9)", "scoring.py ended its process by the signal SIGKILL"),
        ("os.closerange(3, 10_000)", "scoring.py ended its process"),
    ],
)
def test_every_failure_is_one_error(tmp_path: Path, body: str, message: str) -> None:
    source = f"""\
import ctypes, os

def score(p, r, w):
    {body}

class Unprintable(Exception):
    def __str__(self): raise ValueError
class Infinite:
    def tolist(self): raise ValueError("no list")
"""
    failure = failure_of(tmp_path, source)
    assert message in failure.message
    if "last words" in body:
        assert failure.detail == "Its last output:\nlast words"
    if "string_at" in body:
        assert f'File "{tmp_path}/scoring.py", line 4 in score' in failure.detail


@pytest.mark.parametrize(
    ("source", "message", "detail"),
    [
        ("def other(p, r, w): pass", "scoring.py defines no function 'score'", "It defines: other."),
        ("score = 3", "'score' in scoring.py is no function, but of the type int", ""),
        ("def score(p, r): pass", "score() of scoring.py cannot be called with 3 arguments", "It is called with"),
        ("import no_such_module_anywhere", "importing scoring.py raised ModuleNotFoundError", "line 1"),
        ("1 / 0", "importing scoring.py raised ZeroDivisionError: division by zero (scoring.py:1)", "line 1"),
        ("exit()", "importing scoring.py called exit(None)", ""),
    ],
)
def test_a_module_without_the_function(tmp_path: Path, source: str, message: str, detail: str) -> None:
    failure = failure_of(tmp_path, source)
    assert message in failure.message
    assert detail in failure.detail


@pytest.mark.parametrize("body", ["while True: pass", "time.sleep(10_000)"])
def test_a_call_without_end_is_stopped_with_its_children(tmp_path: Path, body: str) -> None:
    source = f"""\
import pathlib, subprocess, time

def score(p, r, w):
    child = subprocess.Popen(["sleep", "10000"])
    pathlib.Path("child").write_text(str(child.pid))
    {body}
"""
    failure = failure_of(tmp_path, source, timeout_s=2)
    assert failure.message == "scoring.py did not answer within 2 s"
    assert failure.detail == f'It was at:\n  File "{tmp_path}/scoring.py", line 6 in score'
    child = int((tmp_path / "child").read_text())
    wait_until(lambda: not is_alive(child))


def test_an_import_without_end_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer_client, "START_TIMEOUT_S", 1.0)
    failure = failure_of(tmp_path, "import time\ntime.sleep(10_000)", timeout_s=0.5)
    assert failure.message == "scoring.py did not answer within 1 s"


def test_a_deaf_process_is_stopped_while_it_is_sent_a_long_message(tmp_path: Path) -> None:
    """The arguments are longer than a pipe holds, and a stopped process reads nothing."""
    source = """
        import os, signal, threading
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGSTOP)).start()
        def score(predictions, references, rows): return 1
    """
    long = Answers(("x" * 1_000_000,) * 3, ANSWERS.references, ANSWERS.rows)
    with closing(opened(tmp_path, source, timeout_s=2)) as metric:
        metric._process.start()
        pid = metric._process.pid
        wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        with pytest.raises(BackendError, match="did not answer within 2 s"):
            metric.score(long)


def test_after_a_failure_the_next_call_works(tmp_path: Path) -> None:
    source = """
        import os
        def score(predictions, references, rows):
            if predictions[0] == "die": os._exit(1)
            if predictions[0] == "raise": raise ValueError
            return 1.0
    """
    with closing(opened(tmp_path, source)) as metric:
        for word in ("die", "raise", "die"):
            with pytest.raises(BackendError):
                metric.score(Answers((word,), (("",),), ({},)))
            assert metric.score(ANSWERS).value == 1


# -------------------------------------------------------------------------------------- the process
def test_one_process_serves_all_calls_and_ends_with_the_metric(tmp_path: Path) -> None:
    metric = opened(tmp_path, "import os\ndef score(predictions, references, rows): return os.getpid()")
    pid = int(metric.score(ANSWERS).value)
    assert metric.score(ANSWERS).value == pid
    assert pid != os.getpid()
    metric.close()
    assert not is_alive(pid)
    metric.close()


def test_what_the_function_prints_goes_to_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = """
        import os, subprocess, sys
        def score(predictions, references, rows):
            print("to the output", "x" * 10_000)
            print("to the error", file=sys.stderr)
            os.write(1, b'{"result": 5}\\n')
            subprocess.run(["echo", "from a child"])
            sys.stdout.close()
            return 0.5
    """
    with caplog.at_level(logging.INFO, "backends.metrics"):
        assert scores_of(tmp_path, source).value == 0.5
    printed = "\n".join(caplog.messages)
    for text in ("scoring.py prints: to the output", "to the error", '{"result": 5}', "from a child"):
        assert text in printed


def test_a_flood_of_output_is_cut(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = "def score(predictions, references, rows):\n    for n in range(100_000): print(n)\n    return 1"
    with caplog.at_level(logging.INFO, "backends.metrics"):
        assert scores_of(tmp_path, source).value == 1
    assert len(caplog.messages) == 200


def test_a_fork_of_the_function_does_not_answer(tmp_path: Path) -> None:
    source = """
        import os
        def score(predictions, references, rows):
            child = os.fork()
            if child == 0:
                return 0.25
            os.waitpid(child, 0)
            return 0.75
    """
    assert scores_of(tmp_path, source).value == 0.75


def test_the_order_of_sets_is_the_same_in_every_process(tmp_path: Path) -> None:
    source = "def score(p, r, w): return hash('text') % 1_000_003"
    assert scores_of(tmp_path, source) == scores_of(tmp_path, source)


@pytest.fixture
def doomed(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that waits for a function without end."""
    (tmp_path / "scoring.py").write_text(
        "import os, pathlib\n"
        "def score(p, r, w):\n"
        "    pathlib.Path('pid.new').write_text(str(os.getpid()))\n"
        "    os.rename('pid.new', 'pid')\n"
        "    while True: pass\n"
    )
    script = (
        "import sys; from pathlib import Path\n"
        "from backends.metrics.contract import Answers\n"
        "from backends.metrics.python_function import PythonFunction, PythonOptions\n"
        "folder = Path(sys.argv[1])\n"
        "options = PythonFunction.prepare(PythonOptions(function='scoring.py:score'), folder)\n"
        "PythonFunction.open(options, folder).score(Answers(('a',), (('a',),), ({},)))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], text=True)
    yield process
    process.kill()
    process.wait()


def test_the_function_ends_when_its_caller_is_killed(doomed: subprocess.Popen[str], tmp_path: Path) -> None:
    wait_until((tmp_path / "pid").exists)
    pid = int((tmp_path / "pid").read_text())
    assert is_alive(pid)
    doomed.send_signal(signal.SIGKILL)
    wait_until(lambda: not is_alive(pid))


# ------------------------------------------------------------------------------------------ sources
def test_a_worker_needs_no_file(tmp_path: Path) -> None:
    """Modules and packages beside the file, and what they import, are in the options."""
    folder = tmp_path / "sweep"
    (folder / "rules" / "deep").mkdir(parents=True)
    (folder / "scoring.py").write_text(
        "import json\n"
        "from helpers import value\n"
        "def score(p, r, w):\n"
        "    import late\n"
        "    return [value() + late.ONE] * 3\n"
    )
    (folder / "helpers.py").write_text("from rules.deep.numbers import TWO\ndef value(): return TWO\n")
    (folder / "late.py").write_text("ONE = 1\n")
    (folder / "unrelated.py").write_text("this is not Python\n")
    (folder / "rules" / "__init__.py").write_text("")
    (folder / "rules" / "deep" / "__init__.py").write_text("from .numbers import TWO\n")
    (folder / "rules" / "deep" / "numbers.py").write_text("TWO = 2\n")
    options = PythonFunction.prepare(PythonOptions(function="scoring.py:score"), folder)
    assert isinstance(options, PythonOptions)
    assert list(options.sources) == [
        "helpers.py",
        "late.py",
        "rules/__init__.py",
        "rules/deep/__init__.py",
        "rules/deep/numbers.py",
        "scoring.py",
    ]
    folder.rename(tmp_path / "elsewhere")
    read = PythonOptions.model_validate(json.loads(json.dumps(codec.to_json(options))))
    with closing(PythonFunction.open(read, tmp_path)) as metric:
        assert metric.score(ANSWERS).value == 3


def test_a_changed_module_changes_the_options(tmp_path: Path) -> None:
    (tmp_path / "helpers.py").write_text("ONE = 1\n")
    (tmp_path / "scoring.py").write_text("import helpers\ndef score(p, r, w): return 1\n")
    written = PythonOptions(function="scoring.py:score")
    before = PythonFunction.prepare(written, tmp_path)
    assert PythonFunction.prepare(written, tmp_path) == before
    (tmp_path / "helpers.py").write_text("ONE = 2\n")
    assert PythonFunction.prepare(written, tmp_path) != before


def test_the_function_may_be_in_another_folder_and_read_files_there(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "statistics.py").write_text(
        "import pathlib\n"
        "def score(p, r, w):\n"
        "    return float(open('n').read()) + float(pathlib.Path(__file__).with_name('n').read_text())\n"
    )
    (tmp_path / "metrics" / "n").write_text("0.25")
    written = PythonOptions(function="metrics/statistics.py:score")
    with closing(PythonFunction.open(PythonFunction.prepare(written, tmp_path), tmp_path)) as metric:
        assert metric.score(ANSWERS).value == 0.5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no file"),
        (b"def score(:\n", r"scoring.py:1 is no Python"),
        (b"\xff\xfe", "cannot be read"),
        (b"# " + b"x" * 1_000_001, "imports more than 1,000,000 characters of Python"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "scoring.py").write_bytes(content)
    with pytest.raises(BackendError, match=message) as raised:
        PythonFunction.prepare(PythonOptions(function="scoring.py:score"), tmp_path)
    assert raised.value.failure.kind is FailureKind.USER
