"""The superpixel study: discovered superpixels beside other features, other rules and other algorithms.

Kim, "A Study on Weakly Supervised Semantic Segmentation Using Image Masking and Clustering" (dissertation, Seoul
National University, 2022), sections 3.4.3 and 3.4.4: table 3.5 and figures 3.5 to 3.16.
"""
