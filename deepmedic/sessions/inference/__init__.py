"""Sessions that segment scans."""
