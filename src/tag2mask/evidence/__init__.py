"""What networks know about one image: class activation maps, class patterns, superpixels, affinities."""
