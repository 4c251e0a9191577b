"""The life of a request: admission, the streams that answer it, and what becomes of their tokens."""
