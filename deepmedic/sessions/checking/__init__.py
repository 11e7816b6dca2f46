"""Sessions that only look: `-check`, and configs for data that were found."""
