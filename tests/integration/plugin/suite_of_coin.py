"""The test that a plugin author writes."""

from coin_backend import CoinBackend

from backends.testing import BackendContract


class TestCoin(BackendContract):
    backend_type = CoinBackend
    base_model = "coin"
    timeout_s = 10
