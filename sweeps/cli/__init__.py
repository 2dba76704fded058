"""The command `sweep`, one module per group of commands.

Only this package prints and exits. Settings are read from environment variables only here and in
`sweeps.api`.
"""
