"""What is told of sessions and models: records, reports, curves, `-inspect`."""
