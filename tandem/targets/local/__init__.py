"""Live on this machine: as a process, or as a container of a Docker engine."""
