"""Service levels: what requests add up to, minute by minute."""
