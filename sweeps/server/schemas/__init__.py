"""The JSON objects of the protocol, as pydantic models.

Their names and docstrings appear in the OpenAPI description.
"""
