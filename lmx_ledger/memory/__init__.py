"""Memory as a budget in integer bytes."""
