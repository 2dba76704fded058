"""Nightly schedules: when a sweep runs again, whether it has to, and who hears of it."""
