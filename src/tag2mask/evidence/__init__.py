"""Evidence of networks on one image: class activation maps, class patterns, superpixels, affinities."""
