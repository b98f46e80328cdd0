"""What every room stands on: settings, files, text, processors."""
