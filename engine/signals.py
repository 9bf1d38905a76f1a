"""SIGTERM, SIGINT and SIGHUP as a request to save and stop."""
import contextlib
import os
import select
import signal
import sys
import threading
import time


class Stopped(Exception):
    """A signal ended the run; everything is saved. status : the exit status that a shell expects."""

    def __init__(self, message, number):
        super().__init__(message)
        self.status = 128 + number


class StopSignal:
    """Notes the first SIGTERM, SIGINT or SIGHUP, so that the present step can end and be saved; the second kills.

    An ignored SIGHUP (nohup) stays ignored. A step may wait forever, as MXNet does if one of its threads found no
    memory, and Python's handlers run only between the calls of the main thread. So a thread listens too: it ends the
    process at the second signal, or if the main thread has not noted the first after `patience` seconds.
    """

    received, _previous = None, {}

    def __init__(self, patience=900.0):
        self.patience = patience

    def __enter__(self):
        self._terminal = os.isatty(sys.__stderr__.fileno()) if sys.__stderr__ else False
        self._heard, self._told = os.pipe()
        os.set_blocking(self._told, False)
        self._listener = threading.Thread(target=self._listen, name="signals", daemon=True)
        self._listener.start()
        self._wakeup = signal.set_wakeup_fd(self._told, warn_on_full_buffer=False)
        self._previous = {number: signal.signal(number, self._note)
                          for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
                          if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN}
        return self

    def _note(self, number, frame):
        self.received = number
        signal.signal(number, signal.SIG_DFL)
        if self._terminal and not os.isatty(sys.__stderr__.fileno()):
            # The terminal is gone: writing to it would raise an error and end the run unsaved.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for stream in (1, 2):
                os.dup2(nowhere, stream)

    def _listen(self):
        heard, until = [], None
        while True:
            left = None if until is None else max(0, until - time.monotonic())
            if not select.select([self._heard], [], [], left)[0]:
                if self.received is not None:  # the main thread has noted it
                    until = None
                    continue
                with contextlib.suppress(OSError):
                    os.write(2, f"the step under way did not end in the {self.patience:g} s since "
                                f"{signal.Signals(heard[0]).name}: left without saving it\n".encode())
                os._exit(128 + heard[0])
            for number in os.read(self._heard, 64):
                if number == 0:
                    return
                if number in heard:
                    os._exit(128 + number)
                if number in self._previous:
                    heard.append(number)
                    until = until or time.monotonic() + self.patience

    def __exit__(self, *exception):
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.write(self._told, b"\0")
        self._listener.join()
        for end in (self._heard, self._told):
            os.close(end)
