"""Training: the schedule (pure), the recipes, and one readable loop."""
