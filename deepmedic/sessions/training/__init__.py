"""Sessions that train models, one or several in a row."""
