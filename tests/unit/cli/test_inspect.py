"""``splitreg inspect`` without a bundle; with one it is in ``tests/integration/test_command_line.py``."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from splitreg.cli.inspect_ import command
from splitreg.coding import Packet
from splitreg.errors import CorruptPacket

PACKET = Packet(model_id=7, original=(480, 640), coded=(96, 128), streams=(b"abc", b"defgh"))


@pytest.fixture
def packet(tmp_path):
    (tmp_path / "p.splitreg").write_bytes(PACKET.to_bytes())
    return tmp_path / "p.splitreg"


def test_text_and_json(packet):
    done = CliRunner().invoke(command, [str(packet)])
    assert done.exit_code == 0
    for fact in ("29 bytes", "21 header", "8 payload", "1 image", "00000007"):
        assert fact in done.output
    assert "length of stream 0" in done.output and "640x480" in done.output
    (report,) = json.loads(CliRunner().invoke(command, [str(packet), "--json"]).output)
    assert report["ok"] and report["crc_fits"] and report["images"] == [{"original": [480, 640], "streams": [3, 5]}]
    assert report["fields"][-1] == {
        "offset": 25,
        "size": 4,
        "name": "CRC-32",
        "value": PACKET.to_bytes()[-4:][::-1].hex(),
    }


@pytest.mark.parametrize(
    "data",
    [b"", b"SR", PACKET.to_bytes()[:-1], b"x" + PACKET.to_bytes()[1:], bytes(100)],
    ids=["empty", "short", "cut", "other", "zeros"],
)
def test_damaged_packets_get_a_report_and_status_1(packet, data):
    bad = packet.with_name("bad.splitreg")
    bad.write_bytes(data)
    with pytest.raises(CorruptPacket) as error:
        Packet.parse(data)
    for arguments in ([], ["--json"]):
        done = CliRunner().invoke(command, [str(bad), str(packet), *arguments])
        assert done.exit_code == 1 and isinstance(done.exception, SystemExit)
        assert str(error.value).partition(":")[0] in done.output
    worse, good = json.loads(done.output)
    assert not worse["ok"] and not worse["crc_fits"] and worse["bytes"] == len(data) and good["ok"]


def test_a_file_that_is_not_there(tmp_path):
    done = CliRunner().invoke(command, [str(tmp_path / "none"), str(tmp_path)])
    assert done.exit_code == 1
    assert next(line for line in done.output.splitlines() if str(tmp_path) in line).startswith(str(tmp_path / "none"))
    reports = json.loads(CliRunner().invoke(command, [str(tmp_path / "none"), str(tmp_path), "--json"]).output)
    assert [report["ok"] for report in reports] == [False, False]


def test_inspect_imports_no_torch(packet):
    code = f"""
import sys
sys.argv = ["splitreg", "inspect", {str(packet)!r}]
from splitreg.cli.main import main
try:
    main()
finally:
    assert "torch" not in sys.modules and "PIL" not in sys.modules
"""
    assert b"00000007" in subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout
