"""The grammar of `schedule`, and what a schedule is worth where."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wanvideo_activation_editor.patching.schedule import Schedule, ScheduleError, parse_schedule

UNIT = st.floats(0, 1)


@st.composite
def schedules(draw) -> Schedule:
    places = sorted(draw(st.sets(UNIT, max_size=6)))
    return Schedule(tuple((place, draw(UNIT)) for place in places))


@given(schedules())
def test_what_a_schedule_prints_parses_to_it(schedule):
    assert parse_schedule(str(schedule)) == schedule


@given(schedules(), UNIT)
def test_the_multiplier_lies_between_those_of_the_neighbouring_points(schedule, progress):
    value = schedule.at(progress)
    if not schedule.points:
        assert value == 1
        return
    before = [m for p, m in schedule.points if p <= progress + 4e-3][-1:] or [schedule.points[0][1]]
    after = [m for p, m in schedule.points if p >= progress - 4e-3][:1] or [schedule.points[-1][1]]
    near = [m for p, m in schedule.points if abs(p - progress) <= 4e-3]
    low, high = min(before + after + near), max(before + after + near)
    assert low - 1e-9 <= value <= high + 1e-9


@given(schedules())
def test_at_a_point_it_is_the_points_own(schedule):
    assert all(schedule.at(place) == value for place, value in schedule.points)


def test_lines_and_ends():
    schedule = parse_schedule(" 0.2:0.2, .6:1 0.8:0 ")
    assert [round(schedule.at(p), 9) for p in (0, 0.2, 0.4, 0.6, 0.7, 0.8, 1)] == [0.2, 0.2, 0.6, 1, 0.5, 0, 0]
    assert not schedule.is_constant and parse_schedule("").is_constant and parse_schedule("0:1, 0.5:1").is_constant
    assert not parse_schedule("0.5:0.4").is_constant and parse_schedule("0.5:0.4").at(0.9) == 0.4


def test_noise_levels_that_are_rounded_reach_a_point():
    assert parse_schedule("0:0, 0.5:1").at(1e-9) == 0 and parse_schedule("0:0, 0.5:1").at(0.4969) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.5", r"position 1: '0.5' is no point; write progress:multiplier"),
        ("0:1, x:2", r"position 6: 'x:2' is no point"),
        ("0:1:1", r"is no point"),
        ("0:-1", r"is no point"),
        ("0:1, 2:1", r"position 6: '2:1' has a number outside 0 to 1"),
        ("0:1.5", r"outside 0 to 1"),
        ("0.5:1, 0.5:0", r"position 8: '0.5:0' does not come after 0.5; progress has to rise"),
    ],
)
def test_what_cannot_be_read_is_named(text, message):
    with pytest.raises(ScheduleError, match=message):
        parse_schedule(text)


@pytest.mark.parametrize("points", [((0.5, 1), (0.2, 1)), ((0.0, float("nan")),), ((0.0, 1.2),)])
def test_points_are_checked_where_no_text_was_parsed(points):
    with pytest.raises(ValueError, match="schedule"):
        Schedule(points)
