"""What all sessions share: where files are, what will be needed, what is kept."""
