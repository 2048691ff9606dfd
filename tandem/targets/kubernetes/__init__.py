"""Live on Kubernetes."""
