"""KV that was computed once: what it is called, where it lies, and what is let go of."""
