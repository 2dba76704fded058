"""An OpenAI-protocol fine-tuning server over any backend; see docs/guide/serve.md. FastAPI and uvicorn live here."""
