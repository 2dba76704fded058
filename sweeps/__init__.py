"""WHEN and WHETHER: specification, plan, study, engine, verdicts, tracking and the command line."""
