"""The report of a session: one page that opens from disk in any browser, and drawings of architectures."""
