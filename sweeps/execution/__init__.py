"""Run a sweep: the session, the Ray Tune engine, budget, finals, champion challenge, clean-up."""
