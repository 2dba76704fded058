"""WHERE training happens: the contract, its registry, and the built-in backends."""
