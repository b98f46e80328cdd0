"""One run of a method: its settings, input check, record, folder, report, listing and pruning."""
