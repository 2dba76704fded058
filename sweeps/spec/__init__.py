"""YAML -> SweepSpec: the sweep file as typed values, its checks, and its JSON Schema."""
