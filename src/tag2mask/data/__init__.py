"""Tagged photographs: readers, sample geometry, masks on disk, the built-in demo set."""
