"""Composition: what a daemon is made of, how it starts, keeps its workers and stops."""
