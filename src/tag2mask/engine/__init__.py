"""Artifacts and fingerprints, the training loop, mapping over a data set, progress: knows no method."""
