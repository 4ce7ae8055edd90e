"""Requests to Ray's autoscaler, and that they are withdrawn."""

from types import SimpleNamespace
from typing import Any

import pytest

from cluster.config.sections import ClusterConfig
from cluster.workers import autoscaler


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Bundles of each request."""
    requests: list[Any] = []
    monkeypatch.setattr(autoscaler, "request_resources", lambda bundles: requests.append(bundles))
    monkeypatch.setattr(autoscaler, "get_current_placement_group", lambda: None)
    context = SimpleNamespace(gcs_address="10.0.0.1:6379")
    monkeypatch.setattr(autoscaler, "ray", SimpleNamespace(get_runtime_context=lambda: context))
    monkeypatch.setattr(autoscaler, "answers", lambda address: address == context.gcs_address)
    return requests


def test_a_cluster_without_room_is_asked_to_grow_and_let_go_of_once(asked: list[Any]) -> None:
    limits = ClusterConfig(threads=2, gpus_per_worker=0.5)
    request = autoscaler.Request(limits, 3, {"CPU": 100.0, "GPU": 1.0})
    assert request.made
    assert asked == [[{"CPU": 2, "GPU": 0.5}] * 3]
    request.withdraw()
    request.withdraw()
    assert asked[1:] == [[]]


def test_a_lost_head_is_not_waited_for(asked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    request = autoscaler.Request(ClusterConfig(), 3, {})
    monkeypatch.setattr(autoscaler, "answers", lambda address: False)
    request.withdraw()
    assert len(asked) == 1


def test_a_cluster_with_room_is_not_asked(asked: list[Any]) -> None:
    autoscaler.Request(ClusterConfig(), 3, {"CPU": 3.0}).withdraw()
    assert asked == []


def test_within_a_placement_group_there_is_nothing_to_ask_for(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autoscaler, "get_current_placement_group", lambda: object())
    autoscaler.Request(ClusterConfig(), 3, {}).withdraw()
    assert asked == []
