import os

import pytest

from worker.resources import allowed_cpus


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A machine of 8 CPUs with the cgroup files given as {path: text}."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)

    def count(own, files):
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(own)
        for name, text in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return allowed_cpus(tmp_path / "proc", tmp_path / "cgroup")

    return count


@pytest.mark.parametrize(
    ("own", "files", "cpus"),
    [
        ("0::/\n", {}, 8),
        ("0::/app\n", {"app/cpu.max": "200000 100000\n"}, 2),
        ("0::/app/job\n", {"app/cpu.max": "150000 100000\n", "app/job/cpu.max": "max 100000\n"}, 1),
        ("0::/app\n", {"app/cpu.max": "max 100000\n"}, 8),
        ("0::/app\n", {"app/cpu.max": "20000 100000\n"}, 1),
        ("0::/hidden\n", {"cpu.max": "300000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "1600000 100000\n"}, 8),
        (
            "4:cpu,cpuacct:/docker/x\n3:memory:/docker/x\n",
            {"cpu/docker/x/cpu.cfs_quota_us": "400000", "cpu/docker/x/cpu.cfs_period_us": "100000"},
            4,
        ),
        (
            "4:cpu,cpuacct:/docker/x\n",
            {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
            8,
        ),
    ],
)
def test_quota_lowers_the_count(system, own, files, cpus):
    """The tightest of affinity and the quotas of the cgroup and its parents counts."""
    assert system(own, files) == cpus


def test_affinity_lowers_the_count(system, monkeypatch):
    """A process pinned to one CPU uses one thread."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3}, raising=False)
    assert system("0::/\n", {}) == 1
