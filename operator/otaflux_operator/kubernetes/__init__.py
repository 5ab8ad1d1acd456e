"""The adapter to Kubernetes: what `ports` asks for, by an API server; and what marks objects."""
