"""Training: losses, optimisers, schedules, records and the loop."""
