"""Who makes vectors: an HTTP service, an OpenAI-compatible one, a model in this process."""
