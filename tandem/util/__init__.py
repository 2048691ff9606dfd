"""What every room needs once: files, processes, time."""
