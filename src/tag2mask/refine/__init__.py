"""Evidence into better masks: the dense CRF."""
