"""The fine-tuning server: the OpenAI protocol over any backend; see docs/guide/serve.md.

FastAPI, uvicorn and Prometheus' client live here.
"""
