"""Where trouble is judged: pure policies, whose transitions are events."""
