"""The ground floor: the words that every room uses (events, ids, errors, configuration, clock)."""
