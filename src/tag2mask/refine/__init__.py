"""Evidence into better masks: the dense CRF, region growing, the random walk."""
