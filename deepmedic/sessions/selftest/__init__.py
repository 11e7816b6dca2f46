"""`-selfTest`: whether this installation computes what it should."""
