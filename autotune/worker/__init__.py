"""A process that takes jobs from the queue and runs them, one at a time."""
