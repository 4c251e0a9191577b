"""Conversations: which one a request goes on with, what is kept of it, and why what was kept was of no use."""
