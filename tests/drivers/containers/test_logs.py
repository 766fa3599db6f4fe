"""The log is rotated and read without losing a line; its share is a promise. No container needed: files only."""

from __future__ import annotations

from nebh.drivers.containers.logs import NAME, read_page, rotate, share_of, tail_cursor


class Writer:
    """Writes as conmon does: a new file takes the log's place after every `piece` bytes."""

    def __init__(self, folder, *, piece=1 << 40):
        self.folder = folder
        self.count = 0
        self.piece, self.written = piece, 0
        self.reopen()

    def reopen(self):
        beside = self.folder / f"{NAME}.tmp"
        self.file = beside.open("wb", buffering=0)
        beside.rename(self.folder / NAME)

    def write(self, number):
        for _ in range(number):
            line = b"2026-01-01T00:00:00.%09d+00:00 stdout F line %d\n" % (self.count, self.count)
            self.written += len(line)
            if self.written > self.piece:
                self.written = len(line)
                self.reopen()
            self.file.write(line)
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
    share = share_of(log_bytes=50_000, log_files=4)
    writer = Writer(tmp_path, piece=share.piece)
    rotate(tmp_path, share=share)
    seen, cursor = follow(tmp_path, "")
    for turn in range(120):
        writer.write(37)
        more, cursor = follow(tmp_path, cursor)
        seen += more
        if turn % 2:
            rotate(tmp_path, share=share)
    seen += follow(tmp_path, cursor)[0]
    assert seen == [f"line {number}" for number in range(writer.count)]
    assert (tmp_path / f"{NAME}.3").exists()
    assert not (tmp_path / f"{NAME}.4").exists()


def test_all_files_together_stay_below_their_share(tmp_path):
    share = share_of(log_bytes=50_000, log_files=3)
    writer = Writer(tmp_path, piece=share.piece)
    for turn in range(120):
        writer.write(61 if turn < 80 else 1000)
        used = {path.stat().st_ino: path.stat().st_size for path in tmp_path.iterdir()}
        assert sum(used.values()) <= 50_000
        kept = rotate(tmp_path, share=share)
        used = {path.stat().st_ino: path.stat().st_size for path in tmp_path.iterdir()}
        assert kept == sum(used.values())


def test_lost_lines_are_told(tmp_path):
    share = share_of(log_bytes=20_000, log_files=2)
    writer = Writer(tmp_path, piece=share.piece)
    writer.write(3)
    page = read_page(tmp_path, cursor="", limit=2)
    for _ in range(5):
        writer.write(140)
        rotate(tmp_path, share=share)
    assert read_page(tmp_path, cursor=page.cursor, limit=1).lost


def test_half_lines_wait_and_odd_bytes_are_shown(tmp_path):
    path = tmp_path / NAME
    path.write_bytes(
        b"2026-01-01T00:00:00.000000001Z stderr P one \n2026-01-01T00:00:00.000000002Z stderr F t\xffwo\n2026"
    )
    page = read_page(tmp_path, cursor="", limit=10)
    assert [(line.stream, line.text, line.partial) for line in page.lines] == [("stderr", "one t�wo", False)]
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


def test_a_line_that_conmon_has_cut_is_joined_once_its_end_is_there(tmp_path):
    path = tmp_path / NAME
    begin = b"2026-01-01T00:00:00.000000001Z stdout F first\n2026-01-01T00:00:00.000000002Z stdout P sec\n"
    path.write_bytes(begin)
    page = read_page(tmp_path, cursor="", limit=10)
    assert [line.text for line in page.lines] == ["first"]
    waiting = read_page(tmp_path, cursor=page.cursor, limit=10)
    assert [(line.text, line.partial) for line in waiting.lines] == [("sec", True)]  # a prompt is shown all the same
    with path.open("ab") as file:
        file.write(b"2026-01-01T00:00:00.000000003Z stdout F ond\n2026-01-01T00:00:00.000000004Z stderr F third\n")
    page = read_page(tmp_path, cursor=page.cursor, limit=1)
    assert [(line.text, line.partial) for line in page.lines] == [("second", False)]
    assert [line.text for line in read_page(tmp_path, cursor=page.cursor, limit=10).lines] == ["third"]


def test_a_half_line_with_other_output_behind_it_holds_nothing_up(tmp_path):
    rows = ("stdout F first", "stderr P sh: ", "stdout F between", "stderr F not found")
    text = "".join(f"2026-01-01T00:00:00.00000000{number}Z {row}\n" for number, row in enumerate(rows))
    (tmp_path / NAME).write_text(text)
    page = read_page(tmp_path, cursor="", limit=10)
    assert [line.text for line in page.lines] == ["first", "sh: ", "between", "not found"]
    assert [line.partial for line in page.lines] == [False, True, False, False]
