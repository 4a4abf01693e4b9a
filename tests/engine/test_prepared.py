"""A prepared forward runs where it was prepared, gives what the plain one does and is quicker; else the plain."""

from collections.abc import Callable

import pytest
import torch

from sdworker.engine.prepared import Forward, Prepared
from sdworker.engine.unet_input import Conditioning, UNetInput

SHAPE = (4, 4)


class Workshop:
    """A plain forward, a way to prepare it, and a clock on which each takes what the test says.

    Attributes:
        plain_s, quick_s: rows → seconds of a forward.
        ran: what ran, `plain` or `quick`, with how many rows.
        prepared: rows of each preparation.
    """

    def __init__(self) -> None:
        self.plain_s: Callable[[int], float] = lambda rows: 1.0
        self.quick_s: Callable[[int], float] = lambda rows: 0.5
        self.error = 0.0
        self.fault: Exception | None = None
        self.ran: list[tuple[str, int]] = []
        self.prepared: list[int] = []
        self._clock = 0.0

    def plain(self, inputs: UNetInput) -> torch.Tensor:
        """Mixes all of a row's inputs, and nothing of another row's."""
        self.ran.append(("plain", inputs.rows))
        self._clock += self.plain_s(inputs.rows)
        told = inputs.timesteps + inputs.conditioning.text.mean((1, 2))
        for added in inputs.conditioning.added.values():
            told = told + added.sum(1)
        return inputs.latents * told[:, None, None, None]

    def prepare(self, forward: Forward, inputs: UNetInput) -> Forward:
        if self.fault is not None:
            raise self.fault
        rows, key = inputs.rows, inputs.key
        self.prepared.append(rows)

        def quick(inputs: UNetInput) -> torch.Tensor:
            assert (inputs.rows, inputs.key) == (rows, key), "prepared for other inputs"
            clock = self._clock
            output = forward(inputs) * (1 + self.error)
            self._clock = clock + self.quick_s(rows)
            self.ran[-1] = ("quick", rows)
            return output

        return quick

    def time_call(self, call: Callable[[], object]) -> float:
        began = self._clock
        call()
        return self._clock - began


def input_of(
    rows: int, shape: tuple[int, int] = SHAPE, *, conditioned: bool = False, tokens: int = 7
) -> UNetInput:
    random = torch.Generator().manual_seed(rows)
    return UNetInput(
        torch.randn(rows, 4, *shape, generator=random),
        torch.rand(rows, generator=random),
        Conditioning(
            torch.randn(rows, tokens, 8, generator=random),
            added={"more": torch.randn(rows, 6, generator=random)} if conditioned else {},
        ),
    )


@pytest.fixture
def workshop() -> Workshop:
    return Workshop()


@pytest.fixture
def forward(workshop: Workshop) -> Prepared:
    return Prepared(workshop.plain, workshop.prepare, workshop.time_call, when_idle=True)


def run(forward: Prepared, workshop: Workshop, inputs: UNetInput) -> tuple[str, int]:
    """What ran for this input; it gave what the plain forward gives."""
    output = forward(inputs)
    ran = workshop.ran[-1]
    assert torch.equal(output, workshop.plain(inputs))
    return ran


def test_what_was_not_prepared_runs_plainly(forward: Prepared, workshop: Workshop) -> None:
    assert run(forward, workshop, input_of(2)) == ("plain", 2)


@pytest.mark.parametrize("conditioned", [False, True])
def test_what_was_prepared_runs_so(forward: Prepared, workshop: Workshop, conditioned: bool) -> None:
    assert forward.prepare(input_of(8, conditioned=conditioned))
    assert run(forward, workshop, input_of(8, conditioned=conditioned)) == ("quick", 8)


@pytest.mark.parametrize("conditioned", [False, True])
@pytest.mark.parametrize(("rows", "padded"), [(1, 2), (3, 4), (5, 6), (9, 12), (13, 16), (17, 24), (70, 70)])
def test_fewer_rows_are_padded(
    forward: Prepared, workshop: Workshop, rows: int, padded: int, conditioned: bool
) -> None:
    forward.prepare(input_of(rows, conditioned=conditioned))
    assert run(forward, workshop, input_of(rows, conditioned=conditioned)) == ("quick", padded)


def test_padding_is_not_paid_for_where_it_may_cost_more_than_is_gained(
    forward: Prepared, workshop: Workshop
) -> None:
    workshop.quick_s = lambda rows: 0.8
    forward.prepare(input_of(12))
    assert run(forward, workshop, input_of(10)) == ("quick", 12)
    assert run(forward, workshop, input_of(9)) == ("plain", 9)


def test_another_size_is_another_forward(forward: Prepared, workshop: Workshop) -> None:
    forward.prepare(input_of(2))
    assert run(forward, workshop, input_of(2, (4, 8))) == ("plain", 2)


def test_texts_of_another_length_are_another_forward(forward: Prepared, workshop: Workshop) -> None:
    forward.prepare(input_of(2))
    assert run(forward, workshop, input_of(2, tokens=14)) == ("plain", 2)
    forward.prepare(input_of(2, tokens=14))
    assert run(forward, workshop, input_of(2, tokens=14)) == ("quick", 2)
    assert run(forward, workshop, input_of(2)) == ("quick", 2)


def test_one_that_is_slower_is_not_kept(forward: Prepared, workshop: Workshop) -> None:
    workshop.quick_s = lambda rows: 1.1
    assert not forward.prepare(input_of(4))
    assert run(forward, workshop, input_of(4)) == ("plain", 4)


@pytest.mark.parametrize("error", [0.02, float("nan"), float("inf")])
def test_one_that_is_wrong_is_not_kept(forward: Prepared, workshop: Workshop, error: float) -> None:
    workshop.error = error
    assert not forward.prepare(input_of(4))
    assert run(forward, workshop, input_of(4)) == ("plain", 4)


def test_where_it_did_not_pay_it_is_not_tried_with_more_to_do(forward: Prepared, workshop: Workshop) -> None:
    workshop.quick_s = lambda rows: 0.5 if rows < 8 else 2.0
    for rows in (2, 4, 8, 16):
        forward.prepare(input_of(rows))
    forward.prepare(input_of(4, (8, 8)))
    assert workshop.prepared == [2, 4, 8]
    assert forward.prepare(input_of(6))


def test_one_that_cannot_be_prepared_runs_plainly_and_is_not_tried_again(
    forward: Prepared, workshop: Workshop, caplog: pytest.LogCaptureFixture
) -> None:
    workshop.fault = RuntimeError("no compiler here")
    assert not forward.prepare(input_of(2))
    assert "no compiler here" in caplog.text
    caplog.clear()
    assert not forward.prepare(input_of(4))
    assert not caplog.records
    assert run(forward, workshop, input_of(2)) == ("plain", 2)


def test_a_shape_met_often_is_prepared_when_there_is_time(forward: Prepared, workshop: Workshop) -> None:
    while not forward.is_wanted:
        assert len(workshop.ran) < 1000
        assert run(forward, workshop, input_of(5)) == ("plain", 5)
    forward.prepare_wanted()
    assert run(forward, workshop, input_of(5)) == ("quick", 6)
    assert not forward.is_wanted


def test_one_drawing_of_a_shape_is_not_often(forward: Prepared, workshop: Workshop) -> None:
    for _ in range(30):
        forward(input_of(5))
    assert not forward.is_wanted


def test_what_takes_minutes_is_not_done_between_jobs(workshop: Workshop) -> None:
    forward = Prepared(workshop.plain, workshop.prepare, workshop.time_call, when_idle=False)
    for _ in range(1000):
        forward(input_of(5))
    assert not forward.is_wanted


def test_what_is_forgotten_runs_plainly(forward: Prepared, workshop: Workshop) -> None:
    forward.prepare(input_of(2))
    forward.forget()
    assert run(forward, workshop, input_of(2)) == ("plain", 2)


def test_the_longest_unused_gives_way(forward: Prepared, workshop: Workshop) -> None:
    forward.prepare(input_of(2, (4, 4)))
    for width in range(5, 60):
        forward.prepare(input_of(2, (4, width)))
        assert run(forward, workshop, input_of(2, (4, 4))) == ("quick", 2)
    assert run(forward, workshop, input_of(2, (4, 5))) == ("plain", 2)
    assert run(forward, workshop, input_of(2, (4, 59))) == ("quick", 2)
