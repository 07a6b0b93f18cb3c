"""The shared service: API, pages and Optuna dashboard over HTTP. It never runs a trial."""
