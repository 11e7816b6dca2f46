"""Sessions about transfer: whether it will help, what it changed, whether it helped."""
