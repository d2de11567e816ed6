"""Losses, distillation, batches, the gradient step and the learning loop."""
