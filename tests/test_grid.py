"""The paper's experiments as data: how many there are, what is shared, and that every net is the paper's."""
import functools
import json
from pathlib import Path

import pytest

from engine.recipe import CIFAR_PAPER
from model import get_model
from model.complexity import conventions, count, nearest
from reproduce import grid
from support.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "paper" / "tables.json"

# Total and trainable parameters with 10 classes, b = 1 to 5 (specification, section 1).
RELU = ((78342, 77850), (176006, 175066), (273670, 272282), (371334, 369498), (468998, 466714))
ATAC = ((90790, 89578), (200550, 198218), (310310, 306858), (420070, 415498), (529830, 524138))
TOTALS = {
    **dict.fromkeys(("relu", "selu", "swish", "gelu"), [total for total, _ in RELU]),
    "prelu": [total + 6 * b + 1 for b, (total, _) in enumerate(RELU, 1)],
    **dict.fromkeys(("atac", "seactivation", "nin"), [total for total, _ in ATAC]),
    "localsenet": [89990, 199302, 308614, 417926],
    "xunit": [99942, 217766, 335590, 453414, 571238],
    "senet": [79133, 177588, 276043, 374498, 472953],
    "genet": [107462, 234246, 361030, 487814, 614598],
}
TRAINABLE = {"relu": RELU, "atac": ATAC, "localsenet": [(0, 89050), (0, 197466), (0, 305882), (0, 414298)]}
REPLACED = {
    1: {1: 82822, 3: 88518, 5: 90086, 7: 90790},
    3: dict(enumerate((273670, 278150, 282630, 287110, 291590, 296070, 300550, 301766, 302982, 304198, 305414, 306630,
                       307846, 308198, 308550, 308902, 309254, 309606, 309958, 310310))),
}


def of_paper(exhibit):
    return [entry for entry in exhibit.entries if not entry.extra]


def test_the_grid_is_the_papers():
    sizes = {name: len(of_paper(exhibit)) for name, exhibit in grid.EXHIBITS.items()}
    assert sizes == {"table3": 5 * 4 * 2, "fig6": (8 + 20) * 2, "fig7": 5 * 5 * 2, "fig8": 4 * 5 * 2}
    assert len(grid.TABLE4) == 6
    for exhibit in grid.EXHIBITS.values():
        assert all(entry.cell.data_name == grid.FINE or entry.row in ("GELU", "PReLU")
                   for entry in exhibit.entries if entry.extra)
        assert len({(entry.row, entry.cell) for entry in exhibit.entries}) == len(exhibit.entries)


def test_shared_cells_are_one():
    assert len({grid.key(cell) for cell in grid.CELLS}) == len(grid.CELLS)
    shown = {entry.cell for exhibit in grid.EXHIBITS.values() for entry in of_paper(exhibit)}
    # Table III's 20 nets, then what Figures 7 and 8 add (the ReLU and ATAC nets of b = 5 too), then Figure 6's steps.
    assert len(shown) == 2 * (20 + (2 + 3 * 5) + 2 * 5 + (6 + 18))
    assert len(grid.CELLS) == 3 * (20 + (2 + 3 * 5) + 2 * 5 + (6 + 18) + 2 * 5)
    ends = {entry.cell for entry in grid.FIG6.entries if entry.row in ("0 of 7 sites", "7 of 7 sites")}
    assert ends <= {entry.cell for entry in grid.TABLE3.entries}


def test_every_cell_has_the_papers_recipe_and_head():
    for cell in grid.CELLS:
        assert cell.recipe == CIFAR_PAPER
        assert cell.net["classes"] == (10 if cell.dataset == "cifar10" else 100)
        assert grid.run(cell, 400, 0) == cell
    assert grid.run(cell, 20, 0).recipe.lr_decay_epochs == (15, 17)


@functools.lru_cache(maxsize=None)
def counted(cell):
    return count(get_model(cell.model, **cell.net))


@pytest.mark.parametrize("cell", [cell for cell in grid.CELLS if cell.data_name == grid.CIFAR10], ids=grid.key)
def test_every_net_has_the_specified_parameters(cell):
    complexity, unit, sites = counted(cell), grid.unit(cell), cell.net.get("replaced_sites")
    if sites is None:
        assert complexity.total == TOTALS[unit][cell.blocks - 1]
        if unit in TRAINABLE:
            assert complexity.trainable == TRAINABLE[unit][cell.blocks - 1][1]
        return
    if sites in REPLACED[cell.blocks]:
        assert complexity.total == REPLACED[cell.blocks][sites]
    else:  # b = 1 between the stages: one unit more than the step before, of C^2 + 6C numbers
        before = counted(grid.cell(grid.CIFAR10, "atac", cell.blocks, sites - 1)).total
        assert complexity.total - before in (16 ** 2 + 6 * 16, 32 ** 2 + 6 * 32, 64 ** 2 + 6 * 64)


def test_a_head_of_100_adds_what_it_should():
    cell, = (cell for cell in grid.CELLS if grid.key(cell) == "cifar100-coarse-b3-relu")
    assert count(get_model(cell.model, **cell.net)).total == 273670 + 5850


@pytest.mark.parametrize("blocks", [1, 3])
def test_whole_stages_are_the_authors(blocks):
    for layers, sites in enumerate(grid.stage_counts(blocks)):
        cell = grid.cell(grid.CIFAR10, "atac", blocks, sites)
        stages = get_model("atac_resnet20_v2", blocks=blocks, act_layers=layers)
        assert count(get_model(cell.model, **cell.net)).total == count(stages).total
    assert sum("stagewise" in entry.tags for entry in grid.FIG6.entries
               if entry.cell.data_name == grid.CIFAR10 and entry.cell.blocks == blocks) == 5


# Table IV: parameters in millions (total, trainable), billions of multiply-adds on the v1b host, the specification's
# numbers; and which of our counts the paper's two columns are.
TABLE4 = {
    "ResNet-50": (25.610, 25.557, 4.089, "total and trainable", "v1 MACs"),
    "SE-ResNet-50": (28.141, 28.088, 4.092, "total and trainable", "v1 MACs"),
    "AA-ResNet-50": (25.867, 25.814, 4.215, "trainable", "2 x v1b MACs"),
    "FA-ResNet-50": (18.084, 18.031, 3.526, "trainable", "2 x v1b MACs"),
    "GE-theta-plus-ResNet-50": (33.721, 33.638, 4.097, "total", "v1 MACs"),
    "ATAC-ResNet-50": (28.006, 27.935, 4.398, "total", "v1b MACs")}


@pytest.mark.parametrize("row", grid.TABLE4)
def test_the_nets_of_table_iv(row):
    total, trainable, macs, it_is, convention = TABLE4[row]
    model, published = grid.TABLE4[row]
    found = conventions(model, get_model)
    assert found.total / 1e6 == pytest.approx(total, abs=6e-4)
    assert found.trainable / 1e6 == pytest.approx(trainable, abs=6e-4)
    assert found.giga["v1b MACs"] == pytest.approx(macs, abs=1e-3)
    assert nearest(str(published["params_m"]), {"total": found.total / 1e6,
                                                "trainable": found.trainable / 1e6}) == it_is
    assert nearest(str(published["gflops"]), found.giga) == convention


def test_published_numbers_stand_with_their_cells():
    assert len(grid.PUBLISHED) == 40
    assert grid.PUBLISHED[grid.cell(grid.CIFAR10, "atac", 3)] == .936
    assert grid.PUBLISHED[grid.cell(grid.COARSE, "relu", 4)] == .806
    assert all(cell.data_name != grid.FINE for cell in grid.PUBLISHED)


@pytest.mark.skipif(not SHARED.exists(), reason="the paper's tables are not beside this checkout")
def test_published_numbers_are_the_papers():
    paper = json.loads(SHARED.read_text(encoding="utf-8"))
    for table in ("table3", "table4"):
        assert grid.PAPER[table] == paper[table]


def selected(name, *only, extras=False):
    return [grid.key(entry.cell) for entry in grid.select(grid.EXHIBITS[name], only, extras)]


def test_select():
    assert selected("table3", "cifar10/atac/b1") == ["cifar10-b1-atac"]
    assert selected("table3", "CIFAR10/b2/nin", "cifar100/b2/nin") == ["cifar10-b2-nin", "cifar100-coarse-b2-nin"]
    assert selected("fig6", "cifar10/stagewise/b1") == [
        "cifar10-b1-relu", "cifar10-b1-atac-replaced_sites1", "cifar10-b1-atac-replaced_sites3",
        "cifar10-b1-atac-replaced_sites5", "cifar10-b1-atac"]
    assert selected("fig7", "gelu/b1/cifar10", extras=True) == ["cifar10-b1-gelu"]
    assert len(selected("table3", extras=True)) == 60
    assert selected("table3", "fine/atac/b1", extras=True) == ["cifar100-fine-b1-atac"]


@pytest.mark.parametrize("name, only, said", [
    ("table3", "cifar10/gelu", "table3 has no 'gelu'; the words are atac, b1"), ("fig7", "gelu", "add --extras"),
    ("table3", "cifar10/cifar100", "leaves nothing of table3")])
def test_select_refuses(name, only, said):
    with pytest.raises(InputError, match=said):
        selected(name, only)
