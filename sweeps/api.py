"""The public Python API: load, run, plan and judge."""
