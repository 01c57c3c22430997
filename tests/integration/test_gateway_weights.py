"""Weights flow through the gateway: signed metadata, blobs that resume, teacher or no teacher."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from simulators.cloud_gateway import TASK, Cloud, ScriptedTeacher, config, running_cloud
from understudy.cloud.releases import ReleaseRepository
from understudy.cloud.releases.disk import Blobs
from understudy.wire.v1 import artifact_pb2, artifact_pb2_grpc, fleet_pb2, fleet_pb2_grpc

BLOB = os.urandom(300_000)
DIGEST = hashlib.sha256(BLOB).hexdigest()


@dataclass
class Shop:
    """A node's connection to a gateway whose teacher is away."""

    cloud: Cloud
    channel: grpc.Channel

    def read(self, offset: int = 0, chunk: int = 0) -> list[artifact_pb2.ReadBlobResponse]:
        request = artifact_pb2.ReadBlobRequest(sha256=DIGEST, offset=offset, chunk_bytes=chunk)
        stub = artifact_pb2_grpc.ArtifactServiceStub(self.channel)
        return list(stub.ReadBlob(request, timeout=10))

    def metadata(self, name: str) -> bytes:
        request = artifact_pb2.GetMetadataRequest(name=name)
        stub = artifact_pb2_grpc.ArtifactServiceStub(self.channel)
        return stub.GetMetadata(request, timeout=10).data


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    ReleaseRepository.create(folder / "state" / "releases", folder / "keys", "a passphrase")
    Blobs(folder / "state" / "releases" / "blobs").put(BLOB)
    teacher = ScriptedTeacher()
    teacher.away = "Ray is down"
    settings = config(folder / "state", gateway={"wait_for_teacher": False})
    with (
        running_cloud(settings, teacher) as cloud,
        cloud.badge().channel(cloud.address) as channel,
    ):
        yield Shop(cloud, channel)


def test_a_blob_comes_whole_and_in_chunks(shop: Shop) -> None:
    """Every piece says where it belongs and how much there is."""
    chunks = shop.read(chunk=100_000)

    assert BLOB == b"".join(chunk.data for chunk in chunks)
    assert [0, 100_000, 200_000] == [chunk.offset for chunk in chunks]
    assert {len(BLOB)} == {chunk.total_size for chunk in chunks}


def test_a_broken_download_goes_on_where_it_stopped(shop: Shop) -> None:
    """A train in a tunnel must not begin again."""
    assert BLOB[123_456:] == b"".join(chunk.data for chunk in shop.read(offset=123_456))


def test_at_the_end_there_is_nothing_and_beyond_it_an_error(shop: Shop) -> None:
    """A node that has it all hears the size; one that asks further has the wrong file."""
    (last,) = shop.read(offset=len(BLOB))
    with pytest.raises(grpc.RpcError) as caught:
        shop.read(offset=len(BLOB) + 1)

    assert (b"", len(BLOB)) == (last.data, last.total_size)
    assert grpc.StatusCode.OUT_OF_RANGE == caught.value.code()


def test_a_chunk_is_never_larger_than_a_mebibyte(shop: Shop) -> None:
    """Whatever a node asks for, memory is bounded."""
    assert max(len(chunk.data) for chunk in shop.read(chunk=1 << 31)) <= 1 << 20


def test_metadata_is_signed_and_the_root_is_pinned_at_enrolment(shop: Shop) -> None:
    """From here on the node trusts nobody's network."""
    timestamp = json.loads(shop.metadata("timestamp.json"))

    assert "timestamp" == timestamp["signed"]["_type"]
    assert shop.metadata("1.root.json") == shop.cloud.badge("fresh-1").trusted_root


def test_asking_for_the_next_root_is_no_refusal(shop: Shop) -> None:
    """Every update begins with it; an operator who counts refusals must not see it."""
    counted = shop.cloud.gateway.metrics.refusals
    before = counted().get("not_found", 0.0)
    with pytest.raises(grpc.RpcError) as caught:
        shop.metadata("2.root.json")
    after_root = counted().get("not_found", 0.0)
    with pytest.raises(grpc.RpcError):
        shop.metadata("7.targets.json")

    assert grpc.StatusCode.NOT_FOUND == caught.value.code()
    assert (before, before + 1) == (after_root, counted()["not_found"])


def test_a_channel_without_release_has_no_orders(shop: Shop) -> None:
    """Stay as you are, and when to ask again."""
    request = fleet_pb2.CheckInRequest(status=fleet_pb2.NodeStatus(task=TASK, channel="stable"))

    directive = fleet_pb2_grpc.FleetServiceStub(shop.channel).CheckIn(request, timeout=10).directive

    assert ("", "") == (directive.bundle, directive.target)
    assert 0 < directive.next_check_in_s <= 900


def test_releases_may_come_after_the_gateway(tmp_path: Path) -> None:
    """The first night ends hours after the cloud was started."""
    with (
        running_cloud(config(tmp_path / "state")) as cloud,
        cloud.badge().channel(cloud.address) as channel,
    ):
        shop = Shop(cloud, channel)
        with pytest.raises(grpc.RpcError) as caught:
            shop.metadata("timestamp.json")
        ReleaseRepository.create(tmp_path / "state" / "releases", tmp_path / "keys", "passphrase")

        assert shop.metadata("timestamp.json")
        assert grpc.StatusCode.NOT_FOUND == caught.value.code()
