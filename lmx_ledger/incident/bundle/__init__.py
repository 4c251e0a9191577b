"""A bundle: one incident as a file of its own, redacted and verifiable, for whoever does not have the ledger."""
