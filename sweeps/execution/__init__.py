"""Run a sweep: the session, the Ray Tune engine, the budget ledger and the failure policy."""
