"""What the machine says of itself: one protocol, a sensor per platform, and one that recites a script."""
