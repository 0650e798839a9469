"""One job per GPU: jobs that run side by side on a machine share out its devices."""

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pjd.errors import ParameterError

LISTED = "PJD_DEVICES"
"""Environment variable: indices of the devices to use, such as 0,1,2,3."""

LOCKS = Path(tempfile.gettempdir())
"""Folder of one lock file per device. The system lifts the lock of a process that ended."""

WAIT = 0.2
"""Seconds between two tries to get a device."""


def listed_devices() -> list[str]:
    """The devices that the environment names; none if it names none.

    Raises:
        ParameterError: if something else than indices stands there.
    """
    text = os.environ.get(LISTED, "").strip()
    devices = [part.strip() for part in text.split(",")] if text else []
    if not all(device.isdecimal() for device in devices) or len(set(devices)) < len(devices):
        raise ParameterError(LISTED, text, "must be indices of different devices, such as 0,1,2,3")
    return devices


@contextmanager
def own_device() -> Iterator[str | None]:
    """Hold one of the listed devices, and let this process and those it starts see no other.

    Waits while other jobs of this machine hold all of them. Without a list nothing changes.

    Yields:
        Index of the device; None if the environment lists none.
    """
    devices = listed_devices()
    if not devices:
        yield None
        return
    while True:
        for device in devices:
            with (LOCKS / f"pjd-device-{device}.lock").open("a") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                before = os.environ.get("CUDA_VISIBLE_DEVICES")
                os.environ["CUDA_VISIBLE_DEVICES"] = device
                try:
                    yield device
                finally:
                    del os.environ["CUDA_VISIBLE_DEVICES"]
                    if before is not None:
                        os.environ["CUDA_VISIBLE_DEVICES"] = before
                return
        time.sleep(WAIT)
