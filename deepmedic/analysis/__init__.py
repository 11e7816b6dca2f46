"""Analysis of transfer: what the layers of a model know about other data, before and after training."""
