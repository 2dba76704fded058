"""A valid sweep file, and single mistakes with the line and the words of their messages."""

from __future__ import annotations

GOOD = """\
name: pairs
data: {checks: quick, source: "builtin:nli", prompt: "{premise} {hypothesis}", completion: " {label}"}
backend: {type: fake, model: fake-small}
space:
  n_epochs: recommended
  batch_size: {low: 1%, high: 4%, log: true}
search: {trials: 4}
objective: {maximize: valid_accuracy}
"""

MISTAKES = [
    ("trials: 4", "trials: 0", "7", "a number of at least 1"),
    ("trials: 4", "sampler: tp", "7", "did you mean `tpe`"),
    ("trials: 4", "scheduler: ashs", "7", "did you mean `asha`"),
    ("trials: 4", "scheduler: {type: asha, grace: 2}", "7", "did you mean `grace_epochs`"),
    ("maximize: valid_accuracy", "maximize: valid_acuracy", "8", "did you mean `valid_accuracy`"),
    ("{maximize: valid_accuracy}", "[{maximize: valid_accuracy}, {minimize: valid_los}]", "8", "valid_loss"),
    ("{maximize: valid_accuracy}", "{maximize: valid_accuracy, minimize: valid_loss}", "8", "exactly one"),
    ("{maximize: valid_accuracy}", "[]", "8", "at least one"),
    ("name: pairs", "name: 'a/b'", "1", "cannot be used"),
    ("model: fake-small", "model: fake-small, sped: 3", "3", "unknown key `backend.sped`"),
    ("n_epochs: recommended", "n_epochs: {low: 2}", "5", "high"),
    ("n_epochs: recommended", "n_epoch: 3", "5", "did you mean n_epochs"),
    ("search:", "finals: true\nsearch:", "7", "keys with values"),
]
"""(text in GOOD, its wrong replacement, the line of the problem, words of the problem)."""

DATA_MISTAKES = [
    ({"promt": "{a}"}, "promt"),
    ({"prompt": "no column"}, "prompt"),
    ({"completion": " {label"}, "completion"),
    ({"encoding": "utf-9"}, "encoding"),
    ({"separator": ""}, "separator"),
    ({"validation": 0.0}, "validation"),
    ({"validation": 1.0}, "validation"),
    ({"validation": True}, "validation"),
    ({"test": -0.1}, "test"),
    ({"train_examples": 0}, "train_examples"),
    ({"labels": ["only"]}, "labels"),
    ({"task": "regression"}, "task"),
    ({"seed": -1}, "seed"),
]
"""(keys of the `data:` section, the wrong one)."""

DATA_CONTRADICTIONS = [
    {"label_noise": 0.1},
    {"validation": 0.6, "test": 0.4},
    {"task": "generation", "labels": ["a", "b"]},
]
"""Keys of a `data:` section with another source than builtin:nli that contradict each other."""
