"""What the explorer computes: one thread, the newest wish first, each piece of it stoppable."""

import atexit
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from lulc_lib.storage import give_memory_back

TELL = 0.25  # seconds between two words about the progress of one job
REST = 60.0  # seconds at least from one return of freed memory to the next
LAST = 10.0  # seconds that the end of the process waits for the piece that runs

Between = Callable[..., None]  # called between two pieces of a job, with the images of the next one


class StoppedError(Exception):
    """Ends a job between two of its pieces: something newer is wanted, or nothing any more."""


@dataclass(frozen=True)
class Job:
    """Something to compute.

    Attributes:
        key: two jobs with one key do the same.
        words: what is said while it runs.
        make: does it and keeps the result itself; calls `between(count)` before each piece, which
            raises `StoppedError` where the job is to end. It may be begun again later.
        expected: images that pass through a model until it is done, 0 where that is not known.
    """

    key: Hashable
    words: str
    make: Callable[[Between], Any]
    expected: int = 0


@dataclass(frozen=True)
class Progress:
    """How far the work is.

    Attributes:
        words: what runs now, "" for nothing.
        share: how much of that is done, None where that is not known.
        left: jobs that are not done, the one that runs included.
        held: jobs that were stopped and can go on.
    """

    words: str = ""
    share: float | None = None
    left: int = 0
    held: int = 0


class Work:
    """One thread that runs jobs, those of the newest wish first; it ends when there are none.

    A wish replaces the one before. Errands, such as predictions of all tiles, stay until they are
    done, and wait while there is a wish. A job that is passed over is stopped between two pieces
    and begun again when its turn comes.
    """

    def __init__(self, changed: Callable[[], None], failed: Callable[[Exception], None]):
        """Make it; nothing runs yet.

        Args:
            changed: called in the thread after each job, and now and then within one.
            failed: called in the thread with the error of a job, which is not begun again.
        """
        self._tell, self._fail = changed, failed
        self._turn = threading.Condition()
        self._wishes: list[Job] = []
        self._errands: list[Job] = []
        self._held: list[Job] = []  # wishes that were stopped
        self._held_errands: list[Job] = []
        self._thread: threading.Thread | None = None
        self._running: Job | None = None
        self._passed = 0  # images of the job that runs
        self._told = 0.0
        self._returned = -REST
        self._closed = False
        _ALIVE.add(self)

    def want(self, jobs: Sequence[Job]) -> None:
        """Replace what is wanted now; what was stopped and is still wanted stays stopped."""
        with self._turn:
            keys = {job.key for job in jobs}
            self._held = [job for job in self._held if job.key in keys]
            stopped = {job.key for job in self._held}
            self._wishes = [job for job in jobs if job.key not in stopped]
            self._start()

    def add(self, job: Job, first: bool = False) -> None:
        """Add an errand; one with the same key that waits or was stopped is replaced."""
        with self._turn:
            self._errands = [
                one for one in self._errands if one.key != job.key or one is self._running
            ]
            self._held_errands = [one for one in self._held_errands if one.key != job.key]
            self._errands.insert(0 if first else len(self._errands), job)
            self._start()

    def stop(self) -> None:
        """Stop all that runs or waits, until `go_on`."""
        with self._turn:
            self._held += self._wishes
            self._held_errands += self._errands
            self._wishes, self._errands = [], []
            self._turn.notify_all()

    def go_on(self) -> None:
        """Go on with what was stopped."""
        with self._turn:
            self._wishes += self._held
            self._errands += self._held_errands
            self._held, self._held_errands = [], []
            self._start()

    def close(self) -> None:
        """Stop for good."""
        with self._turn:
            self._closed = True
            self._wishes, self._errands, self._held, self._held_errands = [], [], [], []
            self._turn.notify_all()

    def is_held(self, key: Hashable) -> bool:
        """Say whether a job was stopped."""
        with self._turn:
            return any(job.key == key for job in self._held)

    @property
    def progress(self) -> Progress:
        """How far the work is now."""
        with self._turn:
            left = len(self._wishes) + len(self._errands)
            held = len(self._held) + len(self._held_errands)
            job = self._first()
            if job is None:
                return Progress(held=held)
            share = min(1.0, self._passed / job.expected) if job.expected else None
            return Progress(job.words, share, left, held)

    def wait(self, seconds: float = 600) -> bool:
        """Wait until nothing is left to do; return whether that is so."""
        with self._turn:
            return self._turn.wait_for(lambda: self._thread is None, seconds)

    def ask(self, words: str, make: Callable[[Between], Any]) -> Any:
        """Do something before all other errands, wait for it, and return what comes of it.

        Raises:
            RuntimeError: if the work was stopped before it was done.
        """
        if self._closed or threading.current_thread() is self._thread:
            return make(lambda *_: None)
        found: list[Any] = []
        errors: list[Exception] = []

        def kept(between: Between) -> None:
            try:
                found.append(make(between))
            except StoppedError:
                raise
            except Exception as error:
                errors.append(error)

        job = Job(object(), words, kept)
        self.add(job, first=True)
        with self._turn:
            try:
                self._turn.wait_for(lambda: job not in self._errands)
            finally:
                self._drop_errand(job)
        if errors:
            raise errors[0]
        if not found:
            raise RuntimeError(f"{words}: the work was stopped")
        return found[0]

    # --- the thread ---

    def _start(self) -> None:
        if self._closed or self._thread is not None or self._first() is None:
            return
        self._thread = threading.Thread(target=self._run, name="lulc explorer", daemon=True)
        self._thread.start()

    def _first(self) -> Job | None:
        return next(iter((*self._wishes, *self._errands)), None)

    def _run(self) -> None:
        while True:
            with self._turn:
                job = self._running = self._first()
                if job is None:
                    self._rest()
                    self._thread = None
                    self._turn.notify_all()
                    return
                self._passed, self._told = 0, time.monotonic()
            self._do(job)

    def _rest(self) -> None:
        """Give memory back now and then: others have open panels too."""
        now = time.monotonic()
        if now - self._returned >= REST:
            self._returned = now
            give_memory_back()

    def _do(self, job: Job) -> None:
        error: Exception | None = None
        try:
            job.make(lambda count=1: self._between(job, count))
        except StoppedError:
            return
        except Exception as reason:
            error = reason
        if error is not None:
            self._fail(error)
        with self._turn:
            self._wishes = [one for one in self._wishes if one.key != job.key]
            self._held = [one for one in self._held if one.key != job.key]
            self._drop_errand(job)
        self._tell()
        with self._turn:
            self._turn.notify_all()

    def _drop_errand(self, job: Job) -> None:
        self._errands = [one for one in self._errands if one is not job]
        self._held_errands = [one for one in self._held_errands if one is not job]

    def _between(self, job: Job, count: int) -> None:
        """End a job that is no longer the first to do; else count its images, and tell of them.

        A wish is made anew with each state, so that its key says which it is; an errand is itself.
        """
        with self._turn:
            first = self._first()
            if first is not job and not (self._wishes and first.key == job.key):
                raise StoppedError
            now, passed = time.monotonic(), self._passed
            self._passed += count
            tells = passed and now - self._told >= TELL
            if tells:
                self._told = now
        if tells:
            self._tell()


_ALIVE: "weakref.WeakSet[Work]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """End all work before the interpreter goes: a thread inside PyTorch would abort the process."""
    for work in list(_ALIVE):
        work.close()
        work.wait(LAST)
