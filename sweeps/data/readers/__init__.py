"""Files -> records: one module per family of formats."""
