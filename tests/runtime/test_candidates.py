"""What tuning tries on a CPU."""

from __future__ import annotations

from nncompile import Plan
from nncompile_runtime.candidates import variations, ways
from nncompile_runtime.machine import this_machine
from nncompile_runtime.plan import plain_plan

PLAIN = plain_plan(this_machine())


class TestCandidates:
    def test_ways(self) -> None:
        plans = ways(PLAIN, 8, 32, native=True, cut=True)
        assert {plan.threads for plan in plans if plan.workers == 1 and plan.micro_batch is None} == {
            1,
            2,
            4,
            8,
        }
        assert {plan.micro_batch for plan in plans if plan.workers == 8} == {4, 16}
        assert {plan.native for plan in plans} == {True, False}
        assert all(plan.threads * plan.workers <= 8 for plan in plans if plan.workers > 1)

    def test_nothing_is_cut_that_must_not_be(self) -> None:
        assert {plan.micro_batch for plan in ways(PLAIN, 8, 32, native=False, cut=False)} == {None}

    def test_without_kernels_there_is_nothing_to_try_with_them(self) -> None:
        assert {plan.native for plan in ways(PLAIN, 8, 32, native=False, cut=True)} == {False}

    def test_what_the_native_kernels_choose_is_varied_where_it_matters(self) -> None:
        def splits(best: Plan, batch: int, *, native: bool = True) -> list[int]:
            settings = variations(best, convolutions=False, native=native, batch=batch)
            assert all(one.lanes and one.winograd == "auto" for one in settings)
            return [one.split for one in settings if one.split is not None]

        four = Plan(threads=4)
        assert splits(four, 1) == splits(four, 3) == [50_000, 800_000]
        assert splits(four, 4) == splits(Plan(), 1) == splits(four, 1, native=False) == []
        assert splits(four.model_copy(update={"micro_batch": 2}), 64) == [50_000, 800_000]

    def test_variations_change_one_thing(self) -> None:
        best = Plan(threads=2, native=False)
        changed = [
            set(Plan.model_fields) - {f for f in Plan.model_fields if getattr(v, f) == getattr(best, f)}
            for v in variations(best, convolutions=True)
        ]
        assert {"spinning"} in changed
        assert {"pointwise_channels"} in changed
        assert {"blocked_layout"} in changed
        assert all(len(fields) <= 2 for fields in changed)
        spinners = {"spinning", "spin_microseconds", "dynamic_block_base"}
        alone = variations(Plan(threads=1), convolutions=False)
        assert all(getattr(v, field) == getattr(Plan(), field) for v in alone for field in spinners)
