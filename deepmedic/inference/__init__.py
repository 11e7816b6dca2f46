"""Inference: tiles, whole-volume prediction, evaluation and result files."""
