"""YAML -> SweepSpec: the sweep file as typed values, with every mistake reported at once by file and line."""
