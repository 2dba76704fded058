"""The sizes of LoRA adapters on the linear layers of a transformer. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from backends.memory_forecast.architecture import Architecture, Linear

_QUERY_OR_VALUE = ("q_proj", "v_proj", "query", "value", "c_attn")


@dataclass(frozen=True)
class Adapters:
    """LoRA adapters.

    `target` is `all-linear`, `attention`, `query-value`, or a comma-separated list of module names.
    """

    rank: int
    target: str = "all-linear"
    dropout: bool = False
    dora: bool = False

    def linears(self, architecture: Architecture) -> tuple[Linear, ...]:
        """Return the linear layers of a block that get an adapter."""
        return tuple(linear for linear in architecture.linears if self._selects(linear.name))

    def _selects(self, name: str) -> bool:
        path, _, last = name.rpartition(".")
        in_attention = "attn" in path or "attention" in path
        match self.target:
            case "all-linear" | "all":
                return True
            case "attention":
                return in_attention
            case "query-value":
                return in_attention and last in _QUERY_OR_VALUE
            case names:
                wanted = [part.strip() for part in names.split(",")]
                return any(name == one or name.endswith(f".{one}") for one in wanted if one)

    def parameters(self, architecture: Architecture) -> int:
        """Return the trained weights: r (inputs + outputs) for each layer (Hu et al. 2021, "LoRA",
        section 4.1), and with DoRA a magnitude for each output (Liu et al. 2024, "DoRA", eq. 5).
        """
        per_block = sum(
            self.rank * (linear.inputs + linear.outputs) + (linear.outputs if self.dora else 0)
            for linear in self.linears(architecture)
        )
        return architecture.layers * per_block
