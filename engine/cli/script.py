"""What the training programs share, in the order of a run: flags and a checkpoint to a Start, to a folder, to a Result.

A program brings what is its own: its experiment, its data and, since the engine knows no networks, the package `model`.
"""
import contextlib
import dataclasses
import logging
import os
import shlex
import sys
from pathlib import Path
from typing import Any, Optional

from backend.gluon import distributed, loop
from support import runtime
from support.errors import InputError
from support.files import expanded
from support.lock import locked
from support.words import counted

from .. import checkpoint, run, runlog
from ..experiment import Experiment
from . import flags, net_flags

log = logging.getLogger(__name__)

LOCK = ".lock"  # in a run's folder while a run is in it


@dataclasses.dataclass(frozen=True)
class Start:
    """What the flags, the machine and a checkpoint decide.

    net : not yet initialized. contexts : this worker's devices. team : the workers (backend.gluon.distributed).
    resume, saved : the checkpoint to resume and its Saved; None for a new run. command : the command line.
    """

    experiment: Experiment
    net: Any
    contexts: list
    team: distributed.Team
    resume: Optional[Path]
    saved: Optional[checkpoint.Saved]
    command: str

    @property
    def part(self):
        """Which share of every batch is this worker's: (rank, workers)."""
        return self.team.rank, self.team.size

    @property
    def batch_size(self):
        """Images of a step, on all devices of all workers."""
        return self.experiment.recipe.batch_size * self.experiment.devices


@contextlib.contextmanager
def started(parser, args, experiment_of, model, dtype):
    """The Start of a run as a context. Ends the process for flags that cannot be used.

    experiment_of(args, stored) : the Experiment of the command line; what that leaves open comes from the Experiment of
        a checkpoint, or from the defaults (stored is None). It raises InputError or TypeError for what cannot be.
    model : the package, whose complete_arguments and get_model make the net.
    dtype : to train in where neither the flags nor a checkpoint say it.
    """
    if args.resume_params:
        args.resume_params = run.weights_file(args.resume_params)
    experiment = None
    if not (args.resume or args.resume is not None and args.save_dir):  # else a checkpoint may have what is missing
        experiment = _or_exit(parser, experiment_of, args, None)
    contexts, sentence = _or_exit(parser, _devices, args)
    with distributed.join(args.kvstore) as team:
        if team.rank:  # what all of them would say, the first worker says
            for name in (None, "engine"):
                logging.getLogger(name).setLevel(logging.WARNING)
        if team.local_rank:
            contexts, sentence = loop.devices([number + team.local_rank * len(args.gpus) for number in args.gpus])
        resume = team.agreed(_text(_checkpoint_of(args, experiment)) if team.rank == 0 else None)
        saved = None
        if resume is None:
            experiment = experiment or _or_exit(parser, experiment_of, args, None)
            net = _or_exit(parser, _built, experiment, model)
        else:
            resume = Path(resume)
            saved = _saved_at(resume, team)
            try:
                stored = dataclasses.replace(saved.experiment, arguments=model.complete_arguments(
                    saved.experiment.model, saved.experiment.net))
                experiment = experiment_of(args, stored)
                refuse_another_run(experiment, stored, saved.state, args.recipe)
                net = _built(experiment, model)
            except (InputError, TypeError) as error:
                raise InputError(f"--resume: {error}") from error
        dtype, remark = loop.training_type(args.dtype or (saved.experiment.dtype if saved else dtype), contexts)
        experiment = dataclasses.replace(experiment, dtype=dtype, devices=len(contexts) * team.size)
        command = " ".join(map(shlex.quote, ["python", *sys.argv]))
        threads = contexts[0].device_type == "cpu" and os.environ.get("OMP_NUM_THREADS")
        log.info("%s", command)
        log.info("%s%s", sentence, f", threads: {threads}" if threads else "")
        log.debug("%s", runtime.settings_sentence())  # a long one, for the file
        if remark:
            log.info("%s", remark)
        yield Start(experiment, net, contexts, team, resume, saved, command)


def _built(experiment, model):
    return model.get_model(experiment.model, **experiment.net)


def _or_exit(parser, function, *arguments):
    """function(*arguments); an InputError or a TypeError ends the process as a wrong flag does."""
    try:
        return function(*arguments)
    except (InputError, TypeError) as error:
        parser.error(str(error))


def _devices(args):
    contexts, sentence = loop.devices(args.gpus)
    if args.kvstore == "nccl" and contexts[0].device_type != "gpu":
        raise InputError("--kvstore nccl is for GPUs; leave it out here")
    return contexts, sentence


def _checkpoint_of(args, experiment):
    """The checkpoint that --resume asks for; None without --resume, or where no run has saved one yet.

    experiment: names the folder where neither --resume nor --save-dir does.
    """
    if args.resume is None:
        return None
    if args.resume:
        path = run.checkpoint_to_resume(args.resume)
        if args.save_dir and expanded(args.save_dir).resolve() != path.parent.resolve():
            raise InputError(f"--resume goes on in {path.parent}; leave --save-dir out")
        return path
    place = expanded(args.save_dir) if args.save_dir else run.newest_directory(experiment.name)
    if place and (place / run.LAST).exists():
        return run.checkpoint_to_resume(place)
    log.warning("--resume: there is no checkpoint in %s yet; starting a new run", place or f"runs/{experiment.name}")
    return None


def _saved_at(path, team):
    """The Saved of a checkpoint that can be resumed; InputError for another file."""
    if not path.is_file():
        raise InputError(f"--resume: worker {team.rank} does not reach {path}; the run's folder must lie on a disk "
                         "that all of them reach by the same path")
    saved = checkpoint.read(path)
    if saved.state is None:
        raise InputError(f"{path} is not a checkpoint of a run: it holds no state to resume; start a new run from its "
                         "weights with --resume-params")
    run.refuse_rewinding(path, saved.state)
    return saved


def refuse_another_run(experiment, stored, state, named=None):
    """InputError where an experiment differs from a checkpoint's in more than the number of epochs, saying in what.

    named: what --recipe says, whose numbers come in place of the checkpoint's.
    """
    epochs = experiment.recipe.epochs
    same = dataclasses.replace(stored, recipe=dataclasses.replace(stored.recipe, epochs=epochs))
    if named and experiment.recipe != same.recipe:
        difference = dataclasses.replace(same, recipe=experiment.recipe).difference(same, "the checkpoint has")
        moves = "moves the decays in proportion to --num-epochs: it " if named == "scaled" else ""
        raise InputError(f"--recipe {named} {moves}asks for {difference}; leave --recipe out, then the run keeps its "
                         "own")
    difference = experiment.difference(same, "the checkpoint has")
    if difference:
        raise InputError(f"the command asks for {difference}; only --num-epochs may change when a run is resumed")
    begun = state["epoch"] + (state["step"] > 0)
    if epochs < begun:
        raise InputError(f"the checkpoint is in epoch {begun} already, so --num-epochs {epochs} is too few")


def require_data(start, data):
    """InputError unless the data are those of the checkpoint."""
    if start.saved is not None and start.saved.data["sha256"] != data.provenance["sha256"]:
        raise InputError("--resume: the data are not those of the checkpoint "
                         f"(now {data.variant}; then {start.saved.data['variant']}); give the same --data-dir")


def prepared(start, args, model):
    """Initialize start.net, load the weights to start from, and find the fastest way to compute it.

    Returns (forward, operators): what computes the logits, and a sentence about it.
    """
    net = start.net
    loop.initialize(net, start.experiment.seed, start.contexts)
    if args.resume_params:
        model.load_params(net, args.resume_params, start.contexts, args.ignore_output, log.info)
    if start.experiment.recipe.accumulate > 1:  # which the fused operators cannot
        forward, operators = net, "plain Gluon operators, which can add up gradients"
    else:
        forward, operators = model.fuse(net, args.fused)
    log.info("%s", operators)
    before = start.saved.operators if start.saved else ""
    if before and _way(before) != _way(operators):
        log.warning("--resume: the run so far was computed with %s; with %s its numbers stay the same up to "
                    "rounding, but not to the bit", _way(before), _way(operators))
    loop.set_mode(forward, args.mode)
    return forward, operators


def _way(operators):
    """What of a sentence about the operators decides the bits of a run: without the reason."""
    return "plain Gluon operators" if operators.startswith("plain") else operators.partition(" (")[0]


@contextlib.contextmanager
def folder(start, args):
    """The run's folder, a new one or the resumed run's, held while the context is open; the log goes to a file there.

    Nothing is written before, so that a start that fails leaves no folder behind.
    """
    def new():
        return run.new_directory(args.save_dir, start.experiment.name, resumed=args.resume is not None)

    with contextlib.ExitStack() as held:
        directory = None
        if start.team.rank == 0:
            if args.logging_file:
                runlog.log_to_file(args.logging_file)
            directory = start.resume.parent if start.resume else new()
            held.enter_context(locked(
                directory / LOCK, str(directory).replace("{", "{{").replace("}", "}}") + " is in use by another run, "
                "process {owner}; wait for its end, or give another --save-dir"))
            if args.save_dir and not start.resume:
                new()  # another run may have come and gone in between
                (directory / run.BEST).unlink(missing_ok=True)  # of a first epoch that starts again
            if not args.logging_file:
                runlog.log_to_file(directory / "train.log")
        yield Path(start.team.agreed(_text(directory)))


def _text(path):
    return None if path is None else str(path)


def announce(start, args, steps, complexity, table):
    """Say in the log what will be trained and how.

    steps: of an epoch. complexity: of the net (model.complexity). table: makes the text of --summary of it.
    """
    experiment, recipe, team = start.experiment, start.experiment.recipe, start.team
    log.info("recipe: %s", ", ".join(f"{name} {value}" for name, value in dataclasses.asdict(recipe).items()))
    log.info("global batch %d (%d on each of %d%s%s), %s an epoch, seed %d", start.batch_size,
             recipe.batch_size, experiment.devices,
             f", {len(start.contexts)} in each of {team.size} workers" if team.size > 1 else "",
             f", in {recipe.accumulate} parts" if recipe.accumulate > 1 else "", counted(steps, "step"),
             experiment.seed)
    for remark in flags.recipe_remarks(args.changes, recipe):
        log.info("%s", remark)
    late = [epoch for epoch in recipe.lr_decay_epochs if epoch >= recipe.epochs]
    if late and recipe.lr_mode == "step" and not recipe.lr_decay_period:
        log.warning("the decays at %s lie behind the end of the run, which has %s; --recipe scaled moves them in "
                    "proportion", ", ".join(map(str, late)), counted(recipe.epochs, "epoch"))
    log.info("%s: %s parameters (%s trainable), %.3fM multiply-adds",
             net_flags.net_text(experiment.model, experiment.net), f"{complexity.total:,}",
             f"{complexity.trainable:,}", complexity.macs / 1e6)
    if args.summary and team.rank == 0:
        with contextlib.suppress(BrokenPipeError):  # the reader may have seen enough
            print(table(complexity), flush=True)


def train(start, args, directory, data, operators, **own):
    """Run it in its folder. Returns the exit status, and the Result or None: where the run was stopped, and in a worker
    that is not the first. Raises InputError where the run fails.

    data: as loaded. operators: what computes the net, in words. own: what else a run.Job needs.
    """
    provenance = data.provenance
    saved = checkpoint.Saved(
        start.experiment, {"variant": data.variant, "sha256": provenance["sha256"], "official": provenance["official"],
                           "class_names": list(data.class_names)},
        operators=operators, command=start.command, workers=start.team.size)
    if start.team.rank == 0:
        runlog.write_json(directory / "args.json", {**saved.as_json(), "provenance": provenance,
                                                    "environment": runlog.environment(start.contexts)})
    job = run.Job(net=start.net, saved=saved, contexts=start.contexts, directory=directory, provenance=provenance,
                  team=start.team, workers=args.num_data_workers, save_period=args.save_period,
                  save_interval=args.save_interval, log_interval=args.log_interval, **own)
    try:
        return 0, run.train(job, start.resume)
    except run.Stopped as stop:
        # As text: a record of the log that is kept would keep the error, and with it the run and its connections.
        log.warning("%s", str(stop))
        return stop.status, None
    except InputError as error:
        failure = type(error)(str(error))  # without its traceback, which would keep the run as well
    log.debug("%s: %s", Path(sys.argv[0]).name, str(failure))  # for the file; run_script says it
    raise failure
