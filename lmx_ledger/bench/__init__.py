"""What `lmx bench` measures: ratios against a baseline of the same run."""
