#!/usr/bin/env python3
"""Evaluate a parameter file on the test images, or classify pictures with it.

    python evaluate.py --params runs/NAME/best.params                  # a file of ours: it knows its net and data
    python evaluate.py --params FILE --model atac_resnet20_v2 --blocks 3 --dataset cifar10   # the authors', MXNet's
    python evaluate.py --pretrained atac_resnet20_v2_b1_cifar10        # a name in params/manifest.json
    python evaluate.py --params FILE --images cat.png dog.jpg          # the five likeliest classes of each picture

Prints top-1 and top-5 accuracy, cross entropy, speed, a table by class, and all of it as one JSON line at the end.
Every image counts once.
"""
import json
import os
import time

from engine import flags
from support import runtime
from support.errors import InputError
from support.files import sha256


def parse(argv=None):
    parser = flags.Parser(prog="evaluate.py", description=__doc__)
    parser.add_argument("--params", type=flags.words, metavar="FILE", help="the weights")
    parser.add_argument("--pretrained", type=flags.words, metavar="NAME",
                        help="weights of this repository instead, by their name in params/manifest.json")
    flags.add_net_flags(parser)
    flags.add_data_flags(parser, "default: what the file was trained on")
    group = parser.add_argument_group("run")
    flags.add_device_flags(group)
    group.add_argument("--batch-size", type=flags.number(int, 1), default=250, metavar="N", help="default 250")
    group.add_argument("--confusion-matrix", type=flags.words, metavar="PNG", help="draw the confusion matrix there")
    group.add_argument("--images", nargs="+", metavar="FILE", help="classify these pictures instead")
    args = parser.parse_args(argv)
    if (args.params is None) == (args.pretrained is None):
        parser.error("one of these is required: --params or --pretrained")
    if args.images and args.confusion_matrix:
        parser.error("--images and --confusion-matrix exclude each other")
    if args.confusion_matrix and not os.path.isdir(os.path.dirname(os.path.abspath(args.confusion_matrix))):
        parser.error(f"--confusion-matrix {args.confusion_matrix}: that folder does not exist")
    try:
        args.net_name, args.net_arguments, args.remarks = flags.net_arguments(args)
    except InputError as error:
        parser.error(str(error))
    return parser, args


def task_of(args, settings, arrays):
    """What to build and what to evaluate on: (model, arguments, dataset, label mode).

    A file of ours says it itself, and flags that contradict it are refused; for other files the flags say it, and
    the array of the last bias says the number of classes.
    """
    from model import complete_arguments

    if settings is not None:
        for flag, given, own in (("--model", args.net_name, settings["model"]),
                                 ("--dataset", args.dataset, settings["dataset"]),
                                 ("--label-mode", args.label_mode, settings["label_mode"])):
            if given is not None and own is None:
                raise InputError(f"{args.params} was trained on {settings['dataset']}, which has no label mode; "
                                 f"leave {flag} out")
            if given is not None and given != own:
                raise InputError(f"{args.params} was trained with {flag} {own}, not {given}; leave {flag} out")
        own = complete_arguments(settings["model"], settings["arguments"])
        for name, value in {**args.net_arguments, **({"classes": args.classes} if args.classes else {})}.items():
            if name == "inner_relu" and name in own and value != own[name]:
                raise InputError(f"{args.params} holds a net with ReLU inside its units: add --useReLU")
            if name not in own or value != own[name]:
                has = f"{name}={own[name]}" if name in own else f"no {name}"
                raise InputError(f"{args.params} holds a net with {has}, not {value}; leave that flag out")
        return settings["model"], own, settings["dataset"], settings["label_mode"]

    if args.net_name is None:
        raise InputError(f"{args.params} holds weights only: name its net with --model and --blocks")
    if args.dataset is None:
        raise InputError(f"{args.params} holds weights only: name its --dataset")
    mode = (args.label_mode or "coarse") if args.dataset == "cifar100" else args.label_mode
    bias = arrays.get("output.bias")
    classes = len(bias) if bias is not None and bias.ndim == 1 else args.classes or 10
    usual = {"cifar10": (10,), "cifar100": (100, 20) if mode == "coarse" else (100,)}[args.dataset]
    if args.classes is None and classes not in usual:
        raise InputError(f"{args.params} has {classes} classes, {args.dataset} nets have {usual[0]}: "
                         f"is it another --dataset? (--classes {classes} evaluates it all the same)")
    return args.net_name, {"blocks": 3, **args.net_arguments, "classes": args.classes or classes}, args.dataset, mode


def report(evaluation, class_names):
    """Scores as a dict for JSON, and the table by class as text."""
    confusion = evaluation.confusion
    images = confusion.sum(axis=1)
    width = max(map(len, class_names))
    lines = [f"{'class'.ljust(width)}  images  right  accuracy  most often taken for"]
    by_class = []
    for label, name in enumerate(class_names):
        right = int(confusion[label, label])
        row = {"class": name, "images": int(images[label]), "right": right}
        by_class.append(row)
        mistaken = confusion[label].copy()
        mistaken[label] = 0
        other = int(mistaken.argmax())
        taken = ""
        if mistaken[other]:
            taken = f"{class_names[other] if other < len(class_names) else f'output {other}'} ({mistaken[other]})"
        accuracy = f"{right / images[label]:.4f}" if images[label] else "-"
        lines.append(f"{name.ljust(width)}  {images[label]:6,}  {right:5,}  {accuracy:>8}  {taken}".rstrip())
    scores = {"images": evaluation.images, "top1": evaluation.top1, "top5": evaluation.top5,
              "loss": evaluation.loss, "classes": by_class}
    return scores, "\n".join(lines)


def draw_confusion(confusion, class_names, path, title):
    """Draw the rows (true classes) in shares of their images, with the counts where there is room."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    from engine import runlog

    count = len(class_names)
    shares = confusion[:, :count] / confusion.sum(axis=1, keepdims=True).clip(1)
    side = max(5.5, 0.24 * count + 2) if count > 10 else 6.5
    figure, axes = pyplot.subplots(figsize=(side + 0.8, side), constrained_layout=True)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    font = 9 if count <= 20 else 5
    axes.set_xticks(range(count), class_names, rotation=90, fontsize=font)
    axes.set_yticks(range(count), class_names, fontsize=font)
    axes.set(xlabel="answer of the net", ylabel="class of the image", title=title)
    if count <= 20:
        for row in range(count):
            for column in range(count):
                if confusion[row, column]:
                    axes.text(column, row, str(confusion[row, column]), ha="center", va="center", fontsize=7,
                              color="white" if shares[row, column] > .5 else "black")
    figure.colorbar(image, ax=axes, shrink=.8, label="share of the class's images")
    runlog.save_figure(figure, path)


def classify(net, paths, class_names, context):
    """Print the five likeliest classes of each picture. The middle square of a picture is scaled to 32x32."""
    import mxnet as mx
    import numpy as np
    from PIL import Image, ImageOps

    from engine import cifar

    for path in paths:
        try:
            with Image.open(path) as picture:
                picture = ImageOps.exif_transpose(picture)  # upright, as a camera means it
                if picture.mode.startswith(("I", "F")):  # more than 8 bits of grey, which convert() would cut off
                    grey = np.asarray(picture, np.float64)
                    if picture.mode == "F" or grey.min() < 0 or grey.max() > 65535:
                        raise ValueError("not a range of grey that is known")
                    picture = Image.fromarray((grey // 257 if grey.max() > 255 else grey).astype(np.uint8))
                picture = picture.convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            reason = getattr(error, "strerror", None) or "it is not a picture that Pillow reads"
            raise InputError(f"{path}: {reason}") from error
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        picture = picture.resize((32, 32), Image.BICUBIC, box=(left, top, left + side, top + side))
        pixels = np.asarray(picture).transpose(2, 0, 1)[None]
        logits = net(mx.nd.array(cifar.normalise(pixels), context)).asnumpy()[0].astype(np.float64)
        if not np.isfinite(logits).all():
            raise InputError(f"the net answers {path} with numbers that are not finite; use another checkpoint")
        chances = np.exp(logits - logits.max())
        chances /= chances.sum()
        best = np.argsort(-chances, kind="stable")[:5]
        names = [class_names[label] if label < len(class_names) else f"output {label}" for label in best]
        print(f"{path}: " + ", ".join(f"{name} {chances[label]:.3f}" for name, label in zip(names, best)))
        print(json.dumps({"image": str(path), "classes": names, "probabilities": [float(chances[i]) for i in best]}))


def main():
    parser, args = parse()
    runtime.tune(args.tune)
    runtime.prepare()  # before NumPy and MXNet load, so that a missing piece is a sentence
    import mxnet as mx

    from engine import checkpoint, cifar, loop, runlog
    from model import get_model, image_size, load_params
    from model.inference import optimize
    from model.zoo import pretrained_file
    from support import params_file

    runlog.start_logging()
    if args.pretrained:
        args.params = str(pretrained_file(args.pretrained))
    arrays, attachments = params_file.read(args.params)
    settings = checkpoint.settings_in(args.params, attachments, required=False)
    if settings is not None:
        checkpoint.require(settings, ("model", "arguments", "dataset", "label_mode"), args.params)
    model, arguments, dataset, mode = task_of(args, settings, arrays)
    names = cifar.class_names(dataset, mode)
    if arguments["classes"] < len(names):
        raise InputError(f"{args.params} has {arguments['classes']} classes, too few for the {len(names)} labels of "
                         f"{dataset}{f' ({mode})' if mode else ''}")
    try:
        cifar.check_size(model, image_size(model, arguments))
        net = get_model(model, **arguments)
    except (InputError, TypeError) as error:
        parser.error(str(error))
    for remark in args.remarks:
        print(remark)
    contexts, sentence = loop.devices(args.gpus)
    load_params(net, args.params, contexts)
    loop.set_mode(net, args.mode)
    if args.images:
        classify(net, args.images, names, contexts[0])
        return 0

    data = cifar.load_or_download(dataset, args.data_dir, mode, args.mirror)
    labels = f" ({mode} labels)" if mode else ""
    print(f"{flags.net_text(model, arguments)}: {args.params}")
    print(f"{dataset}{labels}: {len(data.test):,} test images, data {data.variant}; {sentence}")
    batches = cifar.EvalBatches(data.test, min(args.batch_size, len(data.test)))
    example = mx.nd.array(next(iter(batches))[0], contexts[0])
    forward, form = optimize(net, example, args.fused) if args.mode == "hybrid" else (net, "operator by operator")
    started = time.perf_counter()
    try:
        evaluation = loop.evaluate(net, batches, contexts, len(names), forward)
    except loop.Diverged as error:
        raise InputError(f"{args.params}: {error}; use another checkpoint") from error
    seconds = time.perf_counter() - started
    if evaluation.images != len(data.test):
        raise InputError(f"evaluated {evaluation.images} of {len(data.test)} images")  # never on whole data
    scores, by_class = report(evaluation, names)
    print(f"top-1 accuracy {evaluation.top1:.4f} (error {100 * (1 - evaluation.top1):.2f}%), "
          f"top-5 accuracy {evaluation.top5:.4f} (error {100 * (1 - evaluation.top5):.2f}%), "
          f"cross entropy {evaluation.loss:.4f}")
    print(f"{evaluation.images:,} images in {seconds:.1f} s, {evaluation.images / seconds:,.0f} images/s")
    print(by_class)
    print(form)
    print(runtime.settings_sentence())
    if args.confusion_matrix:
        draw_confusion(evaluation.confusion, names, args.confusion_matrix,
                       f"{model}, {dataset}{labels}: {evaluation.top1:.4f} of {evaluation.images:,} images right")
        print(f"confusion matrix: {args.confusion_matrix}")
    print(json.dumps({
        "params": os.path.basename(args.params), "sha256": sha256(args.params), "model": model, "arguments": arguments,
        "dataset": dataset, "label_mode": mode, "data": data.variant, "data_sha256": data.provenance["sha256"],
        **scores, "seconds": seconds, "images_per_second": evaluation.images / seconds}))
    return 0


if __name__ == "__main__":
    flags.run_script(main)
