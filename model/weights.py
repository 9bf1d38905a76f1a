"""Loading weights into networks: parameter files in all forms, and the files in params/manifest.json."""
from pathlib import Path

import numpy as np

from support import ROOT, json_files, npz_file, params_file
from support.errors import InputError
from support.files import digests, expanded
from support.json_files import FILE_NAME, NOTHING, OBJECT, SHA256, TEXT
from support.names import nearest

from .array_names import Unfit, head_of, recognise, shown
from .graph import Graph, parameters_of
from .registry import complete_arguments

# The form of a manifest's entry. FILE_NAME: no entry may lead out of the manifest's folder.
ENTRY = {"model": TEXT, "arguments": OBJECT, "file": FILE_NAME, "sha256": (NOTHING, SHA256)}
OPTIONAL = {"name": (NOTHING, TEXT), "urls": [TEXT]}
RESTORE = "restore it from the repository"
SHIPPED = ROOT / "params"


def pretrained_entry(name, root=SHIPPED):
    """The entry of root/manifest.json for the weights called name, as a dict. Raises InputError."""
    manifest = Path(root) / "manifest.json"
    entries = {each["name"]: each for each in read_manifest(manifest) if each.get("name")}
    if name not in entries:
        raise InputError(f"no pretrained weights called {repr(name)[:60]}{nearest(name, entries)}; {manifest} has: "
                         f"{', '.join(entries) or 'none'}")
    return entries[name]


def pretrained_file(name, root=SHIPPED):
    """Path of the weights that root/manifest.json calls name; the checksum is compared. Raises InputError."""
    return _verified(Path(root) / "manifest.json", pretrained_entry(name, root))


def load_pretrained(net, name, arguments, pretrained, root=SHIPPED, ctx=None):
    """Load the weights that root's manifest has for a net: those that fit, or the entry that pretrained names.

    name, arguments : the net's in get_model, arguments complete. net, ctx : as load_params takes them. Raises
    InputError.
    """
    name, wanted = str(name).lower(), pretrained if isinstance(pretrained, str) else None
    root = expanded(root or SHIPPED)
    manifest = root / "manifest.json"
    entries = read_manifest(manifest) if wanted is None else [pretrained_entry(wanted, root)]
    same = [each for each in entries if each["model"] == name]
    try:
        theirs = [_structure(complete_arguments(name, each["arguments"])) for each in same]
    except TypeError as error:
        raise InputError(f"{manifest} cannot be used: {error}; {RESTORE}") from error
    asked = _structure(arguments)
    fitting = [each for each, has in zip(same, theirs) if has == asked]
    if len(fitting) > 1:
        raise InputError(f"several weights fit {name} with these arguments: pretrained= takes one of "
                         f"{', '.join(each['name'] for each in fitting if each.get('name'))}")
    if fitting:
        load_params(net, _verified(manifest, fitting[0]), ctx, say=None)
        return
    called = "no pretrained weights" if wanted is None else f"no pretrained weights called {wanted!r}"
    if not same:
        raise InputError(f"{called} for {name}; there are some for "
                         f"{', '.join(sorted({each['model'] for each in entries})) or 'no net'}")
    hint = "; load_params(net, FILE, ignore_output=True) loads all but the output" \
        if {**asked, "classes": 0} in [{**has, "classes": 0} for has in theirs] else ""
    raise InputError(f"{called} for {_text(name, asked)}; there are some for "
                     f"{' or '.join(_text(name, has) for has in theirs[:3])}{hint}")


def _text(name, arguments):
    """A net, for a sentence: its name and the arguments that have a value."""
    values = [f"{key}={str(value)[:40]}" for key, value in arguments.items() if value is not None]
    return f"{name} with {', '.join(values)}"


def _structure(arguments):
    """Complete arguments without last_gamma, which only decides a net's initial weights."""
    return {name: value for name, value in arguments.items() if name != "last_gamma"}


def read_manifest(manifest):
    """The entries of a manifest of weights; name and urls may be absent. Raises InputError for a malformed entry."""
    entries = json_files.read(manifest, {"models": [ENTRY]}, RESTORE)["models"]
    for place, entry in enumerate(entries):
        wrong = json_files.problem({"name": None, "urls": [], **entry}, OPTIONAL, f"models[{place}]")
        if wrong:
            raise InputError(f"{manifest} cannot be used: {wrong}; {RESTORE}")
    return entries


def intact(path, entry):
    """Whether a file is the one in a manifest's entry, by its sha256 or, if none is published, by git's name of its
    content (git_blob)."""
    name = "sha256" if entry["sha256"] else "git_blob"
    return digests(path, [name])[name] == entry.get(name)


def _verified(manifest, entry):
    """Path of an entry's file in its manifest's folder; the checksum is compared."""
    path = manifest.parent / entry["file"]
    if not path.is_file() or not intact(path, entry):
        fetchable = entry.get("urls") and entry.get("name")
        fetched = f"fetch it with scripts/download_params.sh {entry['name']}" if fetchable else "restore it"
        raise InputError(f"{path} is missing or is not the file that {manifest} describes; {fetched}")
    return path


def load_params(net, path, ctx=None, ignore_output=False, say=print):
    """Load a parameter file into net and say in one line what kind of file it is. Returns net.

    The names in the file tell its kind: files of this project, of the authors' code, of Gluon's save_parameters (of a
    net or of its `features`), of export and of collect_params().save(), with strip_prefix or any prefix; and
    numpy.savez with any of these names. Names that another code wrote with export or collect_params() are matched in
    order, if kinds, shapes and numbering leave only one way. (They do not tell whether a unit has its inner ReLU.)

    Everything is checked before anything changes: a file that does not fit leaves net as it was. Numbers are cast to
    the net's type (the released ImageNet file is float16).

    net : a Gluon net, or a Graph, which keeps the arrays.
    ctx : the device, or list of devices, on which the parameters of a Gluon net lie afterwards; None for the CPU.
    ignore_output : do not load the last layer (`output`, in ResNet-50 `fc`), so that net may have another number of
        classes. If that layer is not initialized yet, Gluon's default initializes it.
    say : called with the sentence; None to say nothing.

    Raises InputError, which names the first differences, if the file is damaged or holds another net.
    """
    arrays, attachments = params_file.read(path)
    own = parameters_of(net)
    try:
        found, names = recognise(own, arrays)
    except Unfit as reason:
        raise InputError(f"{path} does not fit this net: {reason}") from reason
    kept = head_of(own) if ignore_output else []
    if ignore_output and not kept:
        raise InputError("ignore_output is for nets whose last layer is called output or fc; this one has neither")
    named = {found[name]: array for name, array in arrays.items()}
    left_out = set_params(net, named, path, ctx, kept)
    if say is not None:
        kind = "a file of this project" if attachments else f"{'NumPy' if npz_file.is_one(path) else 'MXNet'}'s file"
        say(f"weights from {path}: {kind}, {len(named)} arrays under {names}"
            + f"; {', '.join(kept)} are the net's own" * bool(kept)
            + f"; without {', '.join(left_out)}, which MXNet takes for 1" * bool(left_out))
    return net


def set_params(net, arrays, source, ctx=None, kept=()):
    """Set all parameters of net except `kept` from arrays, {structural name: NumPy array}; all of them or none.

    source: the name of the arrays in an error. net, ctx: as load_params takes them. An optional gamma
    (BatchNorm(scale=False)) may be missing and becomes 1; returns the names of these. Raises InputError, which names
    what does not fit.
    """
    parameters = {name: parameter for name, parameter in parameters_of(net).items() if name not in kept}
    ones = [name for name, parameter in parameters.items() if name not in arrays and parameter.optional]
    arrays = _fitting(parameters, {
        **{name: array for name, array in arrays.items() if name not in kept},
        **{name: np.ones(parameters[name].shape, np.float32) for name in ones}}, source)
    if isinstance(net, Graph):
        net.arrays = {**net.arrays, **arrays}
    else:
        _set(net, arrays, ctx)
    return ones


def _fitting(parameters, arrays, source):
    """The arrays in the types of the net's parameters. Raises InputError, which names what does not fit."""
    problems = []
    missing = sorted(set(parameters) - set(arrays))
    if missing:
        problems.append(f"it lacks {len(missing)} arrays ({', '.join(missing[:2])}{', ...' * (len(missing) > 2)})")
    extra = sorted(set(arrays) - set(parameters))
    if extra:
        problems.append(f"it has {len(extra)} that the net does not ({', '.join(map(shown, extra[:2]))}"
                        f"{', ...' * (len(extra) > 2)})")
    wrong = [name for name in parameters if name in arrays and parameters[name].shape != arrays[name].shape]
    if wrong:
        problems.append(f"{len(wrong)} differ in shape ({wrong[0]} is {arrays[wrong[0]].shape} in the file and "
                        f"{parameters[wrong[0]].shape} in the net)")
    if problems:
        hint = "; ignore_output=True (--ignore-output when training) loads all but the output" \
            if not extra and {*missing, *wrong} <= set(head_of(parameters)) \
            else "; check the net's name and arguments"
        raise InputError(f"{source} does not fit this net: {'; '.join(problems)}{hint}")
    cast = {}
    for name, parameter in parameters.items():
        if arrays[name].dtype.kind != "f":
            raise InputError(f"{source} holds {arrays[name].dtype} numbers in {name}, not weights; use another file")
        with np.errstate(over="ignore"):
            cast[name] = arrays[name].astype(parameter.dtype, copy=False)
        params_file.check_numbers(source, name, cast[name])
    return cast


def _set(net, arrays, ctx):
    """Give a Gluon net these arrays, and its other parameters Gluon's default if they have no numbers yet."""
    import mxnet as mx

    ctx = [mx.cpu()] if ctx is None else [ctx] if isinstance(ctx, mx.Context) else list(ctx)
    for name, parameter in net._collect_params_with_prefix().items():
        if parameter._data is None:
            parameter.initialize(mx.init.Zero() if name in arrays else None, ctx)  # zeros draw no random numbers
        elif parameter.list_ctx() != ctx:
            parameter.reset_ctx(ctx)
        if name in arrays:
            parameter.set_data(mx.nd.array(arrays[name], dtype=parameter.dtype))
