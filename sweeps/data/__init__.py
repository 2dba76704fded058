"""Load, check, prepare, split and fingerprint the examples; the embedded NLI sample."""

from sweeps.data.findings import Finding
from sweeps.data.prepare import prepare
from sweeps.data.prepared_data import Lengths, PreparedData
from sweeps.data.spec import DataSpec

__all__ = ["DataSpec", "Finding", "Lengths", "PreparedData", "prepare"]
