"""The worker process: one model, one MLX thread, token ids only. It knows nothing of HTTP, SQL or policy."""
