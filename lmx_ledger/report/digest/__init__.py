"""The digest of a week: what the ledger says of it, beside the week before."""
