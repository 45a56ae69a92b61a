"""What answers a request: a vLLM engine of our own, any OpenAI-compatible server, or a script."""
