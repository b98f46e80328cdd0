"""Where a training step's labels come from."""
