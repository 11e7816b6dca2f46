"""Sessions: the compositions that the command line offers."""
