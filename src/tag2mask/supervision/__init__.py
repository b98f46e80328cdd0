"""Sources of a training step's labels."""
