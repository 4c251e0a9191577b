"""The append-only ledger: one writer, a hash chain, typed questions."""
