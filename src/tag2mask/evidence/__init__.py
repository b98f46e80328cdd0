"""What a trained classifier knows about one image: class activation maps."""
