"""Jobs side by side: each has a device of its own, and waits while there is none."""

import os
import signal
import subprocess
import sys
import time

import pytest

from pjd.errors import ParameterError
from pjd.paths import ROOT
from pjd.pipeline import devices
from pjd.pipeline.devices import listed_devices, own_device

JOB = """
import os, sys, time
from pathlib import Path
from pjd.pipeline import devices
devices.LOCKS = Path(sys.argv[1])
with devices.own_device() as device:
    assert os.environ["CUDA_VISIBLE_DEVICES"] == device
    print(device, flush=True)
    time.sleep(float(sys.argv[2]))
"""


def job(folder, seconds: float) -> subprocess.Popen:
    """A process that holds a device for a while."""
    return subprocess.Popen(
        [sys.executable, "-c", JOB, str(folder), str(seconds)],
        cwd=ROOT,
        env={**os.environ, "PJD_DEVICES": "2,5"},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_each_job_has_a_device_and_a_killed_one_frees_its_own(tmp_path):
    first, second = job(tmp_path, 60), job(tmp_path, 60)
    held = [process.stdout.readline().strip() for process in (first, second)]
    assert sorted(held) == ["2", "5"]
    third = job(tmp_path, 0)
    time.sleep(0.5)
    assert third.poll() is None
    first.send_signal(signal.SIGKILL)
    assert third.communicate(timeout=30)[0].strip() == held[0] and third.returncode == 0
    second.kill()
    for process in (first, second):
        process.communicate()


def test_without_a_list_nothing_changes(monkeypatch):
    monkeypatch.delenv("PJD_DEVICES", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    with own_device() as device:
        assert device is None and os.environ["CUDA_VISIBLE_DEVICES"] == "7"


def test_what_was_visible_before_is_visible_after(monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "LOCKS", tmp_path)
    monkeypatch.setenv("PJD_DEVICES", " 1 ")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    with pytest.raises(ZeroDivisionError), own_device() as device:
        assert device == os.environ["CUDA_VISIBLE_DEVICES"] == "1"
        raise ZeroDivisionError
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "7"


@pytest.mark.parametrize("text", ["0,0", "a", "0,", "-1", "0;1", "0 1"])
def test_what_is_no_list_of_devices_is_refused(monkeypatch, text):
    monkeypatch.setenv("PJD_DEVICES", text)
    with pytest.raises(ParameterError, match=r"PJD_DEVICES = .*such as 0,1,2,3"):
        listed_devices()
