"""A postmortem that writes itself: an incident and the ledger's events as JSON, Markdown and one HTML file."""
