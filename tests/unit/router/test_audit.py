"""The audit coin."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from understudy.router.audit import coin, uniform
from understudy.types.errors import InvalidValueError

KEY = bytes(range(32))
IDS = [f"0193-{n:08x}" for n in range(20_000)]


def test_the_same_request_gets_the_same_coin() -> None:
    # Duplicates and retries must not be audited twice, nor escape by trying again.
    assert [coin(KEY, i, 0.3) for i in IDS[:100]] == [coin(KEY, i, 0.3) for i in IDS[:100]]


def test_the_coin_is_fixed_for_all_time() -> None:
    # A change of the hash would make old logs impossible to verify.
    assert uniform(KEY, "request") == 0.3849549021741192


def test_coins_fall_at_their_rate() -> None:
    # The certificate speaks for all traffic only if every request has the same chance.
    for rate in (0.005, 0.05, 0.5):
        fallen = sum(coin(KEY, i, rate) for i in IDS)
        assert abs(fallen - rate * len(IDS)) < 4.5 * math.sqrt(rate * len(IDS))


def test_the_numbers_are_uniform() -> None:
    p_value = stats.kstest([uniform(KEY, i) for i in IDS], "uniform").pvalue

    assert p_value > 1e-3


def test_two_keys_audit_different_requests() -> None:
    # Who knows one node's audits must not know another's.
    other = bytes(range(1, 33))
    both = sum(coin(KEY, i, 0.1) and coin(other, i, 0.1) for i in IDS)

    assert both == pytest.approx(0.01 * len(IDS), rel=0.3)


def test_whoever_is_audited_at_a_low_rate_is_audited_at_a_higher() -> None:
    # Raising the rate after an alarm adds audits and takes none away.
    low = {i for i in IDS if coin(KEY, i, 0.02)}

    assert low <= {i for i in IDS if coin(KEY, i, 0.1)}


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_the_rates_at_the_ends_are_exact(rate: float) -> None:
    assert {coin(KEY, i, rate) for i in IDS[:200]} == {bool(rate)}


@pytest.mark.parametrize("key", [b"", b"short", bytes(65)], ids=["empty", "short", "long"])
def test_a_key_that_is_no_secret_is_refused(key: bytes) -> None:
    with pytest.raises(InvalidValueError, match="16 to 64 bytes"):
        coin(key, "request", 0.5)
