"""What integration tests share: one Ray with one Serve for the whole run."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest

from understudy.cloud.ray_start import RayOptions, prepare_environment, start_ray


@pytest.fixture(scope="session")
def ray_serve() -> Iterator[RayOptions]:
    """A Ray with Serve in this process; a `ServeTeacher` made in a test joins it by itself.

    Starting one takes seconds, so the whole run shares it: give every application a name of its
    own. Another process joins with the options that are handed out.
    """
    prepare_environment()
    pytest.importorskip("ray.serve", reason="install understudy[cloud]")
    # A machine that other tests keep busy is not a reason to kill replicas.
    os.environ["RAY_memory_monitor_refresh_ms"] = "0"  # noqa: SIM112 - Ray spells it so
    import ray
    from ray import serve

    # Sockets lie in this folder, and their paths may not be longer than 107 bytes.
    folder = tempfile.mkdtemp(prefix="us-ray-", dir="/tmp")
    namespace = f"test-{os.getpid()}"
    try:
        start_ray(RayOptions(namespace=namespace, cpus=8, temp_dir=folder))
        serve.start(proxy_location="Disabled")
        yield RayOptions(address=ray.get_runtime_context().gcs_address, namespace=namespace)
    finally:
        serve.shutdown()
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
