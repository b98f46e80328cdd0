"""RRM's and AALR's stage: one network that makes its own labels."""
