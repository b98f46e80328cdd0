"""DCP's stages: class patterns, their maps and the masks made of them."""
