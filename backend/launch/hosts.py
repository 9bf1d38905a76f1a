"""The machines of a job: the hostfile."""
import argparse
import dataclasses
import re
import socket

from support.files import content

LOOPBACK = "127.0.0.1"


@dataclasses.dataclass(frozen=True)
class Host:
    """A machine: its name for ssh (None: this one), the address that its members listen on, workers it takes."""

    name: str = None
    address: str = LOOPBACK
    slots: int = 1


def read_hosts(path):
    """A type for argparse: a hostfile as a list of Host. One `name [slots=N] [address=IPv4]` a line, # for remarks.

    A name that stands on several lines has the sum of their slots. Without an address its name is looked up.
    """
    try:
        lines = content(path).decode("utf-8").splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise argparse.ArgumentTypeError(f"{path} cannot be read: {reason}") from None
    slots, addresses = {}, {}
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        name, given = words[0], {}
        for word in words[1:]:
            key, _, value = word.partition("=")
            right = {"slots": r"[1-9]\d{0,3}", "address": r"\d{1,3}(\.\d{1,3}){3}"}.get(key)
            if right is None or key in given or not re.fullmatch(right, value):
                raise argparse.ArgumentTypeError(
                    f"{path}, line {number}: {word!r} is neither slots=N nor address=N.N.N.N, once")
            given[key] = value
        if not re.fullmatch(r"(\w[\w.-]*@)?[A-Za-z0-9_][A-Za-z0-9_.-]*", name, re.ASCII):
            raise argparse.ArgumentTypeError(f"{path}, line {number}: {name!r} is not a host, or user@host")
        slots[name] = slots.get(name, 0) + int(given.get("slots", 1))
        if addresses.setdefault(name, given.get("address")) != given.get("address", addresses[name]):
            raise argparse.ArgumentTypeError(f"{path}, line {number}: {name} has two addresses")
    if not slots:
        raise argparse.ArgumentTypeError(f"{path} names no host")
    hosts = [Host(name, addresses[name] or _look_up(name, path), count) for name, count in slots.items()]
    local = [host.name for host in hosts if host.address.startswith("127.")]
    if local and len(local) < len(hosts):
        raise argparse.ArgumentTypeError(
            f"{path}: {local[0]} has an address that other machines cannot reach; write it as "
            f"'{local[0]} address=N.N.N.N'")
    return hosts


def _look_up(name, path):
    try:
        return socket.getaddrinfo(name.rpartition("@")[2], None, socket.AF_INET)[0][4][0]
    except (OSError, UnicodeError):
        raise argparse.ArgumentTypeError(
            f"{path}: no address is known for {name}; write it as '{name} address=N.N.N.N'") from None
