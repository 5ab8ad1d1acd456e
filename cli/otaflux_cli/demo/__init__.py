"""The demo: one rollout, told live, on a real API server and registry or without Kubernetes."""
