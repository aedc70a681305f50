"""The table of other systems: pairs are taken within a round, and few of them decide nothing."""

from __future__ import annotations

from benchmarks.peer_table import Interval, columns, differing, ratio, table


def run(prefill: float, step: float | None = None, **more: object) -> dict[str, object]:
    found: dict[str, object] = {"first": {"8": 1}, "prefill": {"8": prefill}, "ready": 1.0, "peak_bytes": 2**30, **more}
    return found | ({"step": step, "tokens": [1, 2]} if step is not None else {})


def test_ratios_are_of_runs_in_the_same_round_and_the_same_form() -> None:
    rounds = [
        {"cgptc-f32": run(1.0, 2.0), "cgptc-int8": run(0.1, 0.1), "a-f32": run(2.0, 3.0)},
        {"cgptc-f32": run(10.0, 20.0), "a-f32": run(20.0, 30.0), "b-f32": run(5.0)},
        {"a-f32": run(1.0, 1.0)},
    ]
    assert ratio(rounds, "a-f32", "prefill 8") == Interval(2.0, 2.0, 2.0, 2)
    assert ratio(rounds, "a-f32", "decode") == Interval(1.5, 1.5, 1.5, 2)
    assert ratio(rounds, "b-f32", "decode") is None
    assert columns(rounds[1]["b-f32"]) == {"prefill 8": 5.0}


def test_a_target_is_met_or_missed_by_a_whole_interval_of_enough_pairs() -> None:
    assert Interval(1.4, 1.3, 1.5, 20).verdict(1.3) == "met"
    assert Interval(1.2, 1.1, 1.29, 20).verdict(1.3) == "missed"
    assert Interval(1.4, 1.2, 1.5, 20).verdict(1.3) == "not resolved"
    assert Interval(1.4, 1.3, 1.5, 19).verdict(1.3) == "not resolved"


def test_the_nearest_system_is_what_a_target_is_held_against() -> None:
    beside = {"bandwidth": 10.0}
    rounds = [{"cgptc-f32": run(1.0, 2.0, **beside), "a-f32": run(2.0, 3.0), "b-f32": run(1.5)}] * 20
    text = table(rounds, ["cgptc-f32", "a-f32", "b-f32"], {"f32": 19}, {"cgptc-f32": 0.0})
    assert "f32 prefill 8: ×1.50 [1.50, 1.50] of the best, b (20 pairs), target 1.3: met." in text
    assert "f32 decode: ×1.50 [1.50, 1.50] of the best, a (20 pairs), target 1.0: met." in text
    assert "f32 decode reaches 0.95 [0.95, 0.95] of the bandwidth" in text
    assert "| a f32 | 2000 · ×2.00 [2.00, 2.00], 20 |" in text


def test_other_greedy_tokens_are_told() -> None:
    rounds = [{"cgptc-f32": run(1.0, 2.0), "a-f32": run(1.0, 2.0), "b-f32": run(1.0) | {"first": {"8": 7}}}]
    assert differing(rounds) == ["b-f32"]


def test_losses_alone_are_a_table_of_systems_by_form() -> None:
    text = table([], ["cgptc-f32", "cgptc-int8", "a-int8"], {}, {"cgptc-f32": 0.0, "cgptc-int8": 1.0, "a-int8": 2.0})
    assert text.splitlines()[0] == "| perplexity | f32 | int8 |"
    assert text.splitlines()[2:] == ["| cgptc | 1.000 | 2.718 |", "| a |  | 7.389 |"]
