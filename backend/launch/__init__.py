"""Start a training's workers, servers and scheduler, here or over ssh, and end all of them when one dies.

    scripts/launch.sh -n 4 -H hosts -- train_imagenet.py --kvstore dist_sync_device ...

MXNet's parameter server waits for a dead member without end and without a word, so the launcher supervises from
outside. Servers and the scheduler run this module too (`--serve`). Every member runs below a small process, its guard
(`--member`), on its own machine:

- The guard reads a line of JSON (what to run), then commands from its standard input. The end of that input, as when
  the launcher is killed or the connection breaks, ends the member, so that nothing is left behind.
- The guard's standard output is the member's. On standard error it reports (a line of JSON behind guard.MARK).
"""
