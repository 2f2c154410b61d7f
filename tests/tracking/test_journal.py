"""The journal: nothing is lost, nothing is delivered twice, a line cut short by a kill is not an event."""

from tasks.tracking.journal import Journal


def test_events_wait_until_acknowledged(tmp_path):
    journal = Journal(tmp_path, "run")
    journal.write("start", name="a")
    journal.write("end", name="b")
    offset, event = next(iter(journal.pending()))
    assert event == {"kind": "start", "name": "a"}
    journal.acknowledge(offset)
    assert [event["kind"] for _, event in Journal(tmp_path, "run").pending()] == ["end"]
    assert not journal.everything_delivered()


def test_all_acknowledged(tmp_path):
    journal = Journal(tmp_path, "run")
    journal.write("start")
    for offset, _ in list(journal.pending()):
        journal.acknowledge(offset)
    assert journal.everything_delivered()


def test_half_a_line_is_no_event_yet(tmp_path):
    journal = Journal(tmp_path, "run")
    journal.write("start")
    with open(journal.path, "a") as file:
        file.write('{"kind": "e')
    assert [event["kind"] for _, event in journal.pending()] == ["start"]


def test_a_damaged_mark_delivers_again_rather_than_never(tmp_path):
    journal = Journal(tmp_path, "run")
    journal.write("start")
    journal.mark.write_text("garbage")
    assert len(list(journal.pending())) == 1


def test_what_follows_half_a_line_is_not_lost_with_it(tmp_path):
    with open(Journal(tmp_path, "run").path, "w") as file:
        file.write('{"kind": "e')
    Journal(tmp_path, "run").write("start")
    assert [event["kind"] for _, event in Journal(tmp_path, "run").pending()] == ["start"]


def test_one_at_a_time_delivers(tmp_path):
    first, second = Journal(tmp_path, "run"), Journal(tmp_path, "run")
    assert first.claim()
    assert first.claim(), "who has it keeps it"
    assert not second.claim()
    first.release()
    assert second.claim()
