"""The DCP study: what the components of a classifier's features tell, class by class and block by block.

Luo & Yang, "Learning Saliency-Free Model with Generic Features for Weakly-Supervised Semantic Segmentation" (AAAI
2020): figures 1 (e) to (g), 3 and 4.
"""
