"""The log is rotated and read without losing a line; its share is a promise. No container needed: files only."""

from __future__ import annotations

from nebh.drivers.containers.logs import NAME, read_page, rotate, share_of, tail_cursor


class Writer:
    """Writes as conmon does: into the file it has open, until it is told to reopen."""

    def __init__(self, folder):
        self.folder = folder
        self.count = 0
        self.reopen()

    def reopen(self):
        self.file = (self.folder / NAME).open("ab", buffering=0)

    def write(self, number):
        for _ in range(number):
            self.file.write(b"2026-01-01T00:00:00.%09d+00:00 stdout F line %d\n" % (self.count, self.count))
            self.count += 1


def follow(folder, cursor, limit=7):
    texts = []
    while True:
        page = read_page(folder, cursor=cursor, limit=limit)
        assert not page.lost
        if not page.lines:
            return texts, page.cursor
        texts += [line.text for line in page.lines]
        cursor = page.cursor


def test_a_follower_sees_every_line_across_rotations(tmp_path):
    writer, share = Writer(tmp_path), share_of(log_bytes=100_000, log_files=4)
    seen, cursor = follow(tmp_path, "")
    for _ in range(60):
        writer.write(37)
        more, cursor = follow(tmp_path, cursor)
        seen += more
        rotate(tmp_path, control=tmp_path / "ctl", share=share)
        writer.write(5)  # between rename and reopen: still the old file
        more, cursor = follow(tmp_path, cursor)
        seen += more
        if not (tmp_path / NAME).exists():
            writer.write(3)
            writer.reopen()
    seen += follow(tmp_path, cursor)[0]
    assert seen == [f"line {number}" for number in range(writer.count)]
    assert (tmp_path / f"{NAME}.3").exists()
    assert not (tmp_path / f"{NAME}.4").exists()


def test_all_files_together_stay_below_their_share(tmp_path):
    writer, share = Writer(tmp_path), share_of(log_bytes=50_000, log_files=3)
    for _ in range(80):
        writer.write(61)
        kept = rotate(tmp_path, control=tmp_path / "ctl", share=share)
        writer.reopen()
        assert kept == sum(path.stat().st_size for path in tmp_path.iterdir())
        assert kept + share.drop_at <= 50_000 + share.rotate_at
    assert share.keep_bytes + share.drop_at <= 50_000


def test_lost_lines_are_told(tmp_path):
    writer, share = Writer(tmp_path), share_of(log_bytes=20_000, log_files=2)
    writer.write(3)
    page = read_page(tmp_path, cursor="", limit=2)
    for _ in range(5):
        writer.write(110)
        rotate(tmp_path, control=tmp_path / "ctl", share=share)
        writer.reopen()
    assert read_page(tmp_path, cursor=page.cursor, limit=1).lost


def test_half_lines_wait_and_odd_bytes_are_shown(tmp_path):
    path = tmp_path / NAME
    path.write_bytes(
        b"2026-01-01T00:00:00.000000001Z stderr P one \n2026-01-01T00:00:00.000000002Z stderr F t\xffwo\n2026"
    )
    page = read_page(tmp_path, cursor="", limit=10)
    assert [(line.stream, line.text, line.partial) for line in page.lines] == [
        ("stderr", "one ", True),
        ("stderr", "t�wo", False),
    ]
    with path.open("ab") as file:
        file.write(b"-01-01T00:00:00.000000003Z stdout F three\n")
    assert [line.text for line in read_page(tmp_path, cursor=page.cursor, limit=10).lines] == ["three"]
    assert read_page(tmp_path, cursor="nonsense", limit=1).lines


def test_the_tail_starts_so_many_lines_before_the_end(tmp_path):
    assert tail_cursor(tmp_path, lines=3) == ""
    Writer(tmp_path).write(10)
    for count in (0, 1, 3, 10, 50):
        texts, _ = follow(tmp_path, tail_cursor(tmp_path, lines=count))
        assert texts == [f"line {number}" for number in range(10 - min(count, 10), 10)]


def test_no_folder_is_no_lines(tmp_path):
    page = read_page(tmp_path / "none", cursor="", limit=5)
    assert (page.lines, page.cursor) == ((), "")
