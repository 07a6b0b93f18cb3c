"""One job's loop: ask, run, save, tell, until the budget is spent; then confirm, select and persist."""
