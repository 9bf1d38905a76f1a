"""The format of numpy.savez: a net's arrays in a ZIP archive, which a stranger may have made."""
import io
import zipfile

import numpy as np

from support import params_file

from .formats import Params


def member(value, descr=None, shape=None, data=None, order="False"):
    """An array as numpy.savez writes it, with one thing or another claimed in its place."""
    text = f"{{'descr': {descr or repr(value.dtype.str)}, 'fortran_order': {order}, 'shape': {shape or value.shape}, }}"
    data = value.tobytes() if data is None else data
    return b"\x93NUMPY\1\0" + (len(text) + 1).to_bytes(2, "little") + text.encode() + b"\n" + data


class Npz(Params):
    """numpy.savez_compressed of the arrays under Gluon's names, loaded into another copy of the net."""

    name = ".npz of numpy.savez_compressed"
    promised = ("the file is never unpickled or run; every array has a CRC; types, shapes and sizes are checked "
                "before anything is unpacked; if one is wrong, the file is refused and the net does not change; memory "
                "is at most 16 times the file's size and 16 MiB")
    not_promised = "a stranger who recomputes the checksums over other numbers"
    target = "net.npz"

    def sound(self, folder):
        folder.mkdir(exist_ok=True)
        np.savez_compressed(folder / self.target, **{
            f"elsewhere_{name[len(self.net.prefix):]}": parameter.data().asnumpy()
            for name, parameter in self.net.collect_params().items()})
        if self.arrays is None:
            self.arrays = params_file.read(folder / self.target)[0]

    def craft(self, rng, content):
        victim = rng.choice([name for name in self.arrays if not name.endswith("elsewhere_batchnorm0_gamma")])
        value = self.arrays[victim]
        members = {f"{name}.npy": member(array) for name, array in self.arrays.items()}
        kind = rng.choice(("pickled", "fields", "text", "code", "huge", "negative", "short", "long", "nan", "type",
                           "gone", "more", "other member", "renamed", "bomb", "bzip2", "shape"))
        compression, place = zipfile.ZIP_DEFLATED, f"{victim}.npy"
        if kind == "pickled":
            members[place] = member(value, "'|O'", data=b"\x80\x02cposix\nsystem\nX\x04\0\0\0true\x85R.")
        elif kind == "fields":
            members[place] = member(value, "[('x', '<f4')]")
        elif kind == "text":
            members[place] = member(value, "'<U1'")
        elif kind == "code":
            members[place] = member(value, rng.choice(("__import__('os').abort()", "'<f4' * 10**9", "(" * 9000)))
        elif kind == "huge":
            members[place] = member(value, shape=rng.choice(("(4611686018427387904,)", "(0, 9223372036854775807)",
                                                             "(4294967296, 4294967296)", "(" + "9" * 19 + ",)")))
        elif kind == "negative":
            members[place] = member(value, shape="(-1,)")
        elif kind in ("short", "long"):
            members[place] = members[place][:-1] if kind == "short" else members[place] + b"\0"
        elif kind == "nan":
            members[place] = member(value, data=np.full(value.shape, rng.choice((np.nan, np.inf)), "f4").tobytes())
        elif kind == "type":
            members[place] = member(value.astype(rng.choice(("i4", "u1", "?", "c8"))))
        elif kind == "gone":
            del members[place]
        elif kind == "more":
            members["more_weight.npy"] = member(value)
        elif kind == "other member":
            members[rng.choice(("data.pkl", "../x", "/etc/x.npy", "x" * 60_000))] = b"\x80\x02."
        elif kind == "renamed":
            members[rng.choice((".npy", "\n.npy", place.upper(), f"arg:{place}"))] = members.pop(place)
        elif kind == "bomb":
            members[place] = member(value, shape="(12, 1048576)", data=bytes(48 << 20))
        elif kind == "bzip2":
            compression = zipfile.ZIP_BZIP2
        elif kind == "shape":
            members[place] = member(value, shape=(*value.shape, 1))
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", compression) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        return stream.getvalue(), f"{kind} of {victim}"

    def may_differ(self, expected, value, folder):
        return False
