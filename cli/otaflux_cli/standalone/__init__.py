"""OtaFlux without Kubernetes: the operator's ports and the server's sources on one machine."""
