"""What the training scripts share: from parsed flags to a run under way, and from its end to the exit status.

A script brings what is its own: its settings, its data and, since the engine knows no networks, the package `model`.
"""
import contextlib
import dataclasses
import logging
import os
import shlex
import sys
from pathlib import Path
from typing import Any, Optional

from support import runtime
from support.errors import InputError
from support.files import expanded
from support.lock import locked
from support.words import counted

from . import checkpoint, distributed, flags, loop, run, runlog
from .recipe import Recipe

log = logging.getLogger(__name__)

LOCK = ".lock"  # in a run's folder while a run is in it


def recipe_of(args, stored):
    """The run's recipe as a dict: the one that --recipe names or else the stored one, with what single flags change."""
    return dataclasses.asdict(dataclasses.replace(args.preset or _read_recipe(stored), **args.changes))


def _read_recipe(stored):
    """A recipe from a checkpoint. One that was written before a field came has that field's default."""
    try:
        return Recipe(**stored)
    except TypeError as error:
        raise InputError(f"the recipe in the checkpoint cannot be read ({error}); use the version of this project that "
                         "wrote it") from error


def refuse_another_run(spec, stored, complete_arguments, named=None):
    """InputError where a spec differs from the checkpoint's in more than the number of epochs, saying in what.

    named: what --recipe says, whose numbers come in the place of the checkpoint's.
    """
    arguments = complete_arguments(stored["model"], stored["arguments"])
    recipes = [{**recipe, "epochs": None, "lr_decay_epochs": list(recipe["lr_decay_epochs"])}
               for recipe in (spec["recipe"], dataclasses.asdict(_read_recipe(stored["recipe"])))]
    others = {**stored, "arguments": arguments}
    for name, new, old in [("recipe", *recipes)] + [(name, spec[name], others[name]) for name in spec
                                                    if name != "recipe"]:
        if new != old and name == "recipe" and named:
            moves = "moves the decays in proportion to --num-epochs: it " if named == "scaled" else ""
            raise InputError(f"--resume: --recipe {named} {moves}asks for {_difference(new, old)}; leave --recipe out, "
                             "then the run keeps its own")
        if new != old:
            raise InputError(f"--resume: the command asks for {name} {_difference(new, old)}; "
                             "only --num-epochs may change when a run goes on")
    begun = stored["state"]["epoch"] + (stored["state"]["step"] > 0)
    if spec["recipe"]["epochs"] < begun:
        raise InputError(f"--resume: the checkpoint is in epoch {begun} already, so --num-epochs "
                         f"{spec['recipe']['epochs']} is too few")


def _difference(new, old):
    if isinstance(new, dict) and isinstance(old, dict):
        name = next(name for name in {**old, **new} if new.get(name) != old.get(name))
        return f"{name}={new.get(name)} but the checkpoint has {name}={old.get(name)}"
    return f"{new} but the checkpoint has {old}"


def checkpoint_of(args, name):
    """The checkpoint that --resume asks for; None without --resume, or where no run of that name has saved one yet."""
    if args.resume is None:
        return None
    if args.resume:
        path = run.checkpoint_to_resume(args.resume)
        if args.save_dir and expanded(args.save_dir).resolve() != path.parent.resolve():
            raise InputError(f"--resume goes on in {path.parent}; leave --save-dir out")
        return path
    place = expanded(args.save_dir) if args.save_dir else run.newest_directory(name)
    if place and (place / run.LAST).exists():
        return run.checkpoint_to_resume(place)
    log.warning("--resume: there is no checkpoint in %s yet; starting a new run", place or f"runs/{name}")
    return None


def decide(parser, args, spec_of, build, name_of):
    """Everything that the flags and a checkpoint decide, as a Start. Ends the process for flags that cannot be used.

    spec_of(args, stored) : what decides the run, as a dict with model, arguments, recipe and seed, from the command
        line and, where that is silent, from a checkpoint's settings or the defaults (stored is None).
    build(spec) : the net. Both raise InputError or TypeError for what cannot be.
    name_of(spec) : name of the run's folder.
    """
    spec, problem = None, None
    try:
        spec = spec_of(args, None)
        net = build(spec)
    except (InputError, TypeError) as error:
        problem = str(error)  # unless a checkpoint has what is missing
    named = args.resume or args.resume is not None and args.save_dir
    if problem and not named:
        parser.error(problem)
    try:
        contexts, sentence = loop.devices(args.gpus)
        if args.kvstore == "nccl" and contexts[0].device_type != "gpu":
            raise InputError("--kvstore nccl is for GPUs; leave it out here")
    except InputError as error:
        parser.error(str(error))
    if args.resume_params:
        args.resume_params = run.weights_file(args.resume_params)
    team = distributed.join(args.kvstore)
    if team.rank:  # what all of them would say, the first worker says
        for name in (None, "engine"):
            logging.getLogger(name).setLevel(logging.WARNING)
    if team.local_rank:
        contexts, sentence = loop.devices([number + team.local_rank * len(args.gpus) for number in args.gpus])
    found = checkpoint_of(args, None if problem else name_of(spec)) if team.rank == 0 else None
    resume, stored = team.agreed(_text(found)), None
    if resume is not None:
        resume = Path(resume)
        if not resume.is_file():
            raise InputError(f"--resume: worker {team.rank} does not reach {resume}; the run's folder must lie on a "
                             "disk that all of them reach by the same path")
        stored = checkpoint.read_settings(resume)
        checkpoint.require(stored, [*(spec or ("model", "arguments", "dataset", "seed", "recipe")), "data", "state"],
                           resume)
        checkpoint.check_run(stored, resume)
        run.refuse_rewinding(resume, stored["state"])
        try:
            spec = spec_of(args, stored)
            net = build(spec)
        except InputError:
            raise
        except Exception as error:  # settings that somebody else has written can be wrong in many ways
            log.debug("the settings of %s cannot be used", resume, exc_info=True)
            raise InputError(f"--resume: {error}") from error
    elif problem:
        parser.error(problem)
    return Start(args, spec, net, name_of(spec), team, contexts, sentence, resume, stored)


def _way(operators):
    """What of a sentence about the operators decides the bits of a run: without the reason."""
    return "plain Gluon operators" if operators.startswith("plain") else operators.partition(" (")[0]


def _text(path):
    return None if path is None else str(path)


@dataclasses.dataclass
class Start:
    """A run before its first step. The methods are called in their order, each once, in a `with` block.

    At its end the run's folder is free again, and a team parts, in good order unless an error has ended the block.
    """

    args: Any
    spec: dict
    net: Any
    name: str
    team: distributed.Team
    contexts: list
    device_sentence: str
    resume: Optional[Path]
    stored: Optional[dict]

    def __post_init__(self):
        self.recipe = Recipe(**self.spec["recipe"])
        self.command = " ".join(map(shlex.quote, ["python", *sys.argv]))
        self.held = contextlib.ExitStack()

    def __enter__(self):
        self.held.enter_context(self.team)
        return self

    def __exit__(self, *exception):
        return self.held.__exit__(*exception)

    @property
    def part(self):
        """Which share of every batch is this worker's: (rank, workers)."""
        return self.team.rank, self.team.size

    @property
    def batch_size(self):
        """Images of a step, on all devices of all workers."""
        return self.recipe.batch_size * len(self.contexts) * self.team.size

    @property
    def data_in_short(self):
        """What the data are; the warning as they were read has said what is not official."""
        return self.data.variant if self.data.provenance["official"] else "not the official files"

    def greet(self, dtype):
        """Say how the process runs. dtype: of the training where neither the flags nor a checkpoint say it."""
        log.info("%s", self.command)
        threads = self.contexts[0].device_type == "cpu" and os.environ.get("OMP_NUM_THREADS")
        log.info("%s%s", self.device_sentence, f", threads: {threads}" if threads else "")
        log.debug("%s", runtime.settings_sentence())  # a long one, for the file
        wanted = self.args.dtype or (self.stored or {}).get("dtype", dtype)
        self.dtype, remark = loop.training_type(wanted, self.contexts)
        if remark:
            log.info("%s", remark)

    def require_data(self, data):
        """InputError unless the data are those of the checkpoint."""
        self.data = data
        if self.stored is not None and self.stored["data"]["sha256"] != data.provenance["sha256"]:
            raise InputError("--resume: the data are not those of the checkpoint "
                             f"(now {data.variant}; then {self.stored['data']['variant']}); give the same --data-dir")

    def prepare_net(self, model):
        """Initialize the net, load the weights to start from, and find the fastest way to compute it."""
        loop.initialize(self.net, self.spec["seed"], self.contexts)
        self.loaded = []  # sentences about it
        if self.args.resume_params:
            model.load_params(self.net, self.args.resume_params, self.contexts, self.args.ignore_output,
                              self.loaded.append)
        if self.recipe.accumulate > 1:  # which the fused operators cannot
            self.forward, self.operators = self.net, "plain Gluon operators, which can add up gradients"
        else:
            self.forward, self.operators = model.fuse(self.net, self.args.fused)
        log.info("%s", self.operators)
        before = (self.stored or {}).get("operators")
        if isinstance(before, str) and _way(before) != _way(self.operators):
            log.warning("--resume: the run so far was computed with %s; with %s it goes on with the same numbers up to "
                        "rounding, but not to the bit", _way(before), _way(self.operators))
        loop.set_mode(self.forward, self.args.mode)

    def open_folder(self):
        """Take the run's folder, a new one or the resumed run's, and log to a file; nothing is written before.

        Only now, so that a start that fails leaves none behind.
        """
        if self.team.rank == 0:
            if self.args.logging_file:
                runlog.log_to_file(self.args.logging_file)
            directory = self.resume.parent if self.resume else self._new_directory()
            self.held.enter_context(locked(
                directory / LOCK, str(directory).replace("{", "{{").replace("}", "}}") + " is in use by another run, "
                "process {owner}; wait for its end, or give another --save-dir"))
            if self.args.save_dir and not self.resume:
                self._new_directory()  # another run may have come and gone in between
                (directory / run.BEST).unlink(missing_ok=True)  # of a first epoch that is begun anew
            if not self.args.logging_file:
                runlog.log_to_file(directory / "train.log")
        self.directory = Path(self.team.agreed(_text(directory) if self.team.rank == 0 else None))

    def _new_directory(self):
        return run.new_directory(self.args.save_dir, self.name, resumed=self.args.resume is not None)

    def announce(self, batches, complexity, table):
        """Say in the log what will be trained and how. table: makes the text of --summary of the net's complexity."""
        recipe, spec, devices = self.recipe, self.spec, len(self.contexts)
        log.info("recipe: %s", ", ".join(f"{name} {value}" for name, value in dataclasses.asdict(recipe).items()))
        log.info("global batch %d (%d on each of %d%s%s), %s an epoch, seed %d", self.batch_size,
                 recipe.batch_size, devices * self.team.size,
                 f", {devices} in each of {self.team.size} workers" if self.team.size > 1 else "",
                 f", in {recipe.accumulate} parts" if recipe.accumulate > 1 else "", counted(batches.steps, "step"),
                 spec["seed"])
        for remark in flags.recipe_remarks(self.args.changes, recipe):
            log.info("%s", remark)
        late = [epoch for epoch in recipe.lr_decay_epochs if epoch >= recipe.epochs]
        if late and recipe.lr_mode == "step" and not recipe.lr_decay_period:
            log.warning("the decays at %s lie behind the end of the run, which has %s; --recipe scaled moves them in "
                        "proportion", ", ".join(map(str, late)), counted(recipe.epochs, "epoch"))
        log.info("%s: %s parameters (%s trainable), %.3fM multiply-adds",
                 flags.net_text(spec["model"], spec["arguments"]), f"{complexity.total:,}",
                 f"{complexity.trainable:,}", complexity.macs / 1e6)
        for sentence in self.loaded:
            log.info("%s", sentence)
        if self.args.summary and self.team.rank == 0:
            with contextlib.suppress(BrokenPipeError):  # the reader may have seen enough
                print(table(complexity), flush=True)

    def settings(self, **data):
        """Write args.json and return what of it travels in the run's checkpoints. data: more about the data."""
        settings = {
            **self.spec, "data": {"variant": self.data.variant, "sha256": self.data.provenance["sha256"],
                                  "official": self.data.provenance["official"],
                                  "class_names": list(self.data.class_names), **data},
            "devices": len(self.contexts), "dtype": self.dtype, "operators": self.operators, "command": self.command,
            "started_from": self.stored.get("started_from") if self.stored else self.args.resume_params}
        if self.team.size > 1:
            settings["workers"] = self.team.size
        if self.team.rank == 0:
            runlog.write_json(self.directory / "args.json",
                              {**settings, "provenance": self.data.provenance, "environment": runlog.environment(),
                               "contexts": str(self.contexts)})
        return settings

    def train(self, settings, update_all, **own):
        """Run it. Returns the exit status, and the record of result.json or None: where the run was stopped, and in a
        worker that is not the first. Raises InputError where the run fails.

        own: what else a run.Job needs, which the script knows.
        """
        args = self.args
        job = run.Job(net=self.net, recipe=self.recipe, contexts=self.contexts, directory=self.directory,
                      settings=settings, seed=self.spec["seed"], workers=args.num_data_workers, team=self.team,
                      save_period=args.save_period, save_interval=args.save_interval, log_interval=args.log_interval,
                      dtype=self.dtype, forward=self.forward, update_all=update_all, **own)
        try:
            return 0, run.train(job, self.resume)
        except run.Stopped as stop:
            # As text: a record of the log that is kept would keep the error, and with it the run and its connections.
            log.warning("%s", str(stop))
            return stop.status, None
        except InputError as error:
            failure = type(error)(str(error))  # without its traceback, which would keep the run as well
        log.debug("%s: %s", Path(sys.argv[0]).name, str(failure))  # for the file; run_script says it
        raise failure
