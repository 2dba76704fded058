"""The HTTP routes, one module per group of paths.

The docstring of each route appears in the OpenAPI description.
"""
