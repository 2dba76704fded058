"""What importing and describing a plug-in does beside returning its description."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HEAVY_LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "datasets",
    "ray",
    "mlflow",
    "optuna",
    "openai",
    "pandas",
    "sklearn",
    "sacrebleu",
    "rapidfuzz",
    "jsonschema",
    "sympy",
)
"""Libraries that must not be loaded when a plug-in is imported and described."""


def side_effects_of_describing(plugin_class: type, options: Mapping[str, Any], folder: Path) -> list[str]:
    """Import and describe the class in a new process whose folder is `folder`.

    Return what it connected to, started, wrote and loaded of the heavy libraries.
    """
    order = {
        "path": sys.path,
        "module": plugin_class.__module__,
        "name": plugin_class.__qualname__,
        "options": dict(options),
        "heavy": HEAVY_LIBRARIES,
    }
    done = subprocess.run(
        [sys.executable, "-B", "-c", _DESCRIBE],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=60,
        check=False,
    )
    if done.returncode != 0:
        raise AssertionError(done.stderr)
    side_effects: list[str] = json.loads(done.stdout)
    return side_effects


_DESCRIBE = """
import importlib, json, sys

order = json.load(sys.stdin)
sys.path[:] = order["path"]
side_effects = []


def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.mkdir"):
        side_effects.append(f"{event} {arguments!r}")
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wxa+"):
        side_effects.append(f"writes {arguments[0]!r}")


sys.addaudithook(watch)
plugin = importlib.import_module(order["module"])
for name in order["name"].split("."):
    plugin = getattr(plugin, name)
plugin.describe(plugin.options_model.model_validate(order["options"]))
side_effects += [f"imports {name}" for name in order["heavy"] if name in sys.modules]
print(json.dumps(side_effects))
"""
