"""The process that runs a scoring function of the user: `python scorer_process.py IN OUT`.

IN and OUT are file descriptors of pipes. Each message is one line of JSON. The first one from IN
says which code to load; each later one holds the arguments of a call. OUT answers each of them:
`{"result": number or list of numbers}`, or `{"problem": text, "detail": text}`. Standard output and
standard error are the user's alone.

This file imports only the standard library, so that it starts at once, and its folder is not on the
import path. When IN closes, the process ends with its children, even while the function runs.
"""

from __future__ import annotations

import faulthandler
import importlib
import importlib.abc
import importlib.util
import inspect
import json
import numbers
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

SHOWN_FRAMES = 8


class _ProblemError(Exception):
    """A problem that the author of the function must mend, with the traceback if there is one."""

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


class _Sources(importlib.abc.MetaPathFinder, importlib.abc.ExecutionLoader):
    """Imports modules from texts, under the names of the files that they were read from.

    So a traceback names the user's files, and works where these files do not exist.
    """

    def __init__(self, folder: str, sources: Mapping[str, str]) -> None:
        self._folder = folder
        self._sources = sources

    def spec(self, name: str, file: str) -> ModuleSpec | None:
        path = os.path.join(self._folder, file)
        locations = [os.path.dirname(path)] if file.endswith("__init__.py") else None
        return importlib.util.spec_from_file_location(name, path, loader=self, submodule_search_locations=locations)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        file = self._file(fullname)
        return None if file is None else self.spec(fullname, file)

    def get_source(self, fullname: str) -> str:
        return self._sources[self._existing_file(fullname)]

    def get_filename(self, fullname: str) -> str:
        return os.path.join(self._folder, self._existing_file(fullname))

    def is_package(self, fullname: str) -> bool:
        return self._existing_file(fullname).endswith("__init__.py")

    def _existing_file(self, module: str) -> str:
        file = self._file(module)
        if file is None:
            raise ImportError(f"no module {module}")
        return file

    def _file(self, module: str) -> str | None:
        relative = module.replace(".", "/")
        return next((file for file in (f"{relative}/__init__.py", f"{relative}.py") if file in self._sources), None)


def _load(code: Mapping[str, Any]) -> Callable[..., Any]:
    """Import the module and return its function. Raises _ProblemError."""
    folder, file, name = code["folder"], code["file"], code["function"]
    if os.path.isdir(folder):
        os.chdir(folder)
        sys.path.append(folder)
    sources = _Sources(folder, code["sources"])
    sys.meta_path.insert(0, sources)
    module_name = file.removesuffix(".py")
    sys.modules.pop(module_name, None)  # the user's statistics.py is not the one of the standard library
    module = _guarded(f"importing {file}", importlib.import_module, module_name)
    function = getattr(module, name, None)
    if function is None:
        defined = [key for key, value in vars(module).items() if inspect.isfunction(value) and key[0] != "_"]
        raise _ProblemError(
            f"{file} defines no function {name!r}", f"It defines: {', '.join(defined) or 'no function'}."
        )
    if not callable(function):
        raise _ProblemError(f"{name!r} in {file} is no function, but of the type {type(function).__name__}")
    try:
        inspect.signature(function).bind(*range(code["parameters"]))
    except TypeError as error:
        raise _ProblemError(
            f"{name}() of {file} cannot be called with {code['parameters']} arguments: {error}",
            "It is called with predictions, references and rows.",
        ) from None
    except ValueError:  # a function of an extension module has no signature
        pass
    loaded: Callable[..., Any] = function
    return loaded


def _guarded(action: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of the user. Raises _ProblemError for whatever it raises."""
    try:
        return function(*arguments)
    except SystemExit as error:
        raise _ProblemError(f"{action} called exit({error.code!r})", _traceback_of(error)) from None
    except BaseException as error:  # noqa: BLE001  the code of a user can raise anything
        raise _ProblemError(f"{action} raised {_described(error)}", _traceback_of(error)) from None


def _described(error: BaseException) -> str:
    frames = _frames_of(error)
    if isinstance(error, SyntaxError) and error.filename:
        place = f" ({os.path.basename(error.filename)}:{error.lineno})"
    else:
        place = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    try:
        message = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    except Exception as secondary:  # noqa: BLE001  as in `_guarded`
        message = f"its message is unreadable, because its __str__ raised {type(secondary).__name__}"
    return f"{type(error).__name__}{': ' if message else ''}{message[:300]}{place}"


def _traceback_of(error: BaseException) -> str:
    lines = traceback.format_list(_frames_of(error)[-SHOWN_FRAMES:])
    try:
        lines += traceback.format_exception_only(error)
    except Exception:  # noqa: BLE001  as in `_guarded`
        lines.append(type(error).__name__)
    return "Traceback (most recent call last):\n" + "".join(lines).rstrip()


def _frames_of(error: BaseException) -> list[traceback.FrameSummary]:
    """Return the frames of the traceback without those of this file and of the import system."""
    frames = traceback.extract_tb(error.__traceback__)
    return [frame for frame in frames if frame.filename != __file__ and "importlib" not in frame.filename]


def _numbers(result: Any) -> float | list[float]:
    """Return the result as a float or a list of floats. Raises TypeError for anything else."""
    if hasattr(result, "tolist"):  # a number or an array of numpy, torch or pandas
        result = result.tolist()
    if isinstance(result, list | tuple):
        return [_number(item) for item in result]
    return _number(result)


def _number(value: Any) -> float:
    if hasattr(value, "item"):
        value = value.item()
    if not isinstance(value, numbers.Number) or isinstance(value, complex):
        shown = repr(value)
        raise TypeError(f"{shown[:60]}{'...' if len(shown) > 60 else ''}, of the type {type(value).__name__}")
    try:
        return float(value)  # type: ignore[arg-type]  # each number but a complex one has a float
    except OverflowError:
        return float("inf")


def _answer_to(message: Mapping[str, Any], function: Callable[..., Any], action: str) -> dict[str, Any]:
    result = _guarded(action, function, *message["arguments"])
    try:
        return {"result": _guarded(f"the result of {action}", _numbers, result)}
    except _ProblemError as problem:
        if isinstance(problem.__context__, TypeError):
            raise _ProblemError(
                f"{action} returned {problem.__context__}", "Return a number, or a list with one number for each row."
            ) from None
        raise


def _receive(requests: Any, received: queue.SimpleQueue[dict[str, Any]]) -> None:
    """Put each message into the queue. When the pipe closes, end this process and its children."""
    for line in requests:
        received.put(json.loads(line))
    os.killpg(0, signal.SIGKILL)


def main(requests_fd: int, answers_fd: int) -> None:
    """Load the code and answer calls until the pipe of the requests closes."""
    faulthandler.enable(all_threads=False)  # shows where a function crashes
    faulthandler.register(signal.SIGUSR1, all_threads=False)  # shows where it hangs
    process_id = os.getpid()
    received: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    requests = os.fdopen(requests_fd, "r", encoding="utf-8")
    threading.Thread(target=_receive, args=(requests, received), daemon=True).start()
    code = received.get()
    action = f"{code['function']}() of {code['file']}"
    function: Callable[..., Any] | None = None
    message = code
    while True:
        try:
            if function is None:
                function = _load(code)
                answer: dict[str, Any] = {"result": 0.0}
            else:
                answer = _answer_to(message, function, action)
        except _ProblemError as problem:
            answer = {"problem": str(problem), "detail": problem.detail}
        if os.getpid() != process_id:  # a child that the function forked has returned from it
            os._exit(1)
        _send(answers_fd, json.dumps(answer).encode() + b"\n")
        message = received.get()


def _send(answers_fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(answers_fd, data) :]


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
