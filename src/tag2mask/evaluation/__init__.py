"""Segmentation, classification and seed metrics."""
