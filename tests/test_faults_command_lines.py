"""Flags with odd values: every flag of every command, and a real command."""
import pytest
from faults import command_lines, suite


@pytest.mark.parametrize("program", command_lines.PROGRAMS, ids=lambda program: program.name)
def test_every_flag_with_every_odd_value_is_taken_or_one_sentence(program):
    outcomes = {}
    for front, action, spelling in command_lines.flags_of(program):
        for value in ([None] if spelling else []) + [*command_lines.VALUES]:
            with command_lines.bounded():
                outcome, detail = command_lines.parsed(program, front, action, spelling, value)
            assert outcome != suite.FAULT, (spelling, value, detail)
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
    assert outcomes["refused"] > 50 and outcomes["taken"]


def test_a_wrong_flag_of_a_real_command_is_answered_at_once(tmp_path):
    program, = (program for program in command_lines.PROGRAMS if program.name == "engine.data")
    for words in (["--batch-size", "0"], ["--timeout", "nan"], ["--data-dir", ""], ["--workers", "9" * 30]):
        status, err, seconds = command_lines.started(program, words, {}, tmp_path, 60)
        assert status == 2 and command_lines.one_sentence(err)[0] == "refused" and words[0] in err
        assert seconds < 20  # a second, on a machine that does nothing else
