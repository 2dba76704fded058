"""What the plugin's author writes to test it."""

from coin_backend import CoinBackend

from backends.testing import BackendContract


class TestCoin(BackendContract):
    backend_type = CoinBackend
    base_model = "coin"
    timeout_s = 10
