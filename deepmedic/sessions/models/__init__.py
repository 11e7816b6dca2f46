"""Models that sessions start from and make from one another."""
