"""Deploy, roll back, stop, start, scale, pin, abort, resume, remove: through a real controller, proven by receipts."""

from __future__ import annotations

import re
import time

import pytest

from nebh.model.statement import Action, Assignment, Order, Phase

pytestmark = pytest.mark.e2e

SCALED = "replicas: {count: 1, min: 1, max: 3}\n"


def assignments(rig) -> list[Assignment]:
    return [one for one in rig.node.took if isinstance(one, Assignment)]


def test_01_deploy_ends_with_the_receipt_and_the_way_back(rig):
    out = rig.good("deploy", rig.spec("v1", more=SCALED))
    assert re.search(r"committed on one \(receipt \d+, signed by the node\)", out)
    assert "undo with: nebh rm web" in out
    out = rig.good("deploy", rig.spec("v2", more=SCALED))
    assert "undo with: nebh rollback web --to 1" in out


def test_02_rollback_takes_the_committed_release_before(rig):
    out = rig.data("rollback", "web")
    assert (out["release"], out["ok"], out["undo"]) == (1, True, "nebh rollback web --to 2")
    status, _, err = rig.run("rollback", "web")
    assert (status, "no earlier release was committed" in err) == (7, True)
    assert rig.data("rollback", "web", "--to", "2")["receipts"][0]["outcome"] == "committed"
    status, _, err = rig.run("rollback", "web", "--to", "9")
    assert (status, "it is not listed" in err) == (7, True)
    status, _, err = rig.run("rollback", "web", "--to", "2")
    assert (status, "is the one that runs" in err) == (2, True)


def test_03_stop_start_restart_and_scale(rig):
    assert "stopped on one" in rig.good("stop", "web")
    assert rig.data("status", "web")["state"] == "stopped"
    status, _, err = rig.run("restart", "web")
    assert (status, "`nebh start web`" in err) == (2, True)
    rig.good("start", "web")
    rig.good("restart", "web")
    rig.good("scale", "web", "3")
    assert [one.phase for one in assignments(rig)] == [Phase.WITHDRAW, Phase.RUN, Phase.RESTART, Phase.RUN]
    assert assignments(rig)[-1].replicas == 3
    status, _, err = rig.run("scale", "web", "4")
    assert (status, "its policy allows 1 to 3 (replicas.max)" in err) == (2, True)
    assert rig.run("scale", "web", "0")[0] == 2
    rig.good("scale", "web", "1")


def test_04_a_pin_widens_and_asks(rig):
    status, _, err = rig.run("pin", "web", "1")
    assert status == 2
    assert "widens: policy of web: pins: (none) -> 1" in err
    done = rig.data("pin", "web", "1", "--yes-widen")
    assert (done["release"], done["pinned"], done["undo"]) == (1, True, "nebh unpin web 1")
    assert [one["outcome"] for one in done["receipts"]][-1:] == ["committed"]
    again = rig.data("pin", "web", "1")
    assert (again["ok"], again["receipts"]) == (True, [])
    rows = rig.data("releases", "web")["releases"]
    assert [(one["counter"], one["pinned"], one["running"], bool(one["committed_at"])) for one in rows] == [
        (2, False, True, True),
        (1, True, False, True),
    ]
    assert "pinned" in rig.good("releases", "web")
    rig.good("unpin", "web", "1")
    assert rig.run("pin", "web", "77", "--yes-widen")[0] == 7


def test_05_refused_and_rolled_back_are_errors_that_say_why(rig):
    rig.node.behaviour = "refuse"
    status, out, err = rig.run("deploy", rig.spec("v3", more=SCALED))
    assert status == 3
    assert "one refused release 3 of web (N5.floor): below the floor" in err
    assert "\x1b" not in out + err
    assert "\\x07" in err
    out = rig.good("why", "web")
    assert "refused on one by rule N5.floor" in out
    assert "hint: pin it" in out
    assert "\x1b" not in out
    rig.node.behaviour = "back"
    status, _, err = rig.run("deploy", rig.spec("v3", more=SCALED), "--yes-widen")
    assert (status, "was rolled back on one: check failed" in err) == (8, True)
    assert rig.data("why", "web")["receipts"][0]["outcome"] == "rolled-back"


def test_06_a_second_deploy_says_who_and_the_way_out_and_abort_ends_it(rig):
    rig.node.behaviour = "wait"
    rig.good("deploy", rig.spec("v4", more=SCALED), "--detach")
    status, _, err = rig.run("deploy", rig.spec("v5", more=SCALED))
    assert status == 6
    assert "is being deployed by" in err
    assert "nebh abort web" in err
    wait_for(lambda: rig.data("status", "web")["allocations"][0]["running"]["transaction"])
    assert "checking release" in rig.good("status")
    out = rig.good("abort", "web")
    assert "rolled-back on one" in out
    assert [one.action for one in rig.node.took if isinstance(one, Order)] == [Action.ABORT]
    assert rig.run("abort", "web")[0] == 7


def test_07_rollback_ends_an_open_deployment_and_resume_goes_on(rig):
    rig.node.behaviour = "wait"
    rig.good("deploy", rig.spec("v5", more=SCALED), "--detach")
    assert rig.data("rollback", "web")["release"] == 2
    rig.node.behaviour = "wait"
    rig.good("deploy", rig.spec("v6", more=SCALED), "--detach")
    wait_for(lambda: rig.data("status", "web")["allocations"][0]["running"]["transaction"])
    assert "committed on one" in rig.good("resume", "web")


def test_08_ctrl_c_says_what_goes_on_and_how_to_take_it_back(rig, press_ctrl_c):
    rig.node.behaviour = "mute"
    before = rig.data("status", "web")["allocations"][0]["running"]["counter"]
    press_ctrl_c(2.0)
    status, _, err = rig.run("restart", "web")
    assert status == 130
    assert "goes on without this command" in err
    assert "`nebh events --service web --follow`" in err
    rig.node.behaviour = "commit"
    assert rig.data("rollback", "web", "--to", str(before))["ok"]


def test_09_silence_is_unconfirmed(rig):
    rig.node.behaviour = "mute"
    status, _, err = rig.run("restart", "web", "--timeout", "1")
    assert (status, "unconfirmed: one did not confirm" in err) == (4, True)
    rig.node.behaviour = "commit"
    rig.good("rollback", "web")


def test_10_what_a_policy_allows_more_is_asked_for(rig):
    status, _, err = rig.run("deploy", rig.spec("v6", more=SCALED.replace("max: 3", "max: 5")))
    assert status == 2
    assert "replicas.max: 3 -> 5" in err


def test_11_rm_orders_waits_and_unsigns_and_a_new_deploy_begins_anew(rig):
    status, _, err = rig.run("rm", "web")
    assert (status, "--yes" in err) == (2, True)
    out = rig.good("rm", "web", "--yes")
    assert "removed on one" in out
    assert "web is gone" in out
    assert rig.run("status", "web")[0] == 7
    assert rig.run("rm", "web", "--yes")[0] == 7
    rig.good("deploy", rig.spec("v7"))
    # Nodes keep the floors of removed services: the numbers begin anew in a new epoch.
    assert [(one.epoch, one.counter) for one in assignments(rig)] == [(2, 1)]


def wait_for(look, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("words", [("rollback",), ("scale", "web", "x"), ("nonsense",), ("logs",)])
def test_12_misuse_is_explained(rig, words):
    status, _, err = rig.run(*words)
    assert status == 2
    assert "--help` explains" in err
