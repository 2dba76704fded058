"""The command `sweep`, one module per group of commands.

Only this package prints, reads the environment and exits.
"""
