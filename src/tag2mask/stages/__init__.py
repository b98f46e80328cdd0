"""The verbs methods are written in."""
