"""Pictures for papers and reports: training curves, and segmentations beside their labels (needs matplotlib)."""
