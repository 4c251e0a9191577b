"""The HTTP faces: OpenAI's routes, the operators' routes, health; who may come in, and how errors look."""
