"""Studies: comparisons that papers make beside their method, each as stages in a workspace and one page."""
