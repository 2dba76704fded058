"""Callbacks for the training loops of other libraries: stop by verdict, and know what to keep.

`sweeps.callbacks.transformers`, `.lightning` and `.keras` each hold a `StopByVerdict`. Importing
this package imports none of these libraries.
"""
