"""The Optuna side: the proposer that learns, and the persisted study that people watch. The only importer of optuna."""
