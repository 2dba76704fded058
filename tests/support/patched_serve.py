"""`sweep` with other values of constants and fewer descriptors, for tests that meet a limit.

`python patched_serve.py JSON ARGUMENTS`: the JSON has `constants` (full name -> value) and
`open_files` (the limit of the process, or null).
"""

from __future__ import annotations

import importlib
import json
import resource
import sys

from sweeps.cli.main import main

if __name__ == "__main__":
    changes = json.loads(sys.argv[1])
    for full_name, value in changes["constants"].items():
        module_name, _, name = full_name.rpartition(".")
        module = importlib.import_module(module_name)
        assert hasattr(module, name), full_name
        setattr(module, name, value)
    if changes["open_files"] is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (changes["open_files"], changes["open_files"]))
    sys.argv = ["sweep", *sys.argv[2:]]
    main()
