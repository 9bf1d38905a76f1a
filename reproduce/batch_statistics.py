"""An experiment: do our nets score otherwise if BatchNorm uses each test batch's statistics, as it does in training?

SEActivation pools each map to one number before its BatchNorms, whose running statistics are then means over few
numbers. If they were the reason for its accuracy, the statistics of the batch would show it.
"""
import json

from engine.data import cifar, in_memory
from support import json_files
from support.errors import InputError
from support.files import write_whole
from support.json_files import COUNT, SHARE, TEXT
from support.tables import row, table

from . import ledger, publish

FILE = ledger.RESULTS / "batch_statistics.json"
SHAPE = {"name": TEXT, "data_sha256": TEXT, "images": COUNT, "batch": COUNT, "running": SHARE, "of_batch": SHARE}


def measure(data_dir=None):
    """Score our CIFAR weights in params/ in both ways; writes FILE. Whole batches of the test images count."""
    found = []
    for entry in publish.read_manifest():
        if publish.is_ours(entry) and entry["dataset"] != "imagenet":
            data = cifar.load(entry["dataset"], data_dir, entry["label_mode"])
            batch = min(in_memory.CPU_BATCH, len(data.test))
            images = len(data.test) // batch * batch
            test = in_memory.Split(data.test.images[:images], data.test.labels[:images])
            shares = {name: _accuracy(entry, test, batch, training)
                      for name, training in (("running", False), ("of_batch", True))}
            found.append({"name": entry["name"], "data_sha256": data.provenance["sha256"], "images": images,
                          "batch": batch, **shares})
    if not found:
        raise InputError("params/manifest.json has no CIFAR weights of ours")
    write_whole(FILE, json.dumps(found, indent=1) + "\n")


def _accuracy(entry, test, batch, training):
    from mxnet import autograd, nd

    from model import get_model, load_params

    net = get_model(entry["model"], **entry["arguments"])
    load_params(net, publish.MANIFEST.parent / entry["file"])
    right = 0
    for pixels, labels, _ in in_memory.EvalBatches(test, batch):
        with autograd.pause(train_mode=training):
            right += int((net(nd.array(pixels)).asnumpy().argmax(axis=1) == labels).sum())
    return round(right / len(test), 4)


def text():
    """The table of the last measurement."""
    found = json_files.read(FILE, [SHAPE], "restore it from the repository")
    rows = [[each["name"], f"{each['running']:.4f}", f"{each['of_batch']:.4f}"] for each in found]
    return (table(row(["weights", "running statistics", "statistics of the batch"]), rows)
            + f"\n\nAccuracy on {found[0]['images']:,} test images in batches of {found[0]['batch']}.")
