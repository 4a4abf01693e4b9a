"""Which generations make the next step: never too many, one shape, short before long, and nobody starves."""

import math
import statistics
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdworker.engine.batch import choose, step_seconds, who_may_begin
from sdworker.engine.costs import StepCosts
from tests.engine.simulation import (
    CPU,
    LARGE_GPU,
    SHAPE,
    SMALL_GPU,
    Job,
    arrivals,
    first_come_first_served,
    led,
    simulate,
)

MACHINES = {"CPU": CPU, "small GPU": SMALL_GPU, "large GPU": LARGE_GPU}
on_every_machine = pytest.mark.parametrize("costs", MACHINES.values(), ids=MACHINES)


@st.composite
def waiting_jobs(draw: st.DrawFn) -> Job:
    job = Job(
        0.0,
        draw(st.integers(1, 100)),
        draw(st.integers(1, 40)),
        draw(st.sampled_from([SHAPE, (8, 8), (32, 16)])),
    )
    job.leads = tuple(
        led(net, rows=job.rows, now=draw(st.booleans()), evaluations=job.evaluations)
        for net in draw(st.sets(st.sampled_from(["edges", "depth"])))
    )
    job.evaluations_left = draw(st.integers(1, job.evaluations))
    job.age = draw(st.floats(0, 10))
    job.passed_over = draw(st.floats(0, job.age))
    return job


crowds = st.lists(waiting_jobs(), min_size=1, max_size=20)
machines = st.sampled_from(list(MACHINES.values()))


class TestOneStep:
    def test_nothing_waiting_makes_no_step(self) -> None:
        assert choose([], CPU) == []

    @given(crowds, machines)
    def test_it_never_has_more_rows_than_the_limit_unless_the_first_alone_has(
        self, waiting: list[Job], costs: StepCosts
    ) -> None:
        chosen = choose(waiting, costs)
        assert chosen
        assert sum(job.rows for job in chosen) <= costs.limit(chosen[0].group) or len(chosen) == 1

    @given(crowds, machines)
    def test_it_has_one_shape_and_nobody_twice(self, waiting: list[Job], costs: StepCosts) -> None:
        chosen = choose(waiting, costs)
        assert len({job.group for job in chosen}) == 1
        assert len({id(job) for job in chosen}) == len(chosen)
        assert all(job in waiting for job in chosen)

    @given(crowds, machines)
    def test_choosing_changes_nothing(self, waiting: list[Job], costs: StepCosts) -> None:
        before = [vars(job).copy() for job in waiting]
        first = choose(waiting, costs)
        assert [vars(job) for job in waiting] == before
        assert choose(waiting, costs) == first

    @given(crowds, machines)
    def test_with_more_waiting_than_fits_nobody_who_would_fit_is_left_out(
        self, waiting: list[Job], costs: StepCosts
    ) -> None:
        if sum(job.rows / costs.limit(job.group) for job in waiting) > 1:
            chosen = choose(waiting, costs)
            room = costs.limit(chosen[0].group) - sum(job.rows for job in chosen)
            left_out = [job for job in waiting if job not in chosen and job.group == chosen[0].group]
            assert all(job.rows > room for job in left_out)

    def test_equal_jobs_share_up_to_the_limit_in_order_of_arrival(self) -> None:
        jobs = [Job(0.0, 25) for _ in range(CPU.limit(SHAPE))]
        assert choose(jobs, CPU) == jobs[: CPU.limit(SHAPE) // 2]

    def test_the_one_with_the_least_work_left_comes_first(self) -> None:
        older, newer = Job(0.0, 50), Job(0.0, 20)
        assert choose([older, newer], CPU)[0] is newer
        older.evaluations_left = 3
        assert choose([older, newer], CPU)[0] is older

    def test_who_was_passed_over_for_long_comes_first_whatever_its_length(self) -> None:
        long, short = Job(0.0, 100), Job(0.0, 20)
        long.age = long.passed_over = 30.0
        assert choose([long, short], CPU)[0] is long

    def test_in_a_crowd_who_has_been_here_long_comes_first_whatever_its_length(self) -> None:
        long, *short = Job(0.0, 100), *(Job(0.0, 20) for _ in range(10))
        assert long not in choose([long, *short], CPU)
        long.age = 30.0
        assert choose([long, *short], CPU)[0] is long

    def test_a_picture_of_another_size_waits_for_a_step_of_its_own(self) -> None:
        small, large = Job(0.0, 10), Job(0.0, 10, group=(32, 32))
        assert choose([large, small], CPU) == [small]

    def test_a_much_longer_one_does_not_slow_a_short_one_on_hardware_that_two_rows_fill(self) -> None:
        short, long = Job(0.0, 10), Job(0.0, 50)
        assert choose([long, short], CPU) == [short]

    def test_a_much_longer_one_joins_where_its_rows_are_nearly_free(self) -> None:
        short, long = Job(0.0, 10), Job(0.0, 50)
        assert choose([long, short], LARGE_GPU) == [short, long]


class TestTextsOfDifferentLengths:
    def test_they_share_up_to_four_times_the_longest(self) -> None:
        short, double, triple = (Job(0.0, 20, text_length=77 * chunks) for chunks in (1, 2, 3))
        assert choose([short, double, triple], CPU) == [short, double, triple]

    def test_beyond_that_they_are_another_group(self) -> None:
        first, third, seventh = (Job(0.0, 20, text_length=77 * chunks) for chunks in (5, 3, 7))
        assert choose([first, third, seventh], CPU) == [first, third]
        assert choose([first, seventh], CPU) == [first]  # 35 is five times 7

    @given(crowds, machines, st.data())
    def test_what_is_chosen_can_always_be_tiled(
        self, waiting: list[Job], costs: StepCosts, data: st.DataObject
    ) -> None:
        for job in waiting:
            job.text_length = 77 * data.draw(st.integers(1, 10))
        lengths = [job.text_length for job in choose(waiting, costs)]
        assert math.lcm(*lengths) <= 4 * max(lengths)


class TestRowsThatControlNetsLead:
    def test_a_step_takes_its_nets_forwards_too_each_once_for_all_its_rows(self) -> None:
        plain, first, second = Job(0.0, 25), Job(0.0, 25, leads=(led("edges"),)), Job(0.0, 25, rows=4)
        second.leads = led("edges", rows=4), led("depth", rows=2)
        both = CPU.seconds(8, SHAPE) + (CPU.seconds(6, SHAPE) + CPU.seconds(2, SHAPE)) / 3
        assert step_seconds([plain, first, second], CPU) == pytest.approx(both)
        assert step_seconds([plain], CPU) == CPU.seconds(2, SHAPE)

    def test_a_net_that_does_not_count_just_now_costs_nothing_just_now(self) -> None:
        later = Job(0.0, 25, leads=(led("edges", now=False),))
        assert step_seconds([later], CPU) == CPU.seconds(2, SHAPE)

    def test_of_two_of_as_many_steps_the_one_without_is_the_shorter(self) -> None:
        with_net, plain = Job(0.0, 25, leads=(led("edges"),)), Job(0.0, 25)
        assert choose([with_net, plain], CPU) == [plain, with_net]

    def test_one_that_is_much_longer_by_its_nets_does_not_slow_a_short_one(self) -> None:
        short, longer = Job(0.0, 10), Job(0.0, 28)
        assert choose([longer, short], CPU) == [short, longer]
        longer.leads = (led("edges", evaluations=28),)
        assert choose([longer, short], CPU) == [short]

    def test_one_whose_net_would_run_for_it_alone_joins_later_than_one_whose_net_runs_anyway(self) -> None:
        """A forward of two rows costs such a card nearly what one of eight does."""
        short = Job(0.0, 10, leads=(led("edges", share=3.0, evaluations=10),))
        long = Job(0.0, 60, leads=(led("edges", share=3.0, evaluations=60),))
        assert choose([long, short], LARGE_GPU) == [short, long]
        long.leads = (led("depth", share=3.0, evaluations=60),)
        assert choose([long, short], LARGE_GPU) == [short]

    @on_every_machine
    def test_over_thousands_of_arrivals_nobody_starves(self, costs: StepCosts) -> None:
        jobs = arrivals(1000, 0.7, costs, seed=5, evaluations=[10, 25, 50], rows=[2, 2, 4])
        for number, job in enumerate(jobs):
            if number % 2:
                job.leads = (led("edges", rows=job.rows, evaluations=job.evaluations),)
        ours, fair = (
            [job.slowdown(costs) for job in simulate(jobs, costs, policy)]
            for policy in (choose, first_come_first_served)
        )
        assert statistics.mean(ours) < statistics.mean(fair)
        assert max(ours) < max(fair)


class TestOnlySomeCanHavePart:
    @given(crowds, machines, st.data())
    def test_the_others_never_do(self, waiting: list[Job], costs: StepCosts, data: st.DataObject) -> None:
        among = [job for job in waiting if data.draw(st.booleans())]
        chosen = choose(waiting, costs, among)
        assert all(job in among for job in chosen)
        assert bool(chosen) == bool(among)

    def test_those_who_cannot_make_it_a_crowd_all_the_same(self) -> None:
        long, *short = Job(0.0, 100), *(Job(0.0, 20) for _ in range(10))
        long.age = 30.0
        assert choose([long, *short], CPU, [long, short[0]])[0] is long
        assert choose([long, short[0]], CPU)[0] is short[0]


class TestWhoMayBegin:
    @given(crowds, machines)
    def test_who_lives_always_goes_on(self, waiting: list[Job], costs: StepCosts) -> None:
        assert who_may_begin(waiting, costs, free_bytes=0) == waiting

    def test_who_waits_needs_room(self) -> None:
        small, large = waiting(memory_bytes=5), waiting(memory_bytes=50)
        assert who_may_begin([large, small], CPU, free_bytes=49) == [small]
        assert who_may_begin([large, small], CPU, free_bytes=50) == [large, small]

    def test_behind_one_that_was_passed_over_for_long_nobody_begins(self) -> None:
        older, large, small, live = waiting(), waiting(memory_bytes=50), waiting(memory_bytes=5), Job(0.0, 20)
        large.passed_over = large.age = 30.0
        assert who_may_begin([older, large, small, live], CPU, free_bytes=49) == [older, live]
        assert who_may_begin([older, large, small, live], CPU, free_bytes=50) == [older, large, small, live]


def waiting(**attributes: int) -> Job:
    return Job(0.0, 20, is_live=False, **attributes)  # type: ignore[arg-type]


@on_every_machine
@pytest.mark.parametrize("done", [0.0, 0.1, 0.5, 0.8, 0.95])
class TestAShortJobAmongFourLongOnes:
    """It comes when they have done this part of their work."""

    @staticmethod
    def jobs(costs: StepCosts, done: float) -> tuple[list[Job], Job]:
        long = [Job(0.0, 50) for _ in range(4)]
        return long, Job(done * max(job.finished for job in simulate(long, costs)), 10)

    def test_it_takes_at_most_twice_as_long_as_alone(self, costs: StepCosts, done: float) -> None:
        """Or less than first come, first served, where the long ones are a crowd and nearly done."""
        long, short = self.jobs(costs, done)
        ours = simulate([*long, short], costs)[-1].slowdown(costs)
        theirs = simulate([*long, short], costs, first_come_first_served)[-1].slowdown(costs)
        assert ours <= 2.0 or (costs is not CPU and ours <= min(3.0, theirs))

    def test_no_long_one_takes_half_as_long_again(self, costs: StepCosts, done: float) -> None:
        long, short = self.jobs(costs, done)
        ours = simulate([*long, short], costs)[:-1]
        theirs = simulate([*long, short], costs, first_come_first_served)[:-1]
        assert all(a.latency <= 1.5 * b.latency for a, b in zip(ours, theirs, strict=True))


@cache
def unequal_slowdowns(costs: StepCosts, load: float) -> tuple[list[float], list[float]]:
    """Of very different jobs, from the least: with our choice, and first come, first served."""
    jobs = arrivals(
        3000, load, costs, seed=2, evaluations=[4, 10, 20, 25, 50, 100, 150], rows=[1, 2, 2, 2, 4, 8]
    )
    ours, fair = simulate(jobs, costs), simulate(jobs, costs, first_come_first_served)
    return sorted(job.slowdown(costs) for job in ours), sorted(job.slowdown(costs) for job in fair)


@on_every_machine
@pytest.mark.parametrize("load", [0.5, 0.8, 0.95])
class TestOverThousandsOfArrivals:
    """Poisson arrivals of very different jobs, against full batches in order of arrival."""

    def test_equal_jobs_fare_no_worse_than_first_come_first_served(
        self, costs: StepCosts, load: float
    ) -> None:
        jobs = arrivals(3000, load, costs, seed=1, evaluations=[25])
        ours, fair = simulate(jobs, costs), simulate(jobs, costs, first_come_first_served)
        assert max(a.latency / b.latency for a, b in zip(ours, fair, strict=True)) < 1.01

    def test_of_unequal_ones_the_typical_and_the_unlucky_fare_better(
        self, costs: StepCosts, load: float
    ) -> None:
        ours, fair = unequal_slowdowns(costs, load)
        assert statistics.mean(ours) < 0.9 * statistics.mean(fair)
        assert ours[int(0.99 * len(ours))] < 0.5 * fair[int(0.99 * len(fair))]

    def test_nobody_starves(self, costs: StepCosts, load: float) -> None:
        ours, fair = unequal_slowdowns(costs, load)
        assert ours[-1] < 0.5 * fair[-1]

    def test_long_jobs_pay_little_for_short_ones(self, costs: StepCosts, load: float) -> None:
        jobs = arrivals(3000, load, costs, seed=4, evaluations=[10, 50])
        ours, fair = simulate(jobs, costs), simulate(jobs, costs, first_come_first_served)
        ratios = sorted(a.latency / b.latency for a, b in zip(ours, fair, strict=True) if a.evaluations == 50)
        assert statistics.mean(ratios) < 1.3
        assert ratios[int(0.99 * len(ratios))] < 2.2


def test_a_stream_of_short_jobs_cannot_shut_out_a_long_one() -> None:
    """The stream alone fills the hardware for as long as it lasts."""
    step = SMALL_GPU.seconds(4, SHAPE)
    stream = [Job(at=number * 5 * step, evaluations=5, rows=4) for number in range(400)]
    long = Job(at=0.0, evaluations=50, rows=4)
    served = simulate([long, *stream], SMALL_GPU)[0]
    assert served.slowdown(SMALL_GPU) < 15
