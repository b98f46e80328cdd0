"""Backbones and heads: classifier, segmenter, pretrained weights."""
