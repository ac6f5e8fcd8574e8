"""The service, started from here or by KubeRay: replicas of a model, and the application before them."""

from __future__ import annotations

import ipaddress
import socket
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from infra.settings import Settings, read_settings, serve_token
from jobs.console import print_facts, print_line
from jobs.fuse.run import GPU_BATCH, resolve_model
from jobs.locations import open_folder
from jobs.serve.limits import Limits, sha256_of
from jobs.serve.model import ServedModel
from jobs.serve.web import web_app
from models.system import FuseOptions
from pipelines.bundles.pretrained import pretrained_folders


class ServiceConfig(BaseModel):
    """What is served, and by how many. The arguments of `application` in infra/kuberay/service.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    model: str
    """small, models:/NAME@ALIAS (followed), models:/NAME/VERSION, or a bundle that every node sees."""
    replicas: int = Field(default=1, ge=1)
    max_replicas: int | None = Field(default=None, ge=1)
    """With it replicas come and go between the two, by what waits."""
    batch: int | None = Field(default=None, ge=1)
    """Pairs of one size that are fused at once; null for 1 on a CPU and 8 on a GPU."""
    queue: int = Field(default=64, ge=1)
    most_pixels: int = Field(default=2**24, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    gpu_share: float = Field(default=1.0, gt=0, le=1)
    options: FuseOptions = FuseOptions()
    keep_far: str | None = None
    """Folder or s3:// prefix for the pairs that are farthest from the training's; null keeps none."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(
                f"replicas {self.replicas}:{self.max_replicas}: the first must not be the larger"
            )
        return self


def application(arguments: dict[str, Any]) -> Any:
    """The service for whoever runs Ray Serve, such as KubeRay: it listens to others, so it needs a token.

    `arguments` are those of `ServiceConfig`. Raises ValueError without FUSION_SERVE_TOKEN.
    """
    config = ServiceConfig.model_validate(arguments)
    token = serve_token()
    if token is None:
        raise ValueError(
            "FUSION_SERVE_TOKEN is not set; set it where the nodes get their environment"
        )
    return _application(config, read_settings(), token)


def _application(config: ServiceConfig, settings: Settings, token: str | None) -> Any:
    from infra.cluster.nodes import gpus_of_worker
    from infra.cluster.serving import Scale
    from infra.cluster.serving import application as serve_application

    num_gpus = gpus_of_worker(config.device, config.gpu_share)
    device = "cuda" if num_gpus else "cpu"
    scale = Scale(
        replicas=config.replicas,
        max_replicas=config.max_replicas,
        batch=config.batch or (GPU_BATCH if num_gpus else 1),
        queue=config.queue,
        num_gpus=num_gpus,
    )
    limits = Limits(
        most_pixels=config.most_pixels, token_sha256=sha256_of(token) if token else None
    )
    return serve_application(
        partial(web_app, limits=limits),
        partial(ServedModel, config.model, config.options, settings, device, config.keep_far),
        scale,
    )


def serve(config: ServiceConfig, settings: Settings, *, host: str, port: int) -> None:
    """Serve until this process is told to stop, then answer what is under way.

    Raises ValueError for a model that does not exist, a port that is taken, a host that others reach
    without a token, and more replicas than the cluster has CPUs for.
    """
    from infra.cluster.connect import connected
    from infra.cluster.nodes import metrics_address
    from infra.cluster.serving import serving, wait_while_serving

    token = serve_token()
    if token is None and not _is_loopback(host):
        raise ValueError(
            f"--host {host}: others reach it, so it needs a token: "
            "export FUSION_SERVE_TOKEN=$(openssl rand -hex 24)"
        )
    model = resolve_model(config.model, settings)
    if config.model not in pretrained_folders() and Path(config.model).is_dir():
        config = config.model_copy(update={"model": str(Path(config.model).resolve())})
    if config.keep_far:
        config = config.model_copy(update={"keep_far": open_folder(config.keep_far, settings).uri})
    if settings.ray_address is None:
        _check_port(host, port)
    with connected(settings):
        _check_cpus(config)
        service = _application(config, settings, token)
        is_embedded = settings.ray_address is None
        with serving(service, host=host, port=port, is_embedded=is_embedded):
            shown = f"[{host}]" if ":" in host else host
            page = f"http://{shown}:{port}"
            print_facts({"model": model, "page": page, "metrics": metrics_address()})
            try:
                wait_while_serving()
            except KeyboardInterrupt:
                print_line("stopping: what is under way is answered first")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_port(host: str, port: int) -> None:
    """Raise ValueError where a server cannot listen: Serve itself would wait for its proxy."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ValueError(
                f"--host {host} --port {port}: {error.strerror}; choose another"
            ) from error


def _check_cpus(config: ServiceConfig) -> None:
    """Raise ValueError for more replicas than there are CPUs, where nothing adds nodes."""
    from infra.cluster.nodes import count_resource, has_autoscaler

    has = count_resource("CPU")
    if config.replicas > has and not has_autoscaler():
        raise ValueError(
            f"--replicas {config.replicas}: each needs a CPU, and the cluster has {has}; ask for fewer"
        )
