"""The example that `sweep check` shows of a hosted sweep: messages with the trained ones marked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest

from backends.contract import Dataset, TrainingRequest
from backends.hosted.options import HostedOptions
from backends.hosted.rendering import render
from backends.rendering import RenderedExample
from backends.testing import write_jsonl

pytestmark = pytest.mark.unit

CALL = {"id": "c", "type": "function", "function": {"name": "add", "arguments": "{}"}}
TALK = [
    {"role": "user", "content": "1+1?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "2", "tool_call_id": "c"},
    {"role": "assistant", "content": "2"},
]


def rendered(
    folder: Path, line: dict[str, Any], train_on: Literal["all", "last"] = "all", **options: Any
) -> RenderedExample:
    layout: Literal["chat", "completion"] = "chat" if "messages" in line else "completion"
    file = write_jsonl(folder / "lines.jsonl", [line])
    request = TrainingRequest("key", "m", Dataset(file, file, layout, stop="|", train_on=train_on), {}, 7)
    return render(request, HostedOptions(model="m", **options))


def marked(example: RenderedExample) -> str:
    return "".join(f"[[{piece.text}]]" if piece.is_trained else piece.text for piece in example.pieces)


def test_messages_are_shown_with_the_trained_answers_marked(tmp_path: Path) -> None:
    line = {"messages": TALK, "tools": [{"type": "function", "function": {"name": "add"}}]}
    tools = 'tools: [{"type": "function", "function": {"name": "add"}}]\n'
    called = '[{"name": "add", "arguments": "{}"}]'
    text = f"user: 1+1?\nassistant: [[{called}]]\ntool: 2\nassistant: [[2]]"
    assert marked(rendered(tmp_path, line)) == tools + text
    assert marked(rendered(tmp_path, line, "last")) == tools + text.replace(f"[[{called}]]", called)


def test_a_prompt_is_shown_as_the_host_receives_it(tmp_path: Path) -> None:
    line = {"prompt": "q##", "completion": " a|"}
    assert marked(rendered(tmp_path, line, system_message="Be brief.")) == (
        "system: Be brief.\nuser: q##\nassistant: [[a]]"
    )
    assert marked(rendered(tmp_path, line, format="completion")) == "q##[[ a|]]"


def test_rendering_loads_no_heavy_library() -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom tempfile import mkdtemp\n"
        "from backends.contract import Dataset, TrainingRequest\nfrom backends.hosted import HostedBackend\n"
        "from backends.hosted.options import HostedOptions\nfrom backends.testing import write_jsonl\n"
        "folder = Path(mkdtemp())\nfile = write_jsonl(folder / 'x', [{'prompt': 'a', 'completion': 'b'}])\n"
        "backend = HostedBackend(HostedOptions(model='m'), folder / 'w', {'OPENAI_API_KEY': 'k'})\n"
        "backend.render(TrainingRequest('key', 'm', Dataset(file, file, 'completion'), {}, 7))\n"
        "sys.exit(str({'torch', 'ray', 'mlflow', 'transformers'} & set(sys.modules) or ''))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
