"""PSA's stages: confident labels, AffinityNet, the random walk and its masks."""
