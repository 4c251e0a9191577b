"""A model of a run, to serve its recorded requests again under other rules: no clock of the machine's, no I/O."""
