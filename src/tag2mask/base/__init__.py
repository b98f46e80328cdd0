"""Foundations of every room: settings, files, text, processors."""
