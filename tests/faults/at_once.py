"""Several processes at the same thing: runs in one folder, writers of one ledger or manifest, one file to download."""
import hashlib
import json
import os
import random
import shutil
import sys
import time
from pathlib import Path

from . import killed, small_runs, starter
from .suite import FAULT, Case, Round, Theme

import http_files  # isort: skip - found by this package
from engine.data import download  # isort: skip
from reproduce import ledger, publish  # isort: skip
from support.errors import InputError  # isort: skip

RUNS, LEDGERS, PUBLISHERS, DOWNLOADS = ("two runs in one folder", "several writers of one ledger",
                                        "several publishers of weights", "several downloads of one file")
COUNT = 6  # runs that go into a ledger
CONTENT = 30_000_000  # bytes of a download
SOON = .15  # seconds until all have been started and begin


class Crowds:
    """Starts several processes at once and looks at what they leave."""

    def __init__(self, folder, seed, epochs):
        self.folder, self.setting = folder, small_runs.Setting(folder / "setting", epochs)
        self.setting.expected  # noqa: B018 - makes the run
        self.sources = [folder / "sources" / str(number) for number in range(COUNT)]
        self.others = [folder / "others" / str(number) for number in range(COUNT)]  # of the same names, but other runs
        for number in range(COUNT):
            killed.copy_of_run(self.setting.folder / "undisturbed" / "run", self.sources[number], number)
            killed.copy_of_run(self.sources[number], self.others[number], number)
            metrics = self.others[number] / "metrics.jsonl"
            metrics.write_text(metrics.read_text().replace('"lr": ', '"lr": 1'))
        self.content = random.Random(seed).getrandbits(8 * CONTENT).to_bytes(CONTENT, "little")
        self.ledger_alone = self.made("add_all", [self.order()])
        self.published_alone = self.made("publish_all", [self.order()])

    def order(self, rng=None, sources=None):
        places = [str(place) for place in sources or self.sources]
        if rng is not None:
            rng.shuffle(places)
        return places

    def made(self, function, orders):
        """The files that calls with some orders of the runs, all started at once, make; InputError where one fails."""
        place = self.folder / function
        shutil.rmtree(place, ignore_errors=True)
        for number in range(len(orders)):
            (self.folder / f"output-{number}").unlink(missing_ok=True)
        begin = time.time() + SOON
        children = [starter.shared().start(f"{__package__}.at_once:{function}", begin, order, str(place),
                                           output=self.folder / f"output-{number}")
                    for number, order in enumerate(orders)]
        failed = [number for number, child in enumerate(children) if child.wait()]
        for number in failed:
            raise InputError(f"{function} ended with {children[number].status}: "
                             f"{small_runs.last_line((self.folder / f'output-{number}').read_text())}")
        return killed.files_in(place)

    def runs(self, rng, said):
        place = self.folder / "runs"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        if rng.random() < .5:  # of a run that had begun
            child = starter.shared().start("train_cifar:main", *self.setting.command("--save-interval", "1"),
                                           folder=place)
            while not child.ended() and not (place / "run" / "last.params").exists():
                time.sleep(.005)
            child.kill()
            said += ", both resume it"
        wait = rng.choice((0, rng.uniform(0, 1.5)))
        outputs = [place / "first", place / "second"]
        children = []
        for output in outputs:
            children.append(starter.shared().start("train_cifar:main", *self.setting.command(), folder=place,
                                                   output=output))
            time.sleep(wait if len(children) == 1 else 0)
        said += f", the second {wait:.2f} s later"
        statuses = [child.wait() for child in children]
        lasts = [small_runs.last_line(output.read_text(errors="replace")) for output in outputs]
        refused = [number for number in (0, 1) if statuses[number] == 1]
        if sorted(statuses) == [0, 0] and "resuming from" in outputs[1].read_text():
            outcome = "one after the other"
        elif len(refused) != 1 or sorted(statuses) != [0, 1]:
            return FAULT, f"{said}: they ended with {statuses}: {lasts}"
        elif f" process {children[1 - refused[0]].number};" not in lasts[refused[0]] \
                and "run already" not in lasts[refused[0]]:  # it had ended just then
            return FAULT, f"{said}: the refusal is {lasts[refused[0]]!r}"
        else:
            outcome = "one trains, the other is refused"
        wrong = small_runs.wrong_in(place / "run") or small_runs.difference(place / "run", self.setting.expected)
        log = (place / "run" / "train.log").read_text()
        scored = [line.partition("[Epoch ")[2] for line in log.splitlines() if "] train=" in line]
        if not wrong and len(scored) != self.setting.epochs:
            wrong = f"train.log tells of {len(scored)} epochs"
        return (FAULT, f"{said}: {wrong}") if wrong else (outcome, said)

    def ledgers(self, rng, said):
        orders = [self.order(rng) for _ in range(rng.choice((2, 3, 4)))]
        said += f", {len(orders)} writers"
        if rng.random() < .5:
            return self.compared(self.made("add_all", orders), self.ledger_alone, said)
        return self.contested(rng, orders[0], f"{said}, two of which have other runs of the same names")

    def contested(self, rng, order, said):
        """Two writers with other runs of the same names, in the same order: each name goes to one of them, wholly."""
        self.made("add_what_is_free", [order, [place.replace("sources", "others") for place in order]])
        results = self.folder / "add_what_is_free"
        records = ledger.read(results)
        mixed = [record.id for record in records for name in ledger.EVIDENCE
                 if ledger.sha256(ledger.folder_of(record.id, results) / name) != record.files[name]]
        told = sum((self.folder / f"output-{number}").read_text().count("already holds the record of another run")
                   for number in (0, 1))
        if mixed or len(records) != COUNT or told != COUNT:
            return FAULT, f"{said}: {len(records)} records, {told} refusals, not of one run: {mixed}"
        return "each name went to one of them, wholly", said

    def publishers(self, rng, said):
        writers, order = rng.choice((2, 3)), self.order(rng)
        found = self.made("publish_all", [order[number::writers] for number in range(writers)])
        return self.compared(found, self.published_alone, f"{said}, {writers} publishers")

    def compared(self, found, alone, said):
        odd = sorted(name for name in {*found, *alone} if found.get(name) != alone.get(name))
        return (FAULT, f"{said}: other than from one alone: {odd[:4]}") if odd else ("as from one alone", said)

    def downloads(self, rng, said):
        place = self.folder / "download"
        shutil.rmtree(place, ignore_errors=True)
        count = rng.choice((2, 3, 5))
        with http_files.serve(self.content) as site:
            begin, digest = time.time() + SOON, hashlib.sha256(self.content).hexdigest()
            for number in range(count):
                (self.folder / f"output-{number}").unlink(missing_ok=True)
            children = [starter.shared().start(
                f"{__package__}.at_once:fetch", begin + rng.choice((0, 0, .03)), site.url, str(place / "file"), digest,
                output=self.folder / f"output-{number}") for number in range(count)]
            statuses = [child.wait() for child in children]
            asked = len(site.requests)
        said += f", {count} downloads"
        outputs = [(self.folder / f"output-{number}").read_text().strip().splitlines()[-1:] for number in range(count)]
        if any(statuses) or (place / "file").read_bytes() != self.content or os.listdir(place) != ["file"]:
            return FAULT, f"{said}: they ended with {statuses}: {outputs}; {os.listdir(place)}"
        if asked != 1:
            return FAULT, f"{said}: it was asked for {asked} times"
        return "fetched once, found by the others", said


def wait_until(begin):
    time.sleep(max(0, begin - time.time()))


def add_all(begin, folders, results):
    """In a process of its own: put finished runs into a ledger."""
    wait_until(begin)
    killed.add_all(folders, results)


def add_what_is_free(begin, folders, results):
    """In a process of its own: the same, but those whose names are taken."""
    wait_until(begin)
    for folder in folders:
        try:
            ledger.add(Path(folder), Path(results))
        except InputError as error:
            print(error)


def fetch(begin, url, path, digest):
    """In a process of its own: a download."""
    wait_until(begin)
    os.environ["no_proxy"] = "127.0.0.1"
    try:
        download.fetch(url, path, sha256=digest, progress=False)
    except InputError as error:
        sys.exit(f"fetch: {error}")


def publish_all(begin, folders, place):
    """In a process of its own: publish finished runs, in a folder in the place of the repository's, without scoring."""
    place = Path(place)
    publish.ROOT, publish.MANIFEST, ledger.RESULTS = place, place / "params" / "manifest.json", place / "results"
    publish.MANIFEST.parent.mkdir(parents=True, exist_ok=True)

    def score(file, data_dir):
        found = {"top1": record["last"]["accuracy"], "images": record["last"]["images"], "sha256": ledger.sha256(file)}
        return {**found, "data_sha256": ""}

    publish.score = score
    wait_until(begin)
    try:
        for folder in map(Path, folders):
            record = json.loads((folder / "result.json").read_text())
            publish.publish(folder, f"seed-{record['experiment']['seed']}")
    except InputError as error:
        sys.exit(f"publish: {error}")


def run(rounds, seed, folder, epochs=3):
    crowds = Crowds(folder, seed, epochs)
    kinds = [(RUNS, crowds.runs), (LEDGERS, crowds.ledgers), (PUBLISHERS, crowds.publishers),
             (DOWNLOADS, crowds.downloads)]
    for number in range(rounds):
        case, tried = kinds[number % len(kinds)]
        try:
            yield Round(case, *tried(random.Random(f"{seed}/at_once/{number}"), f"round {number}"))
        except InputError as error:
            yield Round(case, FAULT, f"round {number}: {error}")


THEME = Theme("at_once", "Two at the same thing", 200, (
    Case(RUNS, "one trains and gives the same bits as alone; the other, new or resumed, is refused with the first "
         "one's process number", "disks without locks"),
    Case(LEDGERS, "they wait for each other and make the ledger that a single writer makes; of two runs with one name "
         "the first is in it, whole, and the second is refused", "the same"),
    Case(PUBLISHERS, "the same, for params/ and its manifest", "the same"),
    Case(DOWNLOADS, "one fetches; the others say that they wait, and find the file", "the same"),
), run)
