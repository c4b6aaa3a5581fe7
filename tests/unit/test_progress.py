import sys

from splitreg.progress import Progress


def test_without_a_terminal_only_lines_are_shown(capfd):
    progress = Progress()
    with progress.bar("training", 10) as bar:
        bar.update(5, "loss 0.5")
        progress.print("epoch 1")
    assert list(progress.track("abc", 3, "letters")) == ["a", "b", "c"]
    assert capfd.readouterr() == ("", "epoch 1\n")


def test_bars_of_nested_tasks_share_a_display(capfd, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    outer, inner = Progress(), Progress()
    with outer.bar("all steps", 4) as bar:
        assert list(inner.track(range(3), 3, "one step")) == [0, 1, 2]
        bar.update(2, "about 3 min")
        inner.print("a line [1/2]")
    out, err = capfd.readouterr()
    assert out == "" and all(text in err for text in ("all steps", "one step", "about 3 min", "a line [1/2]"))
    with outer.bar("again", 1):  # the display starts anew
        pass
    assert "again" in capfd.readouterr().err


def test_nothing_is_shown_when_it_is_disabled(capfd, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress = Progress(enabled=False)
    with progress.bar("training", 1) as bar:
        bar.update(1)
        progress.print("a line")
    assert capfd.readouterr() == ("", "")
