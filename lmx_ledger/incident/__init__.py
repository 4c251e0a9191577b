"""What happened and why: where a request's time went, incidents, their timelines and likely causes."""
