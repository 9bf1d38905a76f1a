"""The paper's questions: which evidence an answer rests on, image by image or over seeds, and how much it is worth."""
import dataclasses
import itertools
import json
import shutil

import numpy as np
import pytest
from test_report import RECORDS, TASK, cell, record

from reproduce import claims, evaluations, grid, ledger, report, scores
from reproduce.claims import FAILS, HOLDS, OPEN
from support import bits
from support.errors import InputError

SHIPPED = {grid.unit(run.cell): run for run in RECORDS if run.right is not None}


def known(unit, right, seed=0, **changes):
    """A record of a net that had these of 10,000 test images right; right: booleans or their number."""
    right = np.arange(10_000) < right if np.isscalar(right) else right
    return dataclasses.replace(record(cell(unit), float(np.mean(right)), seed, **changes), right=bits.packed(right))


def answered(runs, question, words):
    (protocol, found), = scores.by_protocol(runs).items()
    answer, = (each for each in claims.answers(protocol, found) if each.question == question and words in each.claim)
    return answer


@pytest.mark.parametrize("atac, relu, verdict", [
    ((.93,), (.90,), HOLDS), ((.90,), (.93,), FAILS), ((.905,), (.902,), OPEN),
    ((.91, .91, .911), (.90, .90, .901), HOLDS), ((.95, .85), (.90, .89), OPEN),
    ((.93,), (), OPEN)])
def test_is_one_net_above_another(atac, relu, verdict):
    runs = [record(cell("atac"), last, seed) for seed, last in enumerate(atac)]
    runs += [record(cell("relu"), last, seed) for seed, last in enumerate(relu)]
    assert answered(runs, "Q4", "ReLU (Table III").verdict == verdict


def test_one_depth_against_the_claim_is_enough():
    runs = [record(cell(unit, b), last) for unit, b, last in (
        ("atac", 1, .93), ("nin", 1, .90), ("atac", 2, .91), ("nin", 2, .94), ("atac", 3, .9))]
    answer = answered(runs, "Q2", "NiN")
    assert answer.verdict == FAILS and answer.missing == ("b = 3", "b = 4")
    assert answered(runs, "Q2", "LocalSENet").verdict == OPEN


@pytest.mark.parametrize("lasts, verdict", [
    ((.88, .89, .90, .91, .92), HOLDS), ((.88, .88, .88, .88, .92), HOLDS),
    ((.88, .91, .89, .90, .92), FAILS), ((.88, .89, .888, .90, .92), OPEN), ((.90, .90, .90, .90, .90), OPEN),
    ((.88, .89, .90, .91), OPEN)])
def test_does_accuracy_grow_with_replacement(lasts, verdict):
    cells = [grid.cell(TASK, "atac", 1, sites) for sites in grid.stage_counts(1)]
    runs = [record(each, last) for each, last in zip(cells, lasts)]
    assert answered(runs, "Q3", "b = 1").verdict == verdict


@pytest.mark.parametrize("atac, relu, verdict", [(.936, .936, HOLDS), (.94, .93, HOLDS),
                                                 (.935, .936, OPEN), (.90, .94, FAILS)])
def test_does_a_shallower_net_reach_a_deeper_one(atac, relu, verdict):
    runs = [record(cell("atac", 3), atac), record(cell("relu", 5), relu)]
    assert answered(runs, "Q4", "b = 3 reaches").verdict == verdict


# Image by image.

def test_a_pair_of_networks_is_judged_by_the_images_that_one_of_them_alone_had_right():
    """McNemar: 557 against 477 of 10,000 images, as the two shipped nets have them."""
    first, second = np.zeros((2, 10_000), bool)
    first[:557] = second[557:557 + 477] = True
    first[5000:], second[5000:] = True, True
    answer = answered([known("atac", first), known("relu", second)], "Q4", "ReLU (Table III")
    comparison, = answer.comparisons
    assert comparison.difference == pytest.approx(.008) and not comparison.of_methods
    assert comparison.margin == pytest.approx(2 * ((557 + 477 - 80 ** 2 / 10_000) ** .5) / 10_000)
    assert (comparison.paired.gained, comparison.paired.lost) == (557, 477) and answer.verdict == HOLDS
    assert str(comparison) == "b = 1: +0.0080 ± 0.0064 (557 images against 477)"
    assert str(answer) == "**holds** between these two networks"
    unknown = answered([record(cell("atac"), first.mean()), known("relu", second)], "Q4", "ReLU (Table III")
    assert unknown.verdict == OPEN and str(unknown.comparisons[0]).endswith("(not paired)")


def test_the_shipped_nets_are_compared_image_by_image():
    assert {"atac", "relu", "localsenet", "nin", "seactivation"} == set(SHIPPED)
    pairs = [pair for found in scores.by_protocol(SHIPPED.values()).values()
             for pair in itertools.combinations(found.values(), 2)]
    assert pairs
    for pair in pairs:
        comparison = claims.compare("b = 1", *pair)
        assert comparison.paired.gained - comparison.paired.lost == pytest.approx(10_000 * comparison.difference)
        assert comparison.paired.margin < comparison.spread


def test_with_several_seeds_the_spread_decides_and_the_pairs_are_beside_it():
    runs = [known("atac", count, seed) for seed, count in enumerate((9000, 9500))]
    runs += [known("relu", count, seed) for seed, count in enumerate((8900, 9050))]
    answer = answered(runs, "Q4", "ReLU (Table III")
    comparison, = answer.comparisons
    assert comparison.of_methods and comparison.margin == comparison.spread and answer.verdict == OPEN
    assert comparison.paired.margin < comparison.difference < comparison.margin
    assert "over 2 seeds, these networks ± " in str(comparison)
    assert str(answer) == "**undecided** between the methods"
    assert str(answered(runs[:-1], "Q4", "ReLU (Table III")) == "**holds** between these two networks"


# Which runs answer.

def test_each_claim_has_its_best_evidence():
    runs = [record(cell(unit), last, epochs=epochs) for epochs, unit, last in (
        (15, "atac", .80), (15, "relu", .70), (15, "nin", .70), (400, "atac", .93), (400, "relu", .90))]
    found = {answer.claim: protocol and protocol.epochs
             for answer, protocol in claims.conclusions(scores.by_protocol(runs))[TASK]}
    assert found["ATAC is above ReLU (Table III, Figure 7)"] == 400 and found["ATAC is above NiN (Table III)"] == 15
    assert found["ATAC is above SELU (Figure 7)"] is None
    text = report.conclusions_text(runs)
    assert "2 hold" in text and "No answer is about the methods yet" in text
    assert "Conditions, except where a row says others: 15 of 400 epochs; data: official." in text
    assert "(not paired); not run: b = 2, 3, 4 |" in text
    assert "(not paired); 400 epochs, as in the paper; data: official; not run: b = 2, 3, 4, 5 |" in text
    assert "\n\nConditions: 400 epochs, as in the paper; data: official.\n\n" in report.conclusions_text(runs[3:])
    assert text.count("SELU") == 1 and "Without runs so far: " in text
    assert "No runs on a whole training set so far: CIFAR-100, 20 superclasses" in text


def test_answers_about_the_methods_take_two_seeds_of_both_nets():
    runs = [record(cell(unit), last, seed) for seed in (0, 1) for unit, last in (("atac", .93), ("relu", .90))]
    text = report.conclusions_text(runs)
    assert "| **holds** between the methods | b = 1: +0.0300 ± " in text
    assert "No answer is about the methods yet" not in text
    assert "No answer is about the methods yet" in report.conclusions_text(runs[:3])


def test_of_two_protocols_of_one_length_the_one_with_more_runs_comes_first():
    runs = [record(cell("atac"), .8), *(record(cell("atac"), .7, seed, data="jpeg") for seed in range(3))]
    assert [len(found[cell("atac")].records) for found in scores.by_protocol(runs).values()] == [3, 1]


# The evidence of a published run.

def evaluated(tmp_path, **changes):
    """The folder of a shipped net's record, with changes in its first evaluation."""
    run = SHIPPED["atac"]
    place = tmp_path / "runs" / run.id
    shutil.copytree(ledger.folder_of(run.id), place)
    found = json.loads((place / evaluations.FILE).read_text())
    found[0].update(changes)
    (place / evaluations.FILE).write_text(json.dumps(found))
    return place


def test_a_record_without_known_images_is_read(tmp_path):
    place = evaluated(tmp_path)
    found = json.loads((place / evaluations.FILE).read_text())
    del found[0]["right"]
    (place / evaluations.FILE).write_text(json.dumps(found))
    assert ledger.read_record(place).right is None
    (place / evaluations.FILE).unlink()
    assert ledger.read_record(place).right is None


@pytest.mark.parametrize("right, said", [
    ("", "it does not hold 10,000 bits"), ("*", "it is no base64"), (3, "right is not text"),
    (bits.packed(np.ones(10_000)),
     f"right has 10,000 images, and the record {10_000 * SHIPPED['atac'].result.last.accuracy:,.0f};"),
    (bits.packed(np.ones(10_008)), "it does not hold 10,000 bits")],
    ids=["empty", "not base64", "number", "all", "longer"])
def test_images_that_the_record_contradicts_are_refused(tmp_path, right, said):
    with pytest.raises(InputError, match="evaluations.json cannot be used: ") as error:
        ledger.read_record(evaluated(tmp_path, right=right))
    assert said in str(error.value)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 1017])
def test_bits_come_back(count):
    flags = np.random.RandomState(count).rand(count) < .5
    assert (bits.unpacked(bits.packed(flags), count) == flags).all()
    with pytest.raises(InputError, match="does not hold"):
        bits.unpacked(bits.packed(flags), count + 8)
