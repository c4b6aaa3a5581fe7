"""The backend of a Ray cluster: the shared body and every head are separate deployments."""

from splitreg.serving.on_ray.config import ClusterConfig, read_cluster
from splitreg.serving.on_ray.run import serve_on_ray

__all__ = ["ClusterConfig", "read_cluster", "serve_on_ray"]
