"""The flags of the nets, from the hosts of model.registry that a program passes, and the authors' spelling of them."""
from support.errors import InputError
from support.names import nearest

from .flags import MOST_FLOAT, number, switch, words

GATE = "ChaATAC"  # the authors' --act-type for ATAC; with --useGlobal for SEActivation


def add_net_flags(parser, *hosts, default=None, without=()):
    """The nets of some hosts; a short name means a net of the first host.

    default : the net without --model. without : arguments of the nets that are not flags of this program.
    """
    group = parser.add_argument_group("network")
    group.add_argument(
        "--model", type=words, metavar="NAME", help=f"the net: a {' or '.join(host.title for host in hosts)} of "
        f"model.list_models(), or a short name: {', '.join(hosts[0].short)}"
        + (f" (default {default})" if default else ""))
    for name, declared in _declared(hosts).items():
        if name not in without:
            _, first = declared[0]
            flag = f"--{name.replace('_', '-')}"
            group.add_argument(*filter(None, (first.also, flag)), dest=name, help=_text(declared), **_values(first))
    types = _types(hosts[0])
    if types:
        group = parser.add_argument_group("network, as the authors' script spells it (with --model atac)")
        group.add_argument("--act-type", metavar="TYPE", help=f"{GATE}, {', '.join(types)}")
        group.add_argument("--useReLU", action="store_true", help="ReLU inside the ATAC unit, as in the paper")
        group.add_argument("--useGlobal", action="store_true", help="global average pool first: SEActivation")


def _declared(hosts):
    """{name: [(part, Argument)]}: the arguments that have a flag; part is None for an argument of the host."""
    found = {}
    for host in hosts:
        owned = [(None, {**host.arguments, **host.start})]
        for part in host.parts.values():
            for each in (part.place, part, *(part.variants or {}).values()):
                owned.append((part.name, each.arguments))
        for owner, arguments in owned:
            for name, argument in arguments.items():
                if argument.help:
                    found.setdefault(name, []).append((owner, argument))
    return found


def _text(declared):
    """The help of a flag: each meaning with the parts' defaults, ``ratio (default 2 for atac, nin; 16 for senet)``."""
    meanings = {}
    for owner, argument in declared:
        defaults = meanings.setdefault(argument.help, {})
        if owner and argument.default is not None:
            defaults.setdefault(argument.default, {})[owner] = None  # a part of two hosts once
    texts = []
    for meaning, defaults in meanings.items():
        listed = "; ".join(f"{value} for {', '.join(owners)}" for value, owners in defaults.items())
        texts.append(f"{meaning} (default {listed})" if listed else meaning)
    return "; ".join(texts)


def _values(argument):
    """The keywords that tell argparse the values of an argument."""
    if argument.choices:
        return {"choices": argument.choices}
    if argument.kind is bool:
        return {"nargs": "?", "type": switch, "const": True, "metavar": "on|off"}
    if argument.kind is str:
        return {"metavar": argument.metavar}
    least, most = argument.least, argument.most
    if argument.kind is float:
        least, most = -MOST_FLOAT, MOST_FLOAT
    return {"type": number(argument.kind, least, most), "metavar": argument.metavar}


def full_name(name, host):
    """The net that --model names, by its full name or a short name of the host; None for None."""
    return name and host.short.get(name.lower(), name.lower())


def net_arguments(args, *hosts):
    """Turn the flags of these hosts into (name, keyword arguments without classes, remarks for the log).

    name is None when --model is absent; the arguments are then those of the default net, or of a file's. Raises
    InputError for flags that contradict each other.
    """
    given = {name: getattr(args, name, None) for name in _declared(hosts) if name != "classes"}
    given = {name: value for name, value in given.items() if value is not None}
    act_type, relu, pool = (getattr(args, name, None) for name in ("act_type", "useReLU", "useGlobal"))
    if args.model is None:
        if act_type or relu or pool:
            raise InputError("--act-type, --useReLU and --useGlobal need --model atac")
        return None, given, []
    name = args.model.lower()
    if act_type is None and not (name == "atac" and (relu or pool)):
        if relu or pool:
            raise InputError("--useReLU and --useGlobal belong to --model atac; name the net that you want in --model")
        return full_name(name, hosts[0]), given, []
    if name != "atac":
        raise InputError(f"--act-type belongs to --model atac, not to --model {name}")
    return _authors_net(args, given, hosts[0])


def _types(host):
    """The authors' --act-types beside GATE."""
    return [part.authors for part in host.parts.values() if part.authors and not part.authors.startswith(GATE)]


def _authors_net(args, given, host):
    """The authors' --model atac with --act-type, --useReLU and --useGlobal."""
    wanted, remarks = (args.act_type or GATE).lower(), []
    if wanted == GATE.lower():
        wanted = GATE + " --useGlobal" * args.useGlobal
        if not args.useReLU:
            remarks.append("no ReLU inside the unit: the authors' code has none without --useReLU; the paper has it")
            given["inner_relu"] = False
    elif wanted not in _types(host):
        raise InputError(f"unknown --act-type {args.act_type!r}{nearest(wanted, _types(host))}; the types are {GATE}, "
                         f"{', '.join(_types(host))}")
    else:
        idle = [flag for flag, is_set in (("--r", given.pop("reduction", None) is not None),
                                          ("--useReLU", args.useReLU), ("--useGlobal", args.useGlobal)) if is_set]
        if idle:
            remarks.append(f"{', '.join(idle)}: no effect with --act-type {args.act_type}")
    return next(host.model(name) for name, part in host.parts.items() if part.authors == wanted), given, remarks


def net_text(name, arguments):
    """A net for a line of the log: its name and the arguments that have a value."""
    return ", ".join([name] + [f"{key}={value}" for key, value in arguments.items() if value is not None])
