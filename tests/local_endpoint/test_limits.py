"""Rates and concurrency, for each key and operation by itself."""

import pytest

from local_endpoint.errors import ApiError
from local_endpoint.limits import LIMITS, Gate
from tests.local_endpoint.harness import Endpoint


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_rate_is_counted_over_ten_seconds() -> None:
    clock = Clock()
    gate = Gate(["k"], clock_s=clock)
    for _ in range(LIMITS["purge-queue"].per_window):
        with gate.enter("Bearer k", "purge-queue"):
            clock.now_s += 1
    with pytest.raises(ApiError) as refused, gate.enter("Bearer k", "purge-queue"):
        pass
    assert (refused.value.status, refused.value.headers) == (429, {"Retry-After": "8"})
    clock.now_s = 10.0
    with gate.enter("Bearer k", "purge-queue"):
        pass


def test_only_so_many_at_once() -> None:
    gate = Gate(["k"])
    inside = [gate.enter("Bearer k", "run") for _ in range(LIMITS["run"].concurrent)]
    for entered in inside:
        entered.__enter__()
    with pytest.raises(ApiError, match="at once"), gate.enter("Bearer k", "run"):
        pass
    inside[0].__exit__(None, None, None)
    with gate.enter("Bearer k", "run"):
        pass


def test_keys_and_operations_do_not_share_limits() -> None:
    gate = Gate(["a", "b"])
    for _ in range(2):
        with gate.enter("Bearer a", "purge-queue"):
            pass
    with pytest.raises(ApiError), gate.enter("Bearer a", "purge-queue"):
        pass
    for key, operation in (("b", "purge-queue"), ("a", "health")):
        with gate.enter(f"bearer {key}", operation):
            pass


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic a", "Bearer b", "b", "Bearera"])
@pytest.mark.parametrize("keys", [["a"], ["a", ""]])
def test_who_has_no_key_stays_outside(keys: list[str], header: str | None) -> None:
    with pytest.raises(ApiError) as refused, Gate(keys).enter(header, "health"):
        pass
    assert refused.value.status == 401


@pytest.mark.parametrize("header", ["Bearer a", "bearer a", "Bearer  a ", "a", " a "])
def test_a_key_lets_in_with_bearer_before_it_and_without_as_on_the_platform(header: str) -> None:
    with Gate(["a"]).enter(header, "health"):
        pass


def test_a_caller_over_the_limit_gets_429_and_is_told_when_to_come_back(endpoint: Endpoint) -> None:
    answers = [endpoint.http.post(f"{endpoint.url}/purge-queue") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert 1 <= int(answers[2].headers["retry-after"]) <= 10
    assert "wait" in answers[2].json()["error"]
