"""The commands: what a person types, over HTTP, and over the ledger file where no daemon answers."""
