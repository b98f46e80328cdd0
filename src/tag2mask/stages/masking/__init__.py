"""Image masking's stages: refined saliency, its training and attention maps."""
