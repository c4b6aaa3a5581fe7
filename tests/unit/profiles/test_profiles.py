"""Profiles in the package state every source; those of users are checked."""

import pytest

from splitreg.errors import BenchError
from splitreg.link_emulator import Lane, LinkTrace
from splitreg.profiles import devices, links, read_device, read_link


def test_every_profile_is_valid_and_says_where_its_figures_come_from():
    assert {"jetson-nano", "raspberry-pi-4"} <= set(devices())
    assert {"lora", "nb-iot", "lte-m", "4g", "4g-driving", "wifi", "satellite-leo"} <= set(links())
    for profile in [*map(read_device, devices()), *map(read_link, links())]:
        assert profile.summary and all(len(figure.source) > 3 for figure in profile.figures.values())
    assert read_device("raspberry-pi-5").gmacs(1) > 4 * read_device("raspberry-pi-4").gmacs(1)
    assert read_link("lora").seconds(500, 500) > read_link("4g").seconds(500, 500) > read_link("wifi").seconds(500, 500)


FIGURE = '[figures.{name}]\nvalue = {value}\nsource = "a data sheet"\n'


def write(path, *figures, head='summary = "mine"\n'):
    path.write_text(head + "".join(FIGURE.format(name=name, value=value) for name, value in figures))
    return path


def test_a_device_of_a_user(tmp_path):
    path = write(tmp_path / "mine.toml", ("gmacs_per_s", 2), ("active_watts", 3))
    device = read_device(path)
    assert (device.name, device.gmacs(1), device.compute_joules(0.5, 1e9)) == ("mine", 2.0, 1.5)
    other = read_device(write(tmp_path / "other.toml", ("gmacs_per_s", 2), ("joules_per_gmac", 0.4)))
    assert other.compute_joules(0.5, 1e9) == pytest.approx(0.4)
    assert read_device(write(tmp_path / "none.toml", ("gmacs_per_s", 2))).compute_joules(1, 1) is None


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("", "summary"),
        ('summary = "x"\n', "gmacs_per_s"),
        ('summary = "x"\n[figures.gmacs]\nvalue = 1\nsource = "y"\n', "'gmacs'.*'gmacs_per_s'"),
        ('summary = "x"\n[figures.gmacs_per_s]\nvalue = 1\n', "source"),
        ('summary = "x"\n[figures.gmacs_per_s]\nvalue = -1\nsource = "y"\n', "-1"),
        ('summary = "x"\n[figures.gmacs_per_s]\nvalue = 1\nsource = " "\n', "source"),
        ('summary = "x"\nbundle = 1\n' + FIGURE.format(name="gmacs_per_s", value=1), "'bundle'"),
        ("summary = ", "mine.toml"),
    ],
)
def test_profiles_that_are_not_valid(tmp_path, text, fact):
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(BenchError, match=fact):
        read_device(tmp_path / "mine.toml")


def test_a_name_that_is_none():
    with pytest.raises(BenchError, match="'rasberry-pi-4'.*raspberry-pi-4"):
        read_device("rasberry-pi-4")
    with pytest.raises(BenchError, match="'lorra'.*lora"):
        read_link("lorra")


def test_a_recording_delivers_when_it_could(tmp_path):
    trace = LinkTrace([100, 100, 200, 1000])  # 4 packets of 1,500 bytes per second
    assert trace.bps == pytest.approx(4 * 1500 * 8)
    assert trace.transfer_s(1, 0) == pytest.approx(0.1) and trace.transfer_s(3000, 0) == pytest.approx(0.1)
    assert trace.transfer_s(3001, 0) == pytest.approx(0.2) and trace.transfer_s(1, 0.5) == pytest.approx(0.5)
    assert trace.transfer_s(2 * 1500, 0.5) == pytest.approx(0.6)  # repeats
    assert trace.typical_s(1500) < trace.typical_s(15000) and trace.typical_s(1, 0.9) > trace.typical_s(1, 0.1)
    (tmp_path / "up").write_text("100\n100\n200\n1000\n")
    head = 'summary = "recorded"\nup_trace = "up"\n'
    path = write(tmp_path / "drive.toml", ("down_bps", 1e6), ("rtt_s", 0.1), head=head)
    link = read_link(path)
    assert link.up.bps == trace.bps and link.emulated().up_bps == trace.bps
    assert link.seconds(1500, 100) > 0.1
    profile = link.emulated()
    assert profile.up_trace.times_ms == trace.times_ms and profile.down_trace is None
    for start in (0.0, 0.35, 7.2):  # what is predicted is what the emulator does
        lane = Lane(profile.up_bps, profile, 0, profile.up_trace)
        assert lane.arrival(start, 4000) - profile.delay_s - start == pytest.approx(trace.transfer_s(4000, start))
    for text in ("", "2\n1\n", "x\n"):
        (tmp_path / "up").write_text(text)
        with pytest.raises(BenchError):
            read_link(path)


@pytest.mark.parametrize("name", ["lora", "lte-m", "wifi"])
@pytest.mark.parametrize("size", [500, 4000, 20000])
def test_the_expected_time_is_that_of_the_emulator(name, size):
    """The median over many transfers of the emulator's arithmetic, one direction."""
    link = read_link(name)
    profile = link.emulated()
    times = []
    for seed in range(300):
        lane, last = Lane(profile.up_bps, profile, seed), 0.0
        for start in range(0, size, 1460):
            last = max(last, lane.arrival(0.0, min(1460, size - start)))
        times.append(last)
    expected = link.seconds(size, 0) - profile.delay_s - (link.seconds(0, 0) - 2 * profile.delay_s) / 2
    assert expected == pytest.approx(sorted(times)[150], rel=0.1)
