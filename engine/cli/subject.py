"""What evaluate.py evaluates: a parameter file, checked against the flags."""
from typing import Any, NamedTuple

from support import params_file
from support.errors import InputError
from support.json_files import SOME

from .. import checkpoint, folders
from ..data import sets
from ..data.dataset import Dataset, Known
from .data_flags import refuse_flags_of_others


class Subject(NamedTuple):
    """A parameter file ready to be evaluated: its net, with weights on the devices, and its data set.

    recognised: a line that names the kind of file.
    """

    file: str
    recognised: str
    model: str
    arguments: dict
    net: Any
    data: Dataset
    class_names: tuple
    backend: Any
    devices: list
    device_sentence: str

    def images(self, batch_size=None):
        """The test images (engine.data.dataset.Images)."""
        return self.data.images(self.arguments["classes"], self.backend.kind(self.devices), batch_size)


def subject_of(parser, args, model, backend):
    """The Subject of a command line. If the file and the flags do not fit, raises InputError or ends the process.

    model, backend : the package of the networks, and the module that computes (backend.base).
    """
    entry = None
    if args.pretrained:
        entry = model.weights.pretrained_entry(args.pretrained)
        args.params = str(model.weights.pretrained_file(args.pretrained))
    args.params = folders.weights_file(args.params)
    arrays, attachments = params_file.read(args.params)
    saved = checkpoint.saved_in(args.params, attachments, required=False)
    known = None
    if saved:
        known = Known.of(saved.experiment, saved.data.get("class_names") or ())
    elif entry:
        known = Known.of_entry(entry, args.params)
    name, arguments, data, names = _settled(parser, args, known, arrays, model)
    try:
        net = model.get_model(name, **arguments)
    except (InputError, TypeError) as error:
        parser.error(str(error))
    devices, sentence = backend.devices(args.gpus)
    recognised = []
    model.load_params(net, args.params, say=recognised.append)
    return Subject(args.params, recognised[0], name, arguments, net, data, names, backend, devices, sentence)


def exported_subject(parser, args, model, backend):
    """The Subject of an exported net (backend.exported): args.params says itself what it is and computes itself."""
    if args.backend != "auto":
        raise InputError(f"--backend computes parameter files; {args.params} brings its own program: leave it out")
    net = backend.opened(args.params)
    known = net.about.known
    if args.input_size not in (None, known.input_size):
        raise InputError(f"{args.params} takes images of {known.input_size} pixels, not {args.input_size}; leave "
                         "--input-size out")
    name, arguments, data, names = _settled(parser, args, known, {}, model)
    devices, sentence = backend.devices(args.gpus)
    return Subject(args.params, f"an exported net, {args.params}", name, arguments, net, data, names, backend, devices,
                   sentence)


def _settled(parser, args, known, arrays, model):
    """`_described` with the data's completions and class names, checked: (name, arguments, Dataset, class names)."""
    name, arguments, data = _described(args, known, arrays, model)
    refuse_flags_of_others(parser, args, data.name)
    if not SOME.holds(arguments["classes"]):
        raise InputError(f"{args.params} has classes={arguments['classes']!r} among its settings, not {SOME.words}; "
                         "use another one")
    names = data.class_names(arguments["classes"])
    if arguments["classes"] < len(names):
        raise InputError(f"{args.params} has {arguments['classes']} classes, too few for the {len(names)} labels of "
                         f"{data.title}")
    try:
        arguments = model.complete_arguments(name, arguments)
        return name, data.complete(name, arguments, model.image_size(name, arguments)), data, names
    except (InputError, TypeError) as error:
        parser.error(str(error))


def _described(args, known, arrays, model):
    """What to build and what to evaluate on: (name, arguments, Dataset).

    known : what a file of ours, or the manifest for another file, says; flags that contradict it are refused. If known
    is None, the flags say everything except the number of classes, which the last bias says.
    """
    if known is not None:
        for flag, given, own in (("--model", args.net_name, known.model), ("--dataset", args.dataset, known.dataset),
                                 ("--label-mode", args.label_mode, known.label_mode)):
            if given is not None and own is None:
                raise InputError(f"{args.params} was trained on {known.dataset}, which has no label mode; "
                                 f"leave {flag} out")
            if given is not None and given != own:
                raise InputError(f"{args.params} was trained with {flag} {own}, not {given}; leave {flag} out")
        try:
            own = model.complete_arguments(known.model, known.arguments)
        except (InputError, TypeError) as error:
            raise InputError(f"{args.params}: {error}; use another one") from error
        for name, value in {**args.net_arguments, **({"classes": args.classes} if args.classes else {})}.items():
            if name == "inner_relu" and name in own and value != own[name]:
                raise InputError(f"{args.params} holds a net with ReLU inside its units: add --useReLU")
            if name not in own or value != own[name]:
                has = f"{name}={own[name]}" if name in own else f"no {name}"
                raise InputError(f"{args.params} holds a net with {has}, not {value}; leave that flag out")
        return known.model, own, sets.of(known.dataset, args, known)

    for flag, given in (("net with --model", args.net_name), ("--dataset", args.dataset)):
        if given is None:
            raise InputError(f"{args.params} holds weights only: name its {flag}")
    data = sets.of(args.dataset, args, None)
    usual = data.outputs or (len(data.class_names(None)),)
    classes = model.array_names.classes_of(arrays) or args.classes or usual[0]
    if args.classes is None and classes not in usual:
        raise InputError(f"{args.params} has {classes} classes, {args.dataset} nets have {usual[0]}: "
                         f"is it another --dataset? (--classes {classes} evaluates it all the same)")
    return args.net_name, {**args.net_arguments, "classes": args.classes or classes}, data
