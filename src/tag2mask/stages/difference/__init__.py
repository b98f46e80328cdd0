"""SSDD's stages: segmenters and DD-Nets, difference maps, refined seeds."""
