"""The postmortem of an incident, made of it and the ledger's events: JSON, Markdown and one HTML file."""
