"""The gates of a net: the names of their sites, and the channel to show."""
import re


def site(path):
    """A unit's short name by its structural name: ``s1b2.act1`` for stage 1, block 2; ``head`` for the last one."""
    found = re.fullmatch(r"(features\.|layer)(\d+)\.(\d+)\.(\w+)", path)
    if found:
        stage = int(found[2]) - (found[1] == "features.")
        return f"s{stage}b{int(found[3]) + 1}.{found[4]}"
    return "head" if re.fullmatch(r"features\.\d+", path) else path


def liveliest(gates):
    """The channel whose gates (C, H, W) differ most between positions."""
    return int(gates.reshape(len(gates), -1).std(axis=1).argmax())
