"""The sync's program, really run: rclone, a hub and an object store on loopback, with files of some megabytes."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from standins.hub import Fault, Hub
from tests.support.patience import PATIENCE_SECONDS
from tests.unit.components.conftest import (
    KEY_SECRET,
    MANIFEST,
    MODEL,
    PREFIX,
    REPOSITORY,
    SHARDS,
    WANTED,
    Room,
    eventually,
    kill,
)

pytestmark = pytest.mark.rehearsal
SOAK = pytest.mark.soak

TOKEN = "canary-hub-token"
HUGGING_FACE = {"HUB_KIND": "huggingface", "REVISION": "main"}
COMMIT = "8a58a132790c9935686eb97f042afa8013451c9f"


def names(hub: Hub) -> list[str]:
    """The files of which the hub sent bytes, one entry per request."""
    return [path.partition("//")[2] for path in hub.fetched()]


def command_lines() -> list[str]:
    """The command lines of all processes on this machine."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found


# --- what a sync does


@pytest.mark.parametrize("changes", [{}, HUGGING_FACE], ids=["modelscope", "huggingface"])
def test_an_empty_bucket_gets_every_file_once_without_git_and_a_manifest(room: Room, changes):
    ended = room.run(**changes)
    assert ended.status == 0, ended.lines
    room.assert_whole()
    assert sorted(names(room.hub)) == sorted(path for path, data in WANTED.items() if data)
    assert ended.lines[0].startswith("0 of 7 files, 0.0 of 10.0 MiB, 0.0 Gbit/s")
    assert ended.lines[-2].startswith("7 of 7 files, 10.0 of 10.0 MiB, ") and ended.lines[-2].endswith(" Gbit/s")
    assert ended.lines[-1] == "done: 7 files, 10.0 MiB, each checked against the hub's list"


def test_a_second_run_only_asks_for_the_hubs_list(room: Room):
    room.run()
    room.hub.seen.clear()
    ended = room.run()
    assert ended.status == 0
    assert ended.lines == ["nothing to do: all 7 files, 10.0 MiB, are in the bucket"]
    assert [seen.path for seen in room.hub.seen] == [f"/api/v1/models/{REPOSITORY}/repo/files"]


def test_a_commit_that_is_there_needs_no_hub_at_all(room: Room):
    room.run(REVISION=COMMIT)
    room.hub.seen.clear()
    assert room.run(REVISION=COMMIT).lines == ["nothing to do: all 7 files, 10.0 MiB, are in the bucket"]
    assert room.hub.seen == []


@pytest.mark.parametrize("leaves", ["", pytest.param("original/*", marks=SOAK)])
def test_a_hub_that_is_away_does_not_hold_up_a_bucket_that_has_all_that_is_needed(room: Room, leaves):
    room.run()
    room.hub.faults.append(Fault("repo/files", times=99, status=503))
    ended = room.run(ATTEMPTS="2", WEIGHTS="model*.safetensors", LEAVES=leaves)
    assert ended.status == 0
    assert "answers 503; gave up after 2 attempts; the bucket holds" in ended.lines[-2]
    assert room.hub.fetched().count("x") == 0 and ended.lines[-1].startswith("nothing to do")


def test_a_new_revision_brings_what_changed_and_takes_away_what_it_dropped(room: Room):
    room.run()
    room.hub.seen.clear()
    other = MODEL | {SHARDS[1]: MODEL[SHARDS[0]][: len(MODEL[SHARDS[1]])], "new.json": b"{}"}
    del other[SHARDS[2]]
    room.hub._repositories = {REPOSITORY: other}
    assert room.run().status == 0
    room.assert_whole({path: data for path, data in other.items() if not path.startswith(".git/")})
    assert sorted(names(room.hub)) == [SHARDS[1], "new.json"]


def test_what_no_engine_reads_is_left_out_and_taken_away_where_an_earlier_sync_brought_it(room: Room):
    unread = {"original/model.safetensors": b"o" * (2 << 20), "metal/model.bin": b"m" * (1 << 20)}
    room.hub._repositories = {REPOSITORY: MODEL | unread}
    assert room.run(REVISION=COMMIT).status == 0
    room.assert_whole(WANTED | unread)
    rule = {"WEIGHTS": "model*.safetensors", "LEAVES": "metal/* original/* *.pth", "REVISION": COMMIT}
    room.hub.seen.clear()
    ended = room.run(**rule)
    assert ended.status == 0, ended.lines
    told = "left out, for the engine reads another copy: 2 files, 3.0 MiB: metal/*, original/*"
    assert ended.lines[0] == told and ended.lines[-1].startswith("done: 7 files, 10.0 MiB")
    room.assert_whole()
    assert names(room.hub) == [] and room.run(**rule).lines[-1].startswith("nothing to do: all 7 files, 10.0 MiB")
    # A later sync that wants these files gets them, although the revision is the same.
    assert room.run(REVISION=COMMIT).status == 0
    room.assert_whole(WANTED | unread)


def test_what_a_killed_sync_brought_of_what_is_left_out_is_no_strangers(room: Room):
    room.hub._repositories = {REPOSITORY: MODEL | {"original/model.safetensors": b"o" * (9 << 20)}}
    room.hub.faults.append(Fault(SHARDS[0], hold=0))
    killed = room.start(PARALLEL="2")
    eventually(lambda: "original/model.safetensors" in room.stored(), "it does not arrive")
    kill(killed)
    room.hub.faults[0].released.set()
    room.hub.faults.clear()
    assert room.run(WEIGHTS="model*.safetensors", LEAVES="original/*").status == 0
    room.assert_whole()


def test_scratch_bounds_what_is_under_way_at_once(room: Room):
    hold = Fault(SHARDS[0], hold=1000)
    room.hub.faults.append(hold)
    # 0.9 of the scratch space holds the largest file, but no second shard beside it.
    process = room.start(SCRATCH_GIB=str(5.9 * 2**20 / 2**30))
    try:
        assert hold.reached.wait(PATIENCE_SECONDS)
        assert not set(SHARDS[1:]) & set(names(room.hub))
        hold.released.set()
        process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        kill(process)
    room.assert_whole()


def test_the_same_files_from_another_hub_are_not_fetched_again(room: Room):
    room.run()
    room.hub.seen.clear()
    assert room.run(**HUGGING_FACE).lines == ["nothing to do: all 7 files, 10.0 MiB, are in the bucket"]
    (room.objects / MANIFEST).unlink()
    assert room.run(**HUGGING_FACE).status == 0
    assert names(room.hub) == []
    room.assert_whole()


# --- killed at any byte


@pytest.mark.parametrize(
    ("shard", "at"),
    [
        pytest.param(shard, at, marks=() if (shard, at) == (0, 1 << 20) else SOAK)
        for shard in range(3)
        for at in (0, 1 << 20)
    ],
)
def test_after_a_kill_no_file_is_fetched_that_had_arrived(room: Room, shard, at):
    hold = Fault(SHARDS[shard], hold=at)
    room.hub.faults.append(hold)
    process = room.start(PROGRESS_SECONDS="0.02")
    try:
        assert hold.reached.wait(PATIENCE_SECONDS)
        assert any("6 of 7 files" in line for line in process.stdout), "the others do not arrive"
    finally:
        kill(process)
    assert MANIFEST not in room.stored()
    room.hub.seen.clear()
    assert room.run().status == 0
    assert names(room.hub) == [SHARDS[shard]]
    room.assert_whole()


@pytest.mark.soak
def test_killed_again_and_again_it_gets_there_and_trusts_no_half_of_anything(room: Room):
    for requests in range(2, 30, 3):
        room.hub.seen.clear()
        process = room.start(PARALLEL="2")
        try:
            eventually(lambda n=requests, p=process: len(room.hub.seen) >= n or p.poll() is not None, "nothing happens")
        finally:
            kill(process)
    assert room.run().status == 0
    room.assert_whole()


def test_after_a_kill_between_the_last_file_and_the_manifest_only_the_manifest_is_written(room: Room):
    room.run()
    (room.objects / MANIFEST).unlink()
    room.hub.seen.clear()
    assert room.run().status == 0
    assert names(room.hub) == []
    room.assert_whole()


def test_being_told_to_end_ends_at_once(room: Room):
    hold = Fault(SHARDS[0], hold=1000)
    room.hub.faults.append(hold)
    process = room.start()
    try:
        assert hold.reached.wait(PATIENCE_SECONDS)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        kill(process)
    assert process.returncode == 128 + signal.SIGTERM
    # A thread whose copy is interrupted may still print a line afterwards.
    assert "modelserve: sync: told to end; what has arrived stays" in output.splitlines()


# --- what passes


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault(SHARDS[0], cut=1 << 20), id="truncated"),
        pytest.param(Fault(SHARDS[0], corrupt=True), id="corrupted", marks=SOAK),
        pytest.param(Fault(SHARDS[0], reset=1 << 20), id="reset", marks=SOAK),
        pytest.param(Fault(SHARDS[0], status=502, times=2), id="502", marks=SOAK),
        pytest.param(Fault("repo/files", status=500), id="500 for the list", marks=SOAK),
        pytest.param(Fault("/resolve/.*config.json", status=429, times=3, retry_after=0), id="429", marks=SOAK),
        pytest.param(Fault("repo/files", status=429), id="429 for the list"),
    ],
)
def test_what_passes_is_tried_again_and_heals(room: Room, fault):
    room.hub.faults.append(Fault(**{**vars(fault), "reached": fault.reached, "released": fault.released}))
    ended = room.run()
    assert ended.status == 0, ended.lines
    assert any("; attempt 2 of 8 in " in line for line in ended.lines)
    room.assert_whole()


def test_a_retry_after_is_honoured_by_every_thread(room: Room):
    room.hub.faults.append(Fault("/resolve/", status=429, times=14, retry_after=1))
    ended = room.run()
    assert ended.status == 0, ended.lines
    told = [line for line in ended.lines if "answers 429; attempt" in line]
    assert told and all(line.endswith(" in 1 s") for line in told)
    room.assert_whole()


def test_what_does_not_pass_ends_with_the_code_for_another_run(room: Room):
    room.hub.faults.append(Fault(SHARDS[0], times=99, cut=100))
    ended = room.run(ATTEMPTS="3")
    assert ended.status == 2
    assert ended.lines[-1].startswith(f"failed for now: {SHARDS[0]}: ")
    assert ended.lines[-1].endswith("gave up after 3 attempts")
    assert MANIFEST not in room.stored()


def test_a_hub_that_nobody_answers_for_is_named(room: Room):
    ended = room.run(HUB_URL="http://127.0.0.1:9", ATTEMPTS="2")
    assert ended.status == 2
    assert ended.lines[-1] == (
        "failed for now: the hub's file list: http://127.0.0.1:9 cannot be reached: "
        "[Errno 111] Connection refused; gave up after 2 attempts"
    )


# --- what does not


def test_a_file_that_stays_corrupt_is_given_up_early_and_never_reaches_the_bucket(room: Room):
    room.hub.faults.append(Fault(SHARDS[2], times=99, corrupt=True))
    ended = room.run()
    assert ended.status == 1
    assert ended.lines[-1].startswith(f"failed: {SHARDS[2]}: its hash is not the listed ")
    assert ended.lines[-1].endswith(", 3 times: the hub's list and its file disagree; take another source or revision")
    assert not {SHARDS[2], MANIFEST} & room.stored().keys()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"KEY_SECRET": "canary-wrong"}, " refuses the access key ("),
        ({"KEY_ID": "canary-nobody"}, " refuses the access key ("),
        ({"BUCKET": "nowhere"}, "there is no bucket nowhere at this endpoint: check name and region"),
        (
            {"REPOSITORY": "deepseek-ai/DeepSeek-R9"},
            "does not know deepseek-ai/DeepSeek-R9 at revision master (404): "
            "check the repository's name and the revision",
        ),
        (
            {"SCRATCH_GIB": "0.001"},
            "no space: model-00001-of-00003.safetensors has 5.0 MiB, scratch is set to 1.0 MiB of which 90% may be "
            "used: give the sync more scratch",
        ),
    ],
    ids=["wrong secret", "unknown key", "unknown bucket", "unknown repository", "no space"],
)
def test_what_no_attempt_heals_fails_at_once_with_one_line(room: Room, changes, said):
    ended = room.run(**changes)
    assert ended.status == 1
    assert said in ended.lines[-1] and ended.lines[-1].startswith("failed: ")
    assert not any("attempt 2" in line for line in ended.lines)
    assert room.stored() == {}


@pytest.mark.parametrize("token", ["", "canary-other"], ids=["no token", "a wrong one"])
def test_a_private_repository_asks_for_the_token(room: Room, token):
    room.hub.token = TOKEN
    ended = room.run(HUB_TOKEN=token)
    remedy = "the token may not read it" if token else "a private or gated one needs the hub's token"
    assert ended.status == 1
    assert ended.lines[-1].endswith(f" (401): check the repository's name; {remedy}")


def test_what_somebody_else_put_under_the_prefix_is_named_before_anything_is_moved(room: Room):
    (room.objects / ".git/lfs").mkdir(parents=True)
    (room.objects / ".git/lfs/x").write_bytes(b"x" * (1 << 20))
    (room.objects / "mine.txt").touch()
    ended = room.run()
    assert ended.status == 1
    assert ended.lines == [
        "failed: 2 objects of 1.0 MiB lie under the prefix and are none of the files to copy of "
        "deepseek-ai/DeepSeek-R1, such as .git/lfs/x: delete them or choose another prefix"
    ]
    assert room.hub.fetched() == []


def test_a_path_that_leads_out_of_the_prefix_is_refused(room: Room):
    room.hub._repositories = {REPOSITORY: MODEL | {"../../other/model": b"x"}}
    ended = room.run()
    assert ended.status == 1
    assert "lists a file called '../../other/model', which is no path" in ended.lines[-1]


# --- what was there already


@pytest.mark.parametrize("changes", [pytest.param({}, marks=SOAK), HUGGING_FACE], ids=["modelscope", "huggingface"])
def test_what_was_uploaded_by_hand_is_read_back_and_kept_if_it_is_right(room: Room, changes):
    by_hand = {
        SHARDS[0]: MODEL[SHARDS[0]],
        "config.json": MODEL["config.json"],
        SHARDS[1]: b"y" * len(MODEL[SHARDS[1]]),
    }
    room.objects.mkdir(parents=True)
    for path, data in by_hand.items():
        (room.objects / path).write_bytes(data)
    before = (room.objects / SHARDS[0]).stat().st_mtime_ns
    assert room.run(**changes).status == 0
    assert not {SHARDS[0], "config.json"} & set(names(room.hub)) and SHARDS[1] in names(room.hub)
    assert (room.objects / SHARDS[0]).stat().st_mtime_ns == before
    room.assert_whole()


def test_an_object_that_is_lost_or_changed_is_brought_again(room: Room):
    room.run()
    room.hub.seen.clear()
    (room.objects / SHARDS[0]).unlink()
    (room.objects / "config.json").write_bytes(b"{}")
    assert room.run().status == 0
    assert sorted(names(room.hub)) == sorted([SHARDS[0], "config.json"])
    room.assert_whole()


# --- secrets


@pytest.mark.parametrize("changes", [pytest.param({}, marks=SOAK), HUGGING_FACE], ids=["modelscope", "huggingface"])
def test_no_secret_is_in_an_argument_list_and_the_token_stays_with_its_hub(room: Room, changes):
    room.hub.token = TOKEN
    holds = [Fault(SHARDS[0], hold=1000), Fault(SHARDS[1], hold=1000)]
    room.hub.faults += holds
    process = room.start(HUB_TOKEN=TOKEN, **changes)
    try:
        assert all(hold.reached.wait(PATIENCE_SECONDS) for hold in holds)
        lines = [line for line in command_lines() if "copyurl" in line and room.hub.url in line]
        assert len(lines) >= 2, "nothing was looked at"
        assert not [line for line in command_lines() if TOKEN in line or KEY_SECRET in line]
        for hold in holds:
            hold.released.set()
        output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        kill(process)
    assert process.returncode == 0 and "canary" not in output, output
    room.assert_whole()
    # The hub answers 400 if the token is sent after the redirect; so it was sent only where it belongs.
    shown = f"Bearer {TOKEN}" if changes else f"m_session_id={TOKEN}"
    assert {seen.credentials for seen in room.hub.seen if "/cdn/" not in seen.path} == {shown}
    assert {seen.status for seen in room.hub.seen if "/cdn/" in seen.path} == {200}


def test_the_prefix_and_nothing_beside_it_is_touched(room: Room):
    beside = room.objects.parent / "other" / "model.bin"
    beside.parent.mkdir(parents=True)
    beside.write_bytes(b"x")
    assert room.run().status == 0
    bucket = room.objects.parents[1]
    assert {str(file.relative_to(bucket)).startswith(PREFIX) for file in bucket.rglob("*") if file.is_file()} == {
        True,
        False,
    }
    assert beside.read_bytes() == b"x"
    shutil.rmtree(beside.parent)
