"""What one model learnt, brought into another: checkpoints of the original DeepMedic, and parameters between models."""
