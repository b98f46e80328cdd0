"""Stages on superpixels: discovering them, and their quality as seeds."""
