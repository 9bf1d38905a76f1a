"""The data sets by name. One of your own: a class like FolderSet, its name here and in engine.experiment."""
from .cifar import CifarSet
from .folder import FolderSet
from .imagenet import ImageNetSet

SETS = {"cifar10": CifarSet, "cifar100": CifarSet, "imagenet": ImageNetSet, "folder": FolderSet}


def of(name, options, known=None):
    """The Dataset of a name; arguments as Dataset's."""
    return SETS[name](name, options, known)
